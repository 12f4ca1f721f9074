"""A case in a process of its own: reads a job from standard input, writes a result.

    python -m bench.measure.child < job.json > result.json

A job is a line, and so is its result: what `records.Record` takes of a case that ran, or a status
and a reason.  Nothing else goes to standard output.  Mostly there is one job; see `shared`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.measure import memory, timing, tracing
from bench.measure.card import Card, make_current
from bench.methods.loaded import Generator, Loaded, load
from bench.methods.sources import reason
from bench.study.cases import Case, make_case
from bench.study.records import Stream
from bench.study.signals import end_with_parent
from bench.study.units import GIB, MIB
from codevar import graphs
from codevar.compiled import cannot_compile
from codevar.files import CheckpointError, is_oom
from codevar.outputs import OnScale
from codevar.plan import Plan


def main() -> None:
    """Answers jobs until standard input ends."""
    die_with_runner(runner=int(sys.argv[1]))
    os.close(int(sys.argv[2]))  # tells the runner that all is imported
    out, sys.stdout = sys.stdout, sys.stderr
    for number, line in enumerate(sys.stdin, 1):
        job = json.loads(line)
        try:
            result = run(make_case(job["case"]), job, fresh=number == 1)
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as e:
            known = "oom" if is_oom(e) else "error" if isinstance(e, CheckpointError) else None
            result = {"status": known or "failed", "reason": reason(e)}
            if known is None:
                traceback.print_exc()
        print(json.dumps(result), file=out, flush=True)


def die_with_runner(runner: int) -> None:
    """A runner that is killed takes its case along, so that nothing measures beside an orphan."""
    end_with_parent()
    if os.getppid() != runner:  # killed while this process was starting
        sys.exit(1)


def run(case: Case, job: dict[str, Any], fresh: bool = True) -> dict[str, Any]:
    """Loads, decodes for memory, decodes for time; then what else was asked for.

    fresh: whether this is the process's first case.  Of another the time from the process's begin
    says nothing.
    """
    device, effort = torch.device(case.device), timing.Effort(**job["effort"])
    make_current(device)
    limit_memory(device, case.memory_limit_gib)
    importing, began = seconds_since_start(), time.perf_counter()
    loaded = load(case, job["download"])
    loading = time.perf_counter() - began

    def images() -> torch.Tensor:
        return loaded.images(made)

    # Torch's own CUDA graphs leave its allocator counting too little, so memory comes before them.
    began = time.perf_counter()
    if before_graphs := device.type == "cuda" and loaded.in_graph:
        with graphs.launched():
            loaded.decode(lambda k: None)
        used, made = memory.measure_memory(loaded.decode, loaded.networks, device)
    aside = time.perf_counter() - began
    first, decoder = timing.Marks(device), timing.Marks(device)
    made = loaded.decode(first)
    decoder(0)
    images()
    decoder(1)
    start_up = {
        "import_s": importing if fresh else None,
        "load_s": loading - loaded.prepare_s,
        "prepare_s": loaded.prepare_s,
        "first_latency_s": None if loaded.stands_for else sum(first.seconds()),
        "first_vqvae_latency_s": sum(decoder.seconds()) if loaded.images_apart else None,
        "first_image_s": seconds_since_start() - aside if fresh else None,
    }
    if not before_graphs:
        used, made = memory.measure_memory(loaded.decode, loaded.networks, device)
    card = Card(device)
    before = card.state()
    taken = timing.take_samples(loaded.decode, images, device, effort, card, loaded.stands_for)
    if not loaded.images_apart:
        taken.vqvae_latency_s = []  # its images came with the decode
    for kind, file in job["keep"].items():
        tracing.save(kind, loaded.decode, device, Path(file), loaded.step_names)
    if not taken.latency_s:
        why = ", ".join(taken.discarded_for)
        return {"status": "error", "reason": f"the GPU throttled in every sample: {why}"}
    result: dict[str, Any] = {
        "status": "ok",
        "start_up": start_up,
        "samples": taken.model_dump(),
        "memory": used.model_dump(),
        "tokens_sha256": hashlib.sha256(made.tokens.cpu().numpy().tobytes()).hexdigest(),
        "sources": loaded.sources,
        "decisions": getattr(made, "decisions", ()) or None,
        "torch_threads": torch.get_num_threads(),
    }
    if case.stack == "compiled" and (why := cannot_compile(device)):
        result["not_compiled"] = why
    if isinstance(loaded, Loaded):
        result |= note_graphs(loaded.plan, start_up, result["memory"])
        scales, vocab = loaded.plan.scales, loaded.vqvae.config.vocab
        result["sampling"] = loaded.case.sampling_settings().numbers(scales, vocab)
    if loaded.stands_for:
        result["stands_for"] = loaded.stands_for
    if before:
        result["gpu"] = {"before": before, "after": card.state(), "others": card.others()}
    if job["stream_seconds"]:
        result["stream"] = run_stream(loaded, device, job["stream_seconds"]).model_dump()
    if job["paired_with"]:
        result["paired"] = run_paired(loaded, make_case(job["paired_with"]), job, effort)
    return result


def note_graphs(plan: Plan, start_up: dict[str, Any], used: dict[str, Any]) -> dict[str, Any]:
    """Notes what the decode's CUDA graphs took, if there are any; or why there are none."""
    for found in graphs.known_of(plan):
        if found.graphs is None:
            return {"not_captured": found.reason}
        start_up["capture_s"] = found.graphs.seconds
        used["graph_pool_mib"] = found.graphs.pool_bytes / MIB
    return {}


def seconds_since_start() -> float:
    """Seconds since this process began."""
    if sys.platform == "linux":  # psutil's date rests on that of the boot: off by up to a second
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - psutil.Process().create_time()


def run_stream(loaded: Generator, device: torch.device, seconds: float) -> Stream:
    """Labels in, images out, other labels in each batch."""

    def batch(i: int) -> None:
        loaded.images(loaded.decode(lambda k: None, i))

    return timing.time_stream(batch, device, seconds)


def run_paired(
    loaded: Generator, other: Case, job: dict[str, Any], effort: timing.Effort
) -> dict[str, Any]:
    """The case and its baseline in turn; or why not, where both do not fit."""
    device = torch.device(other.device)
    try:
        baseline = load(other, job["download"])
        apart = loaded.images_apart and baseline.images_apart
        base, own = (one.decode if apart else to_images(one) for one in (baseline, loaded))
        timing.time_by_scale(base, device)
        found = timing.take_pairs(base, own, device, effort, Card(device))
    except Exception as e:
        if not is_oom(e):
            raise
        return {"baseline": other.key, "reason": f"no memory for both: {reason(e)}"}
    return {**found.model_dump(), "baseline": other.key}


def to_images(loaded: Generator) -> timing.Run:
    """A decode with its images, as one step."""

    def run(mark: OnScale) -> None:
        mark(0)
        loaded.images(loaded.decode(lambda k: None))
        mark(1)

    return run


def limit_memory(device: torch.device, limit_gib: float | None) -> None:
    """Makes the allocator of a GPU refuse what exceeds the limit; on a CPU the runner watches."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        most = total if limit_gib is None else limit_gib * GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, most / total))


if __name__ == "__main__":
    main()
