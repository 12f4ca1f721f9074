"""Nodes that are not there: a cluster without Ray, and cases without processes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from bench.measure import runner
from bench.measure.cluster import on_node
from bench.measure.cluster.nodes import Node, WorkerLostError
from bench.measure.cluster.on_node import Job
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
    """A cluster whose tasks answer in turn, one at each `wait`; what runs on its nodes is real but
    for the processes of the cases.

    up: its nodes by name, for a test to take away.  machines: what their machines are called.
    event: called with (node name, case, round) before a measurement is answered; what it raises
    is what becomes of the task, what it returns is the result, if not None.
    """

    def __init__(self, *nodes: Node, memory_gib: dict[str, float] | None = None) -> None:
        self.up = {node.name: node for node in nodes}
        self.memory_gib = memory_gib or {}
        self.machines: dict[str, str] = {}
        self.hosts: dict[str, str] = {}
        self.cards: dict[str, list[str]] = {}
        self.ran: list[tuple[str, str, int]] = []
        self.gpus_in_use: dict[str, set[int]] = {}
        self.turns = itertools.count()
        self.event = lambda name, case, round_: None

    def nodes(self) -> list[Node]:
        return list(self.up.values())

    def start(self, node: Node, job: Job) -> SimpleNamespace:
        used = self.gpus_in_use.setdefault(node.name, set())
        gpu = next(i for i in itertools.count() if i not in used)
        used.add(gpu)
        assert len(used) <= node.room(job.device), "more tasks than the node has room for"
        stream = SimpleNamespace(node=node.name, gpu=gpu, turn=next(self.turns))
        stream.answers = on_node.measure(replace(job, node=f"{node.name}#{gpu}"))
        return stream

    def wait(self, streams: list, seconds: float) -> list:
        assert streams, "everybody idles and the sweep does not end"
        return [min(streams, key=lambda stream: stream.turn)]

    def answer(self, stream: SimpleNamespace) -> Any:
        stream.turn = next(self.turns)
        try:
            here = {"describe": self.describe, "measure_case": self.measure_case}
            with patch.multiple(on_node, **here):
                if stream.node in self.up and (answer := next(stream.answers, None)) is not None:
                    return answer
            if stream.node not in self.up:
                raise WorkerLostError("its worker died")
        except WorkerLostError:
            self.cancel(stream)
            raise
        self.cancel(stream)
        return None

    def cancel(self, stream: SimpleNamespace) -> None:
        self.gpus_in_use[stream.node].discard(stream.gpu)

    def describe(self, job: Job) -> dict[str, Any]:
        name, gpu = job.node.split("#")
        on_gpu = job.device == "cuda"
        memory = {"name": "a GPU", "memory_gib": self.memory_gib.get(name, 16.0)}
        env = {
            "machine": self.machines.get(name, name),
            "cpu": "a CPU",
            "cpu_threads": 2,
            "gpus": [memory] if on_gpu else [],
            "cuda": None,
            "cudnn": None,
            "packages": {"torch": "2"},
            "commit": "0" * 40,
            "dirty": False,
            **memory,
        }
        return {
            "env": env,
            "host": self.hosts.get(name, name),
            "cards": self.cards.get(name, [f"{name}-{gpu}"]) if on_gpu else [],
            "gpu": gpu,
            "place": f"{name} GPU {gpu}" if on_gpu else name,
            "warnings": [],
        }

    def measure_case(self, job: Job, case: Any, round_: int, env: dict[str, Any]) -> tuple:
        name = job.node.split("#")[0]
        result = self.event(name, case, round_) or RESULT
        if name not in self.up:
            raise WorkerLostError("its worker died")
        self.ran.append((name, case.label + f" b{case.batch_size}", round_))
        record = runner.make_record(case, job.sweep, env, round_, result, 0.0, "now", 1.0)
        return record, "what it said"
