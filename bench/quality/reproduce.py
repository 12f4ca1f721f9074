"""Experiments from nothing to their tables: sampled, evaluated, measured for speed.

    samples/SET/          a sample set for each case
    evaluations.jsonl     FID, IS, precision, recall of each set
    records.jsonl, ...    speed and memory, as `bench.py run` leaves them

Of several experiments each has a folder of its own for the last, and all share the first two: a
case that several have is sampled and evaluated once.  Each part goes on with what the folder has
of it, so a run that was stopped is just run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.methods.meta import configs, vqvae_config
from bench.methods.sources import source_of
from bench.metrics.jackknife import GROUPS
from bench.quality import against, evaluate, sampling
from bench.quality.evaluate import Protocol
from bench.quality.images import ImageSet, open_images
from bench.quality.reference import open_reference
from bench.quality.sample_set import SampleSet
from bench.quality.wanted import drawn_by, sets_of
from bench.study import evaluations
from bench.study.cases import VARCase
from bench.study.errors import UsageError
from codevar import files
from codevar.progress import Progress

SAMPLES = "samples"


def quality(
    cases: Sequence[VARCase],
    samples: Path,
    folder: Path,
    per_class: int,
    reference: str,
    protocol: Protocol,
    env: dict[str, Any],
    progress: Progress,
    baselines: Mapping[str, VARCase] = {},
    download: bool = False,
) -> None:
    """Samples every case that makes images of its own, into a folder in `samples`, and evaluates
    it, into `folder`.

    per_class: images of each class.  reference: REF, as `bench.py eval` takes it, which is opened
    for the size of each case's images; `protocol` has all else.  baselines: by
    `drawn_by` a case, the case that its figures are compared with, image by image.
    Raises UsageError before anything is sampled for random weights and for what so many images
    cannot give; and for what stops it later, when what is done by then is kept.
    """
    if random := [case.label for case in cases if case.weights == "seeded"]:
        raise UsageError(
            f"{random[0]}: random weights have no quality; --set weights=mini or published"
        )
    wanted = sets_of(cases, per_class, "npz", protocol.batch_size)
    for one in wanted.values():
        check(one.case, per_class, reference, protocol)
    names = {drawn_by(one.case): name for name, one in wanted.items()}
    bases = {
        name: names.get(drawn_by(baselines[key])) for key, name in names.items() if key in baselines
    }
    for name in sorted(wanted, key=lambda name: name not in bases.values()):  # baselines first
        home, base = samples / name, bases.get(name)
        made = sampling.sample(wanted[name], home, env, progress, resume=True, download=download)
        images = open_images(home)
        exact = replace(protocol, reference=open_reference(reference, images.size))
        widths = protocol.extractor.widths["pool"]
        enough = protocol.intervals and images.count >= evaluate.enough_for_intervals(widths)
        baseline = open_images(samples / base) if base not in (None, name) and enough else None
        if evaluated(folder, made, exact, baseline):
            continue
        if baseline:
            record, _ = against.compare(images, baseline, exact)
        else:
            record, _ = evaluate.evaluate(images, exact)
        evaluations.append(folder, record)
        shown = [name for name in ("fid", "class_accuracy") if name in record.metrics]
        told = ", ".join(f"{name} {record.metrics[name]:.4g}" for name in shown)
        progress.say(f"{made.manifest['label']}: {told}")


def check(case: VARCase, per_class: int, reference: str, protocol: Protocol) -> None:
    """Raises UsageError if so many images, or the reference, cannot give every figure."""
    classes, side = sizes(case)
    count = per_class * classes
    if count <= (width := protocol.extractor.widths["pool"]):
        raise UsageError(
            f"--per-class {per_class}: {count} images of {case.label} are too few for a FID over "
            f"{width} features, which need {width + 1}: --per-class {width // classes + 1}"
        )
    labels = np.arange(count) % classes
    samples = ImageSet(case.label, count, (side, side), lambda: iter(()), labels)
    exact = replace(protocol, reference=open_reference(reference, samples.size))
    evaluate.chosen(samples, exact)


def sizes(case: VARCase) -> tuple[int, int]:
    """Classes of the case's models and the side of their images, by files' shapes alone.

    Raises UsageError for a file that is not there or none of a model.
    """
    model, vqvae = configs(case)[0], vqvae_config(case)
    source = str(source_of(case, case.model_names()[0]))
    try:
        if Path(source).suffix:  # a file of one's own, not a name
            model = files.var_config(source)
            vqvae = files.vqvae_config(str(source_of(case, case.vqvae_name)))
    except files.CheckpointError as e:
        raise UsageError(str(e)) from None
    return model.classes, model.patch_sizes[-1] * vqvae.stride


def evaluated(folder: Path, made: SampleSet, protocol: Protocol, baseline: ImageSet | None) -> bool:
    """Whether the folder has this evaluation of the set as it is already."""
    file, manifest, held = folder / evaluations.FILE, made.manifest, protocol.reference
    wanted = {
        **{key: manifest[key] for key in ("case", "seed", "images", "weights_sha256")},
        "reference": held.name,
        "reference_images": held.images.count if held.images else None,
        "extractor_sha256": protocol.extractor.sha256,
        "groups": GROUPS if protocol.intervals else None,
    }
    if held.sha256 is not None:  # one file may have another's name
        wanted["reference_sha256"] = held.sha256
    sampled_at = manifest["runs"][-1]["started_at"]
    lines = [e for e in evaluations.read(file)[0] if e.evaluated_at >= sampled_at]
    name = baseline.name if baseline else None
    return any(
        wanted.items() <= line.to_json().items() and (line.against or {}).get("samples") == name
        for line in lines
    )
