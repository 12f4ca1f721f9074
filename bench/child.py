"""One case in a process of its own: reads a job from standard input, writes a result.

    python -m bench.child < job.json > result.json

The result is one JSON object: what `records.Record` takes of a case that ran, or a status and
a reason.  Nothing else goes to standard output.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import resource
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

import codevar
from bench import memory, timing, tracing
from bench.cases import Case, make_case
from codevar import PRESETS
from codevar.checkpoints import CheckpointError, Source, patch_sizes_of
from codevar.decode import generate, images_of
from codevar.stacks import stack


def main() -> None:
    die_with_parent()
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


def die_with_parent() -> None:
    """A runner that is killed takes its case along, so that nothing measures beside an orphan."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def run(case: Case, job: dict[str, Any]) -> dict[str, Any]:
    """Loads, decodes for memory, decodes for time."""
    device = torch.device(case.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    limit_memory(device, case.memory_limit_gib)
    how = stack(case.stack, case.precision, case.attention)
    sources = [source_of(case, name) for name in case.model_names()]
    options: dict[str, Any] = {"device": device, "dtype": how.weights, "download": job["download"]}
    models = [codevar.load_var(source, **options) for source in sources]
    vqvae = codevar.load_vqvae(
        source_of(case, "vae_ch160v4096z32"), patch_sizes=patch_sizes_of(case.depth), **options
    )
    plan, sampling = case.plan(*models), PRESETS[case.sampling]
    labels = [i * 37 % models[0].config.classes for i in range(case.batch_size)]

    def decode(on_scale):
        return generate(plan, vqvae, labels, sampling, case.seed, how, on_scale=on_scale)

    first_latency_s = sum(timing.once(decode, device))
    used, made = memory.measure(decode, [*plan.models, vqvae], device)
    effort = timing.Effort(**job["effort"])
    taken = timing.sample(decode, lambda: images_of(made, vqvae, how), device, effort)
    for kind, file in job.get("keep", {}).items():
        tracing.save(kind, decode, device, Path(file))
    return {
        "status": "ok",
        "samples": {**asdict(taken), "first_latency_s": first_latency_s},
        "memory": asdict(used),
        "tokens_sha256": hashlib.sha256(made.tokens.cpu().numpy().tobytes()).hexdigest(),
        "sources": sources,
        "torch_threads": torch.get_num_threads(),
    }


def source_of(case: Case, name: str) -> Source:
    """Where the weights of a published name come from: `weights` is "seeded", "published",
    "finetuned" (CoDe's own drafter and refiner) or a folder of checkpoints."""
    if case.weights == "seeded":
        return f"seeded:{name}:{case.seed}"
    if case.weights in ("published", "finetuned"):
        return name
    folder = Path(case.weights)
    found = [folder / f"{name}{ending}" for ending in (".safetensors", ".pth")]
    return str(next((path for path in found if path.is_file()), found[-1]))


def limit_memory(device: torch.device, limit_gib: float | None) -> None:
    """Makes too large an allocation fail here, as a row, instead of harming the machine."""
    if device.type == "cuda":
        if limit_gib is not None:
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * 2**30 / total), device)
        return
    available = psutil.virtual_memory().available
    limit = available if limit_gib is None else min(available, int(limit_gib * 2**30))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def is_oom(e: BaseException) -> bool:
    """Whether memory ran out, in any of the words for it."""
    if isinstance(e, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(e, RuntimeError) and any(
        words in str(e) for words in ("can't allocate memory", "out of memory", "bad_alloc")
    )


def reason(e: Exception) -> str:
    """One line."""
    line = (str(e).strip().splitlines() or [""])[0]
    return line if isinstance(e, CheckpointError) else f"{type(e).__name__}: {line}"


if __name__ == "__main__":
    main()
