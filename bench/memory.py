"""Memory of a decode in the papers' four parts: params, KV cache, running, total.

params and KV cache are the tensors themselves; total is the allocator's peak; running is the
rest.  On a GPU the caching allocator tells its peak.  A CPU has none, so the profiler's record
of every allocation is added up.  The process's own figure (NVML, or peak resident set) stands
beside them.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from bench.card import Card
from codevar.decode import Generated, OnScale

MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """MiB.  KV cache is the most that the caches held, total the most that everything did,
    running what is over and above: params + KV cache + running = total, as in the papers."""

    params_mib: float
    kv_cache_mib: float
    running_mib: float
    total_mib: float
    peak_by_scale_mib: list[float]
    kv_cache_by_scale_mib: list[float]
    process_mib: float
    process_by: str


def tensor_bytes(models: Iterable[nn.Module]) -> int:
    """Bytes of the weights, shared ones once."""
    weights = {p.data_ptr(): p.nbytes for model in models for p in model.parameters()}
    return sum(weights.values())


def measure(
    run: Callable[[OnScale], Generated], models: Iterable[nn.Module], device: torch.device
) -> tuple[Memory, Generated]:
    """Runs one decode and accounts for it; what it made comes back too."""
    params = tensor_bytes(models)
    if device.type == "cuda":
        made, above = _cuda_peaks(run, device)
    else:
        made, above = _cpu_peaks(run)
    kv = made.kv_cache_bytes
    process, by = process_bytes(device)
    used = Memory(
        params_mib=params / MIB,
        kv_cache_mib=max(kv) / MIB,
        running_mib=(max(above) - max(kv)) / MIB,
        total_mib=(params + max(above)) / MIB,
        peak_by_scale_mib=[(params + peak) / MIB for peak in above],
        kv_cache_by_scale_mib=[b / MIB for b in kv],
        process_mib=process / MIB,
        process_by=by,
    )
    return used, made


def _cuda_peaks(
    run: Callable[[OnScale], Generated], device: torch.device
) -> tuple[Generated, list[int]]:
    """(what the run made, peak bytes above the start by scale)."""
    torch.cuda.synchronize(device)
    start, peaks = torch.cuda.memory_allocated(device), []

    def on_scale(k: int) -> None:
        if k > 0:
            peaks.append(torch.cuda.max_memory_allocated(device) - start)
        torch.cuda.reset_peak_memory_stats(device)

    return run(on_scale), peaks


def _cpu_peaks(run: Callable[[OnScale], Generated]) -> tuple[Generated, list[int]]:
    """The same, by replaying the profiler's allocations."""

    def on_scale(k: int) -> None:
        with record_function(f"after scale {k}"):
            pass

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        made = run(on_scale)
    results = profiler.profiler.kineto_results  # `profiler.events()` drops most allocations
    peaks, live, peak = [], 0, 0
    for event in sorted(results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
        elif event.name().startswith("after scale"):
            if event.name() != "after scale 0":
                peaks.append(peak)
            peak = live
    return made, peaks


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
