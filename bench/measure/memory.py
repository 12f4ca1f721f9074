"""Memory of a decode in the papers' four parts: params, KV cache, running, total.

params and KV cache are the tensors themselves; total is the allocator's peak; running is the
rest.  On a GPU the caching allocator tells its peak.  A CPU has none, so the profiler's record
of every allocation is added up.  The process's own figure (NVML, or peak resident set) stands
beside them.

That the parts add up says nothing by itself, as running is a difference.  So between scales,
where no operator runs, the allocator is held against the tensors that Python knows: each byte
must belong to one of them, or to cuBLAS.
"""

import gc
import resource
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from bench.measure.card import Card
from bench.methods.loaded import Made
from bench.study.records import MemoryUse
from bench.study.units import MIB
from codevar import graphs
from codevar.outputs import OnScale

TENSORS = {torch.Tensor, nn.Parameter}
UNACCOUNTED_MIB = 1.0  # what may lie between allocator and tensors


def tensor_bytes(models: Iterable[nn.Module]) -> int:
    """Bytes of the weights, shared ones once."""
    weights = {storage_of(p)[0]: p.nbytes for model in models for p in model.parameters()}
    return sum(weights.values())


def storage_of(tensor: torch.Tensor) -> tuple[int, int]:
    """What a tensor keeps in memory: something that tells it from others, and bytes.  Weights
    packed for a CPU's kernels have no storage to ask."""
    if tensor.is_mkldnn:
        return id(tensor), tensor.nbytes
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def measure_memory(
    run: Callable[[OnScale], Made], models: Iterable[nn.Module], device: torch.device
) -> tuple[MemoryUse, Made]:
    """Runs one decode and accounts for it; what it made comes back too."""
    params = tensor_bytes(models)
    made, held = _on_cuda(run, device, params) if device.type == "cuda" else _on_cpu(run, params)
    kv_cache, total = max(made.kv_cache_bytes), max(held["peak_by_scale"])
    held |= {"params": params, "kv_cache": kv_cache, "total": total}
    held |= {"running": total - params - kv_cache, "kv_cache_by_scale": made.kv_cache_bytes}
    held["process"], by = process_bytes(device)
    held["unaccounted"] = max(map(abs, held["unaccounted"]))
    in_mib: dict[str, Any] = {
        f"{part}_mib": n / MIB if isinstance(n, int) else [b / MIB for b in n]
        for part, n in held.items()
    }
    accounted = in_mib["unaccounted_mib"] <= UNACCOUNTED_MIB
    return MemoryUse(**in_mib, accounted=accounted, process_by=by), made


def known_bytes(device: torch.device) -> int:
    """Bytes of all tensors on the device that Python knows, what they share once."""
    found = {}
    for thing in gc.get_objects():
        # isinstance would wake up lazy modules
        if type(thing) in TENSORS and thing.device == device:
            where, nbytes = storage_of(thing)
            found[where] = nbytes
    return sum(found.values())


def is_counted_after(k: int) -> bool:
    """Whether tensors are counted after step k; -1 is the end.  It takes a walk over all of
    Python's objects, so of hundreds of steps only after some."""
    return k <= 16 or k % 32 == 0


def _on_cuda(
    run: Callable[[OnScale], Made], device: torch.device, params: int
) -> tuple[Made, dict[str, Any]]:
    """Runs the decode between readings of the caching allocator; gives bytes under the names of
    `MemoryUse`, those unaccounted for before each scale, after the last, and at the end."""
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # so that `reserved` is of this decode
    others = known_bytes(device) - params  # nothing, in a process of its own
    unaccounted, readings = list[int](), []

    def on_scale(k: int) -> None:
        readings.append(now := torch.cuda.memory_stats(device))
        # As requested: allocated is rounded up to 512 bytes a tensor.
        if is_counted_after(k):
            unaccounted.append(now["requested_bytes.all.current"] - known_bytes(device))
        torch.cuda.reset_peak_memory_stats(device)

    with graphs.launched():
        made = run(on_scale)
    on_scale(-1)
    torch._C._cuda_clearCublasWorkspaces()  # the next product takes them again
    cleared = torch.cuda.memory_stats(device)["requested_bytes.all.current"]
    end = readings.pop()["requested_bytes.all.current"]
    workspace, during = end - cleared, readings[1:]

    def highest(name: str) -> int:
        return max(reading[f"{name}.all.peak"] for reading in during)

    peaks = [reading["allocated_bytes.all.peak"] - others for reading in during]
    return made, {
        "unaccounted": [b - workspace for b in unaccounted],
        "workspace": workspace,
        "peak_by_scale": peaks,
        "live_by_scale": [reading["allocated_bytes.all.current"] - others for reading in during],
        "rounding": max(peaks) - (highest("requested_bytes") - others),
        "reserved": highest("reserved_bytes"),
        "fragmentation": highest("reserved_bytes") - max(peaks) - others,
        "inactive_split": highest("inactive_split_bytes"),
    }


def _on_cpu(run: Callable[[OnScale], Made], params: int) -> tuple[Made, dict[str, Any]]:
    """The same, by replaying the profiler's allocations on top of the weights."""
    known: list[int | None] = []

    def mark(k: int) -> None:
        with record_function(f"after scale {k}"):
            pass
        known.append(known_bytes(torch.device("cpu")) if is_counted_after(k) else None)

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        made = run(mark)
        mark(-1)
    results = profiler.profiler.kineto_results  # `profiler.events()` drops most allocations
    live, peak, peaks, left, marks = params, params, list[int](), list[int](), list[int]()
    for event in sorted(results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
        elif event.name().startswith("after scale"):
            marks.append(live)
            if event.name() not in ("after scale 0", "after scale -1"):
                peaks.append(peak)
                left.append(live)
            peak = live
    before = known[0] or 0
    unaccounted = [
        (now - marks[0]) - (told - before)
        for now, told in zip(marks, known, strict=True)
        if told is not None
    ]
    return made, {"unaccounted": unaccounted, "peak_by_scale": peaks, "live_by_scale": left}


def process_bytes(device: torch.device) -> tuple[int, str]:
    """What the process holds, and who says so."""
    if device.type == "cuda":
        held = Card(device).own_bytes()
        if held is not None:
            return held, "nvml"
        # No NVML, or not for this process: CUDA's own figure for the whole card.
        free, total = torch.cuda.mem_get_info(device)
        return total - free, "cuda (whole card)"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "peak rss"
