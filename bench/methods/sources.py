"""Where a case's weights come from, and their hashes."""

from __future__ import annotations

import functools
from contextlib import suppress
from pathlib import Path

from bench.study.cases import Case, VARCase
from codevar.checkpoints import Source, weights_sha256
from codevar.files import CheckpointError


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


def reason(e: Exception) -> str:
    """One line."""
    line = (str(e).strip().splitlines() or [""])[0]
    return line if isinstance(e, CheckpointError) else f"{type(e).__name__}: {line}"
