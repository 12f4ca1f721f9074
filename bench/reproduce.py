"""One experiment from nothing to its table: sampled, evaluated, measured for speed.

    samples/SET/          a sample set for each case
    evaluations.jsonl     FID, IS, precision, recall of each set
    records.jsonl, ...    speed and memory, as `bench.py run` leaves them

Each part goes on with what the folder has of it, so a run that was stopped is just run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import sampled
from bench.experiment import Sweep
from bench.quality import evaluate, evaluations, sampling
from bench.quality.features import Extractor
from bench.quality.images import open_images
from bench.quality.reference import Reference, open_reference
from bench.quality.sample_set import SampleSet
from bench.quality.wanted import sets_of
from bench.quality.watch import Watch

SAMPLES = "samples"


@dataclass(frozen=True)
class Protocol:
    """How quality is measured.

    per_class: images of each class.  batch_size: of sampling and of the extractor.
    reference: REF, as `bench.py eval` takes it.  bootstrap: halves for intervals; 0 for none.
    """

    reference: str
    per_class: int
    batch_size: int
    bootstrap: int


def quality(
    sweep: Sweep,
    folder: Path,
    protocol: Protocol,
    extractor: Callable[[], Extractor],
    cache: Path,
    env: dict[str, Any],
    watch: Watch,
    download: bool = False,
) -> None:
    """Samples and evaluates every case of the sweep that makes images of its own.

    Raises UsageError for what stops it; what is done by then is kept.
    """
    cases = sampled(sweep.cases, sweep.name)
    wanted = sets_of(cases, protocol.per_class, "npz", protocol.batch_size)
    loaded = None
    for name, one in wanted.items():
        home = folder / SAMPLES / name
        made = sampling.sample(one, home, env, watch, resume=True, download=download)
        images = open_images(home)
        held = open_reference(protocol.reference, images.size)
        if evaluated(folder, made, held, protocol.bootstrap):
            continue
        loaded = loaded or extractor()
        record, _ = evaluate.evaluate(
            images, held, loaded, None, protocol.bootstrap, cache, protocol.batch_size
        )
        evaluations.append(folder, record)
        figures = record["metrics"]
        shown = [name for name in ("fid", "class_accuracy") if name in figures]
        told = ", ".join(f"{name} {figures[name]:.4g}" for name in shown)
        watch.say(f"{made.manifest['label']}: {told}")


def evaluated(folder: Path, made: SampleSet, held: Reference, bootstrap: int) -> bool:
    """Whether the folder has this evaluation of the set already."""
    file, manifest = folder / evaluations.FILE, made.manifest
    wanted = {
        **{key: manifest[key] for key in ("case", "seed", "images", "weights_sha256")},
        "reference": held.name,
        "reference_images": held.images.count if held.images else None,
        "bootstrap": bootstrap,
    }
    lines = evaluations.read(file)[0] if file.exists() else []
    return any(wanted.items() <= line.items() for line in lines)
