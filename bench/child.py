"""One case in a process of its own: reads a job from standard input, writes a result.

    python -m bench.child < job.json > result.json

The result is one JSON object: what `records.Record` takes of a case that ran, or a status and
a reason.  Nothing else goes to standard output.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

import codevar
from bench import baselines, memory, timing, tracing
from bench.card import Card, use
from bench.cases import Baseline, Case, VARCase, make_case
from bench.generator import Generator, Made, labels_of
from codevar import PRESETS, VQVAE, graphs
from codevar.checkpoints import CheckpointError, Source, is_oom, weights_sha256
from codevar.compiled import cannot_compile
from codevar.decode import Generated, OnScale, generate, images_of
from codevar.plan import Plan
from codevar.stacks import M, Stack, stack


def main() -> None:
    die_with(runner=int(sys.argv[1]))
    out, sys.stdout = sys.stdout, sys.stderr
    job = json.load(sys.stdin)
    try:
        result = run(make_case(job["case"]), job)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as e:
        result = {"status": "oom" if is_oom(e) else "error", "reason": reason(e)}
        if not isinstance(e, CheckpointError) and not is_oom(e):
            traceback.print_exc()
    json.dump(result, out)


def die_with(runner: int) -> None:
    """A runner that is killed takes its case along, so that nothing measures beside an orphan."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != runner:  # killed while this process was starting
        sys.exit(1)


def load(case: Case, download: bool) -> Generator:
    """A case that can be run.  Raises CheckpointError."""
    if isinstance(case, Baseline):
        return baselines.need().Loaded.of(case, download)
    assert isinstance(case, VARCase)
    return Loaded.of(case, download)


@dataclass
class Loaded:
    """A case that is a plan, with its weights, and how it runs."""

    case: VARCase
    plan: Plan
    vqvae: VQVAE
    how: Stack
    sources: list[Source]
    prepare_s: float = 0.0

    @classmethod
    def of(cls, case: VARCase, download: bool) -> Loaded:
        """Raises CheckpointError."""
        how = stack(case.stack, case.precision, case.attention)
        sources = [source_of(case, name) for name in case.model_names()]
        options: dict[str, Any] = {"device": case.device, "dtype": how.weights}
        options["download"] = download
        prepare_s = 0.0

        def ready(model: M) -> M:
            nonlocal prepare_s
            began = time.perf_counter()
            how.prepare(model)
            prepare_s += time.perf_counter() - began
            return model

        # One after the other, as packing takes memory of its own.
        plan = case.plan(*(ready(codevar.load_var(source, **options)) for source in sources))
        options["patch_sizes"] = plan.scales.patch_sizes
        vqvae = ready(codevar.load_vqvae(source_of(case, case.vqvae_name), **options))
        return cls(case, plan, vqvae, how, sources, prepare_s)

    @property
    def networks(self) -> list[nn.Module]:
        return [*self.plan.models, self.vqvae]

    @property
    def step_names(self) -> list[str]:
        return tracing.SCALES

    @property
    def stands_for(self) -> tuple[int, ...]:
        return ()

    @property
    def in_graph(self) -> bool:
        return False

    def decode(self, on_scale: OnScale, batch: int = 0) -> Generated:
        """The case's decode, up to the VQVAE's decoder."""
        sampling, seed = PRESETS[self.case.sampling], self.case.seed + batch
        labels = labels_of(self.case, self.plan.models[0].config.classes, batch)
        return generate(self.plan, self.vqvae, labels, sampling, seed, self.how, on_scale=on_scale)

    def images(self, made: Made) -> torch.Tensor:
        assert isinstance(made, Generated)
        return images_of(made, self.vqvae, self.how)


def run(case: Case, job: dict[str, Any]) -> dict[str, Any]:
    """Loads, decodes for memory, decodes for time; then what else was asked for."""
    device, effort = torch.device(case.device), timing.Effort(**job["effort"])
    use(device)
    limit_memory(device, case.memory_limit_gib)
    importing, began = since_start(), time.perf_counter()
    loaded = load(case, job["download"])
    loading = time.perf_counter() - began

    def images() -> torch.Tensor:
        return loaded.images(made)

    # Torch's own CUDA graphs leave its allocator counting too little, so memory comes before them.
    began = time.perf_counter()
    if before_graphs := device.type == "cuda" and loaded.in_graph:
        with graphs.launched():
            loaded.decode(lambda k: None)
        used, made = memory.measure(loaded.decode, loaded.networks, device)
    aside = time.perf_counter() - began
    first, decoder = timing.Marks(device), timing.Marks(device)
    made = loaded.decode(first)
    decoder(0)
    images()
    decoder(1)
    start_up = {
        "import_s": importing,
        "load_s": loading - loaded.prepare_s,
        "prepare_s": loaded.prepare_s,
        "first_latency_s": None if loaded.stands_for else sum(first.seconds()),
        "first_vqvae_latency_s": sum(decoder.seconds()),
        "first_image_s": since_start() - aside,
    }
    if not before_graphs:
        used, made = memory.measure(loaded.decode, loaded.networks, device)
    card = Card(device)
    before = card.state()
    taken = timing.sample(loaded.decode, images, device, effort, card, loaded.stands_for)
    for kind, file in job["keep"].items():
        tracing.save(kind, loaded.decode, device, Path(file), loaded.step_names)
    if not taken.latency_s:
        why = ", ".join(taken.discarded_for)
        return {"status": "error", "reason": f"the GPU throttled in every sample: {why}"}
    result: dict[str, Any] = {
        "status": "ok",
        "start_up": start_up,
        "samples": asdict(taken),
        "memory": asdict(used),
        "tokens_sha256": hashlib.sha256(made.tokens.cpu().numpy().tobytes()).hexdigest(),
        "sources": loaded.sources,
        "torch_threads": torch.get_num_threads(),
    }
    if case.stack == "compiled" and (why := cannot_compile(device)):
        result["not_compiled"] = why
    if isinstance(loaded, Loaded):
        result |= captured(loaded.plan, start_up, result["memory"])
        scales, vocab = loaded.plan.scales, loaded.vqvae.config.vocab
        result["sampling"] = PRESETS[loaded.case.sampling].numbers(scales, vocab)
    if loaded.stands_for:
        result["stands_for"] = loaded.stands_for
    if before:
        result["gpu"] = {"before": before, "after": card.state(), "others": card.others()}
    if job["stream_seconds"]:
        result["stream"] = asdict(stream(loaded, device, job["stream_seconds"]))
    if job["paired_with"]:
        result["paired"] = paired(loaded, make_case(job["paired_with"]), job, effort)
    return result


def captured(plan: Plan, start_up: dict[str, Any], used: dict[str, Any]) -> dict[str, Any]:
    """Notes what the decode's CUDA graphs took, if there are any; or why there are none."""
    for found in graphs.known_of(plan):
        if isinstance(found, str):
            return {"not_captured": found}
        start_up["capture_s"] = found.seconds
        used["graph_pool_mib"] = found.pool_bytes / memory.MIB
    return {}


def since_start() -> float:
    """Seconds since this process began."""
    if sys.platform == "linux":  # psutil's date rests on that of the boot: off by up to a second
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - psutil.Process().create_time()


def stream(loaded: Generator, device: torch.device, seconds: float) -> timing.Stream:
    """Labels in, images out, other labels in each batch."""

    def batch(i: int) -> None:
        loaded.images(loaded.decode(lambda k: None, i))

    return timing.stream(batch, device, seconds)


def paired(
    loaded: Generator, other: Case, job: dict[str, Any], effort: timing.Effort
) -> dict[str, Any]:
    """The case and its baseline in turn; or why not, where both do not fit."""
    device = torch.device(other.device)
    try:
        baseline = load(other, job["download"])
        timing.once(baseline.decode, device)
        found = timing.paired(baseline.decode, loaded.decode, device, effort, Card(device))
    except Exception as e:
        if not is_oom(e):
            raise
        return {"baseline": other.key, "reason": f"no memory for both: {reason(e)}"}
    return {"baseline": other.key, **asdict(found)}


def source_of(case: Case, name: str) -> Source:
    """Where the weights of a name come from: `weights` is "seeded", "published", "finetuned"
    (CoDe's own drafter and refiner), "mini", "mini-finetuned" or a folder of checkpoints."""
    if case.weights == "seeded":
        return f"seeded:{name}:{case.seed}"
    if case.weights in ("published", "finetuned") or case.in_mini_world:
        return name
    folder = Path(case.weights)
    found = [folder / f"{name}{ending}" for ending in (".safetensors", ".pth")]
    return str(next((path for path in found if path.is_file()), found[-1]))


def sources_of(case: Case) -> list[str]:
    """Of its models, then of its VQVAE; none of a baseline, whose images are not sampled."""
    names = [*case.model_names(), case.vqvae_name] if isinstance(case, VARCase) else []
    return [str(source_of(case, name)) for name in names]


def hashes_of(case: Case) -> dict[str, str]:
    """SHA-256 by source of those of its weights that are here; random ones have none."""
    found = {}
    for source in sources_of(case):
        with suppress(CheckpointError):
            found[source] = hash_of(source)
    return {source: sha256 for source, sha256 in found.items() if sha256}


hash_of = functools.cache(weights_sha256)  # gigabytes are read for one


def limit_memory(device: torch.device, limit_gib: float | None) -> None:
    """Makes too large an allocation fail here, as a row, instead of harming the machine."""
    if device.type == "cuda":
        if limit_gib is not None:
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * 2**30 / total))
        return
    available = psutil.virtual_memory().available
    limit = available if limit_gib is None else min(available, int(limit_gib * 2**30))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def reason(e: Exception) -> str:
    """One line."""
    line = (str(e).strip().splitlines() or [""])[0]
    return line if isinstance(e, CheckpointError) else f"{type(e).__name__}: {line}"


if __name__ == "__main__":
    main()
