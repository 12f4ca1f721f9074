"""Nodes that are not there: a cluster without Ray, and cases without processes."""

from __future__ import annotations

import itertools
from typing import Any

from bench.measure import runner
from bench.measure.cluster.nodes import Died, Node
from bench.study import experiment

TINY = """
title = "tiny"
baseline = { method = "var" }
rounds = 2
samples = 1
warmup = 0
max_seconds = 0.1
[defaults]
depth = 2
batch_size = [1, 2]
precision = "float32"
[[cases]]
method = "var"
[[cases]]
method = "variant"
subnet_depth = 2
"""
SAMPLES = {
    "warmup_latency_s": [],
    "steady": True,
    "latency_s": [1.0],
    "scale_latency_s": [[0.1] * 10],
    "vqvae_latency_s": [0.1],
    "discarded_latency_s": [],
    "discarded_for": [],
    "energy_j": None,
    "stopped_by": "time",
}
RESULT = {
    "status": "ok",
    "samples": SAMPLES,
    "memory": {
        **dict.fromkeys(("params_mib", "kv_cache_mib", "running_mib", "total_mib"), 1.0),
        "kv_cache_by_scale_mib": [1.0] * 10,
    },
}


def tiny(tmp_path, *changes: str, device: str = "cpu"):
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return experiment.load(str(file), changes, device=device)


def node(name: str, gpus: int = 0, cpus: float = 2, kind: str = "") -> Node:
    return Node(name, name, cpus, gpus, frozenset({kind} - {""}))


class Pretended:
    """A cluster whose slots answer in turn, one at each `wait`.

    up: its nodes by name, for a test to take away.  machines: what their machines are called.
    events: called with (node name, case, round) before a measurement is answered; what it raises
    is what becomes of the slot, and "ok" what it returns otherwise.
    """

    def __init__(self, *nodes: Node, memory_gib: dict[str, float] | None = None) -> None:
        self.up = {node.name: node for node in nodes}
        self.memory_gib = memory_gib or {}
        self.machines: dict[str, str] = {}
        self.hosts: dict[str, str] = {}
        self.cards: dict[str, list[str]] = {}
        self.asked: list[tuple[int, dict[str, Any], str, tuple]] = []
        self.ran: list[tuple[str, str, int]] = []
        self.numbers = itertools.count()
        self.event = lambda name, case, round_: None

    def nodes(self) -> list[Node]:
        return list(self.up.values())

    def hire(self, node: Node, device: str, sweep: Any, *_: Any) -> dict[str, Any]:
        number = next(self.numbers)
        return {"node": node, "device": device, "sweep": sweep, "number": number, "gone": False}

    def ask(self, actor: dict[str, Any], method: str, *arguments: Any) -> tuple:
        self.asked.append((next(self.numbers), actor, method, arguments))
        return self.asked[-1]

    def wait(self, asked: list, seconds: float) -> list:
        assert asked, "everybody idles and nobody is let go"
        return [min(asked, key=lambda one: one[0])]

    def answer(self, asked: tuple) -> Any:
        _, actor, method, arguments = asked
        name = actor["node"].name
        if name not in self.up:
            raise Died("its worker died")
        if method == "about":
            return self.about(actor)
        case, round_ = arguments
        result = self.event(name, case, round_) or RESULT
        if name not in self.up:
            raise Died("its worker died")
        self.ran.append((name, case.label + f" b{case.batch_size}", round_))
        env = self.env(actor)
        record = runner.as_record(case, actor["sweep"], env, round_, result, 0.0, "now", 1.0)
        return record, "what it said"

    def about(self, actor: dict[str, Any]) -> dict[str, Any]:
        name, number = actor["node"].name, actor["number"]
        cards = self.cards.get(name, [f"{name}-{number}"]) if actor["device"] == "cuda" else []
        host = self.hosts.get(name, name)
        about = {"env": self.env(actor), "host": host, "cards": cards}
        return {**about, "gpu": str(number), "warnings": []}

    def env(self, actor: dict[str, Any]) -> dict[str, Any]:
        name = actor["node"].name
        memory = {"name": "a GPU", "memory_gib": self.memory_gib.get(name, 16.0)}
        return {
            "machine": self.machines.get(name, name),
            "cpu": "a CPU",
            "cpu_threads": 2,
            "gpus": [memory] if actor["device"] == "cuda" else [],
            "cuda": None,
            "cudnn": None,
            "packages": {"torch": "2"},
            "commit": "0" * 40,
            "dirty": False,
            **memory,
        }

    def dismiss(self, actor: dict[str, Any]) -> None:
        assert not actor["gone"]
        actor["gone"] = True
