"""How much memory a case may take, and what becomes of one that needs more.

A case that cannot fit is not started (`foresee_out_of_memory`).  One that starts on a CPU is
watched from outside and ended above its limit (`MemoryWatch`); on a GPU the allocator refuses.  No
verdict rests on an exception's words: which allocation fails first, and what is said then, depends
on the machine.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil

from bench.measure import machine
from bench.predict.prediction import RUNNING_WITHIN, prediction_or_none
from bench.study.cases import Case, make_case
from bench.study.records import OUT_OF_MEMORY, Record
from bench.study.units import GIB, MIB

SAMPLE_EVERY_S = 0.05  # a process fills some 0.2 GiB meanwhile


def memory_limit_of(case: Case, env: dict[str, Any]) -> float:
    """Bytes that a case may take: its `memory_limit_gib`, or less where its device has less.

    On a GPU that is its memory as `machine.environment` has it; on a CPU what is free now, in the
    container too, and what `ulimit` leaves.  Infinite if nothing is known.
    """
    limits = [math.inf if case.memory_limit_gib is None else case.memory_limit_gib * GIB]
    if case.device == "cpu":
        limits += [machine.available_bytes(), ulimit_left()]
    else:
        index = int(case.device.partition(":")[2] or 0)
        limits += [gpu["memory_gib"] * GIB for gpu in env["gpus"][index : index + 1]]
    return min(limits)


def ulimit_left() -> float:
    """Bytes that `ulimit -d` and `ulimit -v` leave to a process with torch in it, as this is one.
    Infinite without such limits."""
    used = psutil.Process().memory_info()
    held = {resource.RLIMIT_DATA: getattr(used, "data", 0), resource.RLIMIT_AS: used.vms}
    limits = {kind: resource.getrlimit(kind)[0] for kind in held}
    left = [limits[kind] - held[kind] for kind in held if limits[kind] != resource.RLIM_INFINITY]
    return min(left, default=math.inf)


def foresee_out_of_memory(
    case: Case, limit: float, records: Sequence[Record]
) -> dict[str, Any] | None:
    """The result of a case that is not started, as it would run out of memory: weights and KV
    cache alone exceed the limit, or these records have it so with a smaller batch.  Else None."""
    told = prediction_or_none(case)
    need = told.need_bytes if told else 0
    if need > limit:
        needs, most = format_bytes(need), format_bytes(limit)
        reason = f"needs {needs} for weights and KV cache, may take {most}"
        return {"status": "oom_predicted", "reason": reason}
    smaller = [
        record.batch_size
        for record in records
        if record.status in OUT_OF_MEMORY
        and record.batch_size < case.batch_size
        and make_case(record.case | {"batch_size": case.batch_size}) == case
    ]
    if smaller:
        return {"status": "oom_implied", "reason": f"batch {min(smaller)} ran out of memory"}
    return None


def may_exceed(case: Case, limit: float) -> bool:
    """Whether the whole decode, as predicted, comes near the limit or above it."""
    told = prediction_or_none(case)
    return told is not None and told.total_bytes * (1 + RUNNING_WITHIN) > limit


def fits_beside(case: Case, other: Case, limit: float) -> bool:
    """Whether one process has room for both, each with its weights and one of them decoding; as far
    as that is known."""
    one, two = prediction_or_none(case), prediction_or_none(other)
    if not (one and two):
        return True
    most = max(one.total_bytes + two.params_bytes, two.total_bytes + one.params_bytes)
    return most <= limit


def resident_bytes(process: psutil.Process) -> int:
    """Memory that is the process's own: pages of files, as of libraries, can be dropped."""
    used = process.memory_info()
    return used.rss - getattr(used, "shared", 0)


def format_bytes(n: float) -> str:
    """Bytes for a reader: "1.5 GiB", "37 MiB"."""
    return f"{n / GIB:.1f} GiB" if n >= GIB / 10 else f"{n / MIB:.0f} MiB"


class MemoryWatch(threading.Thread):
    """Ends a child and its process group once it holds more than a limit over what it began with.

    ready: the read end of a pipe; the child closes the other end once its imports are done, and
    what it holds by then (interpreter, libraries) does not count.
    peak_bytes: the most it held over that.  ended: whether it was ended for it.
    """

    def __init__(self, child: subprocess.Popen[bytes], ready: int, limit_bytes: float) -> None:
        super().__init__(daemon=True)
        self.child, self.ready, self.limit_bytes = child, ready, limit_bytes
        self.peak_bytes, self.ended = 0, False
        self._stopped = threading.Event()

    def __enter__(self) -> MemoryWatch:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Watches until the child ends, exceeds its limit, or the context is left."""
        with os.fdopen(self.ready, "rb") as pipe, suppress(psutil.Error):
            child = psutil.Process(self.child.pid)
            pipe.read()  # until the child closes its end, or ends
            began_with = resident_bytes(child)
            while not self._stopped.wait(SAMPLE_EVERY_S):
                held = resident_bytes(child) - began_with
                self.peak_bytes = max(self.peak_bytes, held)
                if held > self.limit_bytes:
                    self.ended = True
                    with suppress(ProcessLookupError):
                        os.killpg(self.child.pid, signal.SIGKILL)
                    return
