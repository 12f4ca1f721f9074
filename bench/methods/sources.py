"""Where a case's weights come from, and their hashes."""

import functools
from contextlib import suppress
from pathlib import Path

from bench.methods import published
from bench.study.cases import Case, VARCase
from bench.study.errors import UsageError
from codevar.checkpoints import weights_sha256
from codevar.files import PUBLISHED, CheckpointError

ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


def source_of(case: Case, name: str) -> str:
    """Where the weights of a name come from: `weights` is "seeded", "published", "finetuned"
    (CoDe's own drafter and refiner), "mini", "mini-finetuned", files, or a folder of checkpoints.
    Beside files of one's own the VQVAE is looked for too, and else is the published one."""
    if case.weights == "seeded":
        return f"seeded:{name}:{case.seed}"
    if case.weights in ("published", "finetuned") or case.in_mini_world:
        return name
    if isinstance(case, VARCase) and (own := case.own_files()):
        if name in own:
            return name
        folder = Path(own[0]).parent
    else:
        folder = Path(case.weights)
    found = [folder / f"{name}{ending}" for ending in ENDINGS]
    there = next((path for path in found if path.is_file()), None)
    if there is None and isinstance(case, VARCase) and case.own_files():
        return name
    return str(there or found[1])


def sources_of(case: Case) -> list[str]:
    """Of its models, then of its VQVAE; none of a baseline, whose images are not sampled."""
    names = [*case.model_names(), case.vqvae_name] if isinstance(case, VARCase) else []
    return [source_of(case, name) for name in names]


def lacking(case: Case) -> list[str]:
    """Names of its models that its folder of models has no file of."""
    names = [*case.model_names(), *([case.vqvae_name] if isinstance(case, VARCase) else [])]
    return [name for name in names if not Path(source_of(case, name)).is_file()]


def absent(case: Case) -> list[str]:
    """Names of its published weights that were not downloaded before."""
    places: dict[str, tuple[str, str] | str | None]
    if isinstance(case, VARCase):
        places = {name: PUBLISHED[name] for name in sources_of(case) if name in PUBLISHED}
    else:
        asked = case.weights == "published"
        places = {name: case.published.get(name) for name in case.model_names() if asked}
    return [name for name, place in places.items() if not published.is_here(name, place)]


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
    line = line.replace("pass download=True", "--download fetches it")  # as the API has it
    return line if isinstance(e, CheckpointError | UsageError) else f"{type(e).__name__}: {line}"
