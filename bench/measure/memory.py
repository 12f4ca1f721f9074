"""Memory of a decode in the papers' four parts: params, KV cache, running, total.

params and KV cache are the tensors themselves; total is the allocator's peak; running is the
rest.  On a GPU the caching allocator tells its peak.  A CPU has none, so the profiler's record
of every allocation is added up.  The process's own figure (NVML, or peak resident set) stands
beside them.

That the parts add up says nothing by itself, as running is a difference.  So between scales,
where no operator runs, the allocator is held against the tensors that Python knows: each byte
must belong to one of them, or to cuBLAS.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from bench.measure.card import Card
from bench.methods.loaded import Made
from bench.study.units import MIB
from codevar import graphs
from codevar.outputs import OnScale

TENSORS = {torch.Tensor, nn.Parameter}
UNACCOUNTED_MIB = 1.0  # what may lie between allocator and tensors


@dataclass(frozen=True)
class Memory:
    """MiB.  KV cache is the most that the caches held, total the most that everything did,
    running what is over and above: params + KV cache + running = total, as in the papers.

    peak_by_scale_mib, live_by_scale_mib: the most during a scale, and what is left after it.
    kv_cache_by_scale_mib: held while the scale was predicted.
    workspace_mib: the part of running that is cuBLAS's and stays.
    rounding_mib: the part of running that no tensor asked for, at the peak: the caching allocator
        leaves up to 1 MiB of a block with the tensor that it was cut for.
    unaccounted_mib: the most, between scales and at the end, that the allocator holds and no
        tensor or workspace does; accounted says whether that is next to nothing.
    reserved_mib: what the caching allocator took from the device at its peak; fragmentation_mib
        the part of it that was not allocated, inactive_split_mib of that what lies between
        allocated pieces of a block.  None on a CPU, as are workspace_mib and rounding_mib.
    graph_pool_mib, in records of decodes that are CUDA graphs: their pool, which stays, in the
        place of KV cache and running, which are those of kernels launched one by one.
    process_mib: the process's memory, as process_by says.
    """

    params_mib: float
    kv_cache_mib: float
    running_mib: float
    total_mib: float
    peak_by_scale_mib: list[float]
    live_by_scale_mib: list[float]
    kv_cache_by_scale_mib: list[float]
    unaccounted_mib: float
    accounted: bool
    workspace_mib: float | None
    rounding_mib: float | None
    reserved_mib: float | None
    fragmentation_mib: float | None
    inactive_split_mib: float | None
    process_mib: float
    process_by: str


@dataclass
class AllocatorReadings:
    """What the allocator said during one decode, in bytes.

    peaks, live: by scale.  unaccounted: before each scale, after the last, and at the end.
    """

    peaks: list[int] = field(default_factory=list)
    live: list[int] = field(default_factory=list)
    unaccounted: list[int] = field(default_factory=list)
    workspace: int | None = None
    rounding: int | None = None
    reserved: int | None = None
    fragmentation: int | None = None
    inactive_split: int | None = None


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
) -> tuple[Memory, Made]:
    """Runs one decode and accounts for it; what it made comes back too."""
    params = tensor_bytes(models)
    made, seen = _on_cuda(run, device, params) if device.type == "cuda" else _on_cpu(run, params)
    kv, total = made.kv_cache_bytes, max(seen.peaks)
    unaccounted = max(map(abs, seen.unaccounted)) / MIB
    process, by = process_bytes(device)
    used = Memory(
        params_mib=params / MIB,
        kv_cache_mib=max(kv) / MIB,
        running_mib=(total - params - max(kv)) / MIB,
        total_mib=total / MIB,
        peak_by_scale_mib=[b / MIB for b in seen.peaks],
        live_by_scale_mib=[b / MIB for b in seen.live],
        kv_cache_by_scale_mib=[b / MIB for b in kv],
        unaccounted_mib=unaccounted,
        accounted=unaccounted <= UNACCOUNTED_MIB,
        workspace_mib=_mib(seen.workspace),
        rounding_mib=_mib(seen.rounding),
        reserved_mib=_mib(seen.reserved),
        fragmentation_mib=_mib(seen.fragmentation),
        inactive_split_mib=_mib(seen.inactive_split),
        process_mib=process / MIB,
        process_by=by,
    )
    return used, made


def _mib(nbytes: int | None) -> float | None:
    return None if nbytes is None else nbytes / MIB


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
) -> tuple[Made, AllocatorReadings]:
    """Runs the decode between readings of the caching allocator."""
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # so that `reserved` is of this decode
    others = known_bytes(device) - params  # nothing, in a process of its own
    seen, readings = AllocatorReadings(), []

    def on_scale(k: int) -> None:
        readings.append(now := torch.cuda.memory_stats(device))
        # As requested: allocated is rounded up to 512 bytes a tensor.
        if is_counted_after(k):
            seen.unaccounted.append(now["requested_bytes.all.current"] - known_bytes(device))
        torch.cuda.reset_peak_memory_stats(device)

    with graphs.launched():
        made = run(on_scale)
    on_scale(-1)
    torch._C._cuda_clearCublasWorkspaces()  # the next product takes them again
    cleared = torch.cuda.memory_stats(device)["requested_bytes.all.current"]
    end = readings.pop()["requested_bytes.all.current"]
    seen.workspace = end - cleared
    seen.unaccounted = [b - seen.workspace for b in seen.unaccounted]
    during = readings[1:]
    seen.peaks = [reading["allocated_bytes.all.peak"] - others for reading in during]
    seen.live = [reading["allocated_bytes.all.current"] - others for reading in during]
    asked = max(reading["requested_bytes.all.peak"] for reading in during) - others
    seen.rounding = max(seen.peaks) - asked
    seen.reserved = max(reading["reserved_bytes.all.peak"] for reading in during)
    seen.fragmentation = seen.reserved - max(seen.peaks) - others
    seen.inactive_split = max(reading["inactive_split_bytes.all.peak"] for reading in during)
    return made, seen


def _on_cpu(run: Callable[[OnScale], Made], params: int) -> tuple[Made, AllocatorReadings]:
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
    seen, live, peak, marks = AllocatorReadings(), params, params, []
    for event in sorted(results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
        elif event.name().startswith("after scale"):
            marks.append(live)
            if event.name() not in ("after scale 0", "after scale -1"):
                seen.peaks.append(peak)
                seen.live.append(live)
            peak = live
    before = known[0] or 0
    seen.unaccounted = [
        (now - marks[0]) - (told - before)
        for now, told in zip(marks, known, strict=True)
        if told is not None
    ]
    return made, seen


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
