"""Ray, as far as a sweep over many machines (`driver`) needs it."""

import importlib.util
import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from bench.measure.cluster.on_node import Job, measure
from bench.study.errors import UsageError
from bench.study.folders import CODE, IN_CHECKOUT
from bench.study.units import MIB

CONNECT_S, HEALTH_S = 5, 30
# What a node needs of the working tree.
SENT = ("bench", "codevar")
# Of a cluster that is started here.  Ray would call home, end the worker of a case for which memory
# runs out instead of the case, and run all at low priority.
BESIDES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
}
OBJECT_STORE_BYTES = 100 * MIB  # records are small


class WorkerLostError(Exception):
    """A task that no longer answers; the message is why, in a few words."""


@dataclass(frozen=True)
class Node:
    """kinds: what `--on` may call it, in lower case."""

    id: str
    name: str
    cpus: float
    gpus: int
    kinds: frozenset[str]

    def room(self, device: str) -> int:
        """How many cases at a time.  A case on a CPU wants all cores; on a GPU, the card."""
        return self.gpus if device == "cuda" else int(self.cpus >= 1)


class Cluster:
    """Ray, as far as a sweep needs it.  Raises UsageError where there is none."""

    def __init__(self, address: str) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UsageError("--cluster needs Ray: pip install -e '.[cluster]'")
        if not IN_CHECKOUT:
            raise UsageError("--cluster sends the project to the nodes: run it from a checkout")
        for variable, value in BESIDES.items():
            os.environ.setdefault(variable, value)
        import ray

        self.ray = ray
        others = [f"/{path.name}" for path in CODE.iterdir() if path.name not in SENT]
        tree = {"working_dir": str(CODE), "excludes": [*others, "__pycache__"]}
        options: dict[str, Any] = {}
        if address == "local":
            options = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        elif address != "auto":
            knock(address)
        try:
            ray.init(
                address=address,
                runtime_env=tree,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as e:
            raise UsageError(f"--cluster {address}: {last_line(e)}") from None

    def nodes(self) -> list[Node]:
        """Those that are up and can run something."""
        found = [node_of(told) for told in self.ray.nodes() if told["Alive"]]
        return [node for node in found if node.gpus or node.cpus >= 1]

    def start(self, node: Node, job: Job) -> Any:
        """Starts `measure` on that node, once it is free; the stream of its answers.

        It holds its share of the node's CPUs, so that nothing else of Ray's runs beside it: on a
        CPU all, on a GPU those of one card.  It waits until its last answer is taken.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        on_gpu = job.device == "cuda"
        task = self.ray.remote(measure).options(
            num_gpus=int(on_gpu),
            num_cpus=int(node.cpus / node.gpus if on_gpu else node.cpus),
            max_retries=0,
            num_returns="streaming",
            _generator_backpressure_num_objects=1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        return task.remote(job)

    def wait(self, streams: list[Any], seconds: float) -> list[Any]:
        """Those that have an answer, or never will."""
        return self.ray.wait(streams, timeout=seconds)[0]

    def answer(self, stream: Any) -> Any:
        """The next answer; None if that was all.  Raises WorkerLostError."""
        from ray import exceptions

        try:
            return self.ray.get(next(stream))
        except StopIteration:
            return None
        except exceptions.RayTaskError as e:  # the worker lives, but the task failed
            raise WorkerLostError(last_line(e.cause)) from None
        except exceptions.RayError as e:
            raise WorkerLostError(last_line(e)) from None

    def cancel(self, stream: Any) -> None:
        """Ends the task, and the process of its case."""
        self.ray.cancel(stream)

    def close(self) -> None:
        """Leaves the cluster; its tasks of this sweep end."""
        self.ray.shutdown()


def knock(address: str) -> None:
    """Refuses an address at which no cluster answers; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in host:
        raise UsageError(f"--cluster must be local, auto or HOST:PORT, not {address!r}")
    nobody = f"--cluster {address}: no Ray cluster answers there; ray start --head starts one"
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as e:
        raise UsageError(f"{nobody} ({getattr(e, 'strerror', None) or e})") from None
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=HEALTH_S)
    except subprocess.TimeoutExpired:
        raise UsageError(f"{nobody} (something else has the port)") from None
    if "AuthenticationError" in done.stderr:
        raise UsageError(
            f"--cluster {address}: the cluster asks for a token: RAY_AUTH_MODE=token and its "
            "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"
        )
    if done.returncode == 1:
        said = done.stderr.strip().splitlines()[-1:] or ["its health check failed"]
        raise UsageError(f"{nobody} ({said[0][:200]})")


def last_line(e: BaseException) -> str:
    """Where Ray says what it was."""
    return (str(e).strip().splitlines() or [type(e).__name__])[-1]


def node_of(told: dict[str, Any]) -> Node:
    """A node from what `ray.nodes` says of it."""
    has = told["Resources"]
    kinds = {key.removeprefix("accelerator_type:").lower() for key in has}
    kinds -= {"cpu", "gpu", "memory", "object_store_memory"}
    named = told["NodeName"] not in ("", told["NodeManagerAddress"])  # ray start --node-name
    return Node(
        id=told["NodeID"],
        name=told["NodeName"] if named else told["NodeManagerHostname"],
        cpus=has.get("CPU", 0),
        gpus=int(has.get("GPU", 0)),
        kinds=frozenset(kind for kind in kinds if not kind.startswith("node:")),
    )
