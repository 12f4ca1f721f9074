"""Experiments from nothing to their tables: sampled, evaluated, measured for speed.

    samples/SET/          a sample set for each case
    evaluations.jsonl     FID, IS, precision, recall of each set
    records.jsonl, ...    speed and memory, as `bench.py run` leaves them

Of several experiments each has a folder of its own for the last, and all share the first two: a
case that several have is sampled and evaluated once.  Each part goes on with what the folder has
of it, so a run that was stopped is just run again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.metrics.jackknife import GROUPS
from bench.quality import evaluate, sampling
from bench.quality.evaluate import METRICS, Protocol
from bench.quality.images import ImageSet, as_jpeg, first_of, open_images
from bench.quality.reference import open_reference
from bench.quality.wanted import FREE, drawn_by, sets_of
from bench.study import evaluations
from bench.study.cases import Case
from bench.study.columns import format_figure
from bench.study.errors import UsageError
from bench.study.evaluations import Evaluation
from bench.study.experiment import View
from bench.study.printing import Printed
from codevar.progress import Progress

SAMPLES = "samples"


def quality(
    cases: Sequence[Case],
    samples: Path,
    folder: Path,
    per_class: int,
    reference: str,
    protocol: Protocol,
    env: dict[str, Any],
    progress: Progress,
    baselines: Mapping[str, Case] = {},
    views: Sequence[View] = (),
    download: bool = False,
) -> dict[str, Evaluation]:
    """Samples every case that makes images of its own, into a folder in `samples`, and evaluates
    it, into `folder`; gives the evaluations by name.

    per_class: images of each class.  reference: REF, as `bench.py eval` takes it, which is opened
    for the size of each case's images; `protocol` has all else.  baselines: by
    `drawn_by` a case, the case that its figures are compared with, image by image.  views: of
    the images of each baseline, how else they are measured.
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
    found: dict[str, Evaluation] = {}

    def measure(name: str, images: ImageSet, ref: str, baseline: ImageSet | None) -> None:
        exact = replace(protocol, reference=open_reference(ref, images.size))
        if kept := evaluated(folder, images, exact, baseline):
            found[name] = kept
            return
        found[name], _ = evaluate.evaluate(images, exact, baseline)
        evaluations.append(folder, found[name])
        metrics = found[name].metrics
        few = ("fid", "class_accuracy", "shape_accuracy", "texture_distance")
        shown = [name for name in few if name in metrics]
        told = ", ".join(f"{name} {metrics[name]:.4g}" for name in shown)
        progress.say(f"{name}: {told}")

    width = protocol.extractor.widths.get("pool", 0)
    paired_from = evaluate.enough_for_intervals(width) if protocol.intervals else math.inf
    for name in sorted(wanted, key=lambda name: name not in bases.values()):  # baselines first
        sampling.sample(wanted[name], samples / name, env, progress, resume=True, download=download)
        images, base = open_images(samples / name), bases.get(name)
        paired = base not in (None, name) and images.count >= paired_from
        said = setting(wanted[name].case, wanted[base].case if base else None)
        if said in found:  # the same of another baseline
            said = name
        measure(said, images, reference, open_images(samples / str(base)) if paired else None)
        for view in views if base == name else ():
            seen = viewed(images, view)
            if seen.count <= width or (view.reference or "")[:5] not in ("", reference[:5]):
                progress.say(f"left out: {seen.manifest['label']}, too few or of another world")
                continue
            same = seen.count == images.count >= paired_from and not view.reference
            own = view.reference or reference
            measure(f"{said}: {view.name}", seen, own, images if same else None)
    return found


def setting(case: Case, base: Case | None) -> str:
    """What a case changes in its baseline; where there is none, its label."""
    own, other = (c.model_dump(exclude={*FREE}) if c else {} for c in (case, base))
    changed = [f"{key} {own[key]}" for key in other if own.get(key) != other[key]]
    return (
        ", ".join(changed) if case.label == getattr(base, "label", "") and changed else case.label
    )


def viewed(images: ImageSet, view: View) -> ImageSet:
    """A set as a view has it, without its case, so that no table takes it for that."""
    if view.share:
        images = first_of(images, round(view.share * images.count))
    if view.jpeg:
        images = as_jpeg(images, view.jpeg)
    manifest = images.manifest
    label = f"{manifest['label']}, {view.name}"
    return replace(images, manifest={**manifest, "case": None, "label": label})


def check(case: Case, per_class: int, reference: str, protocol: Protocol) -> None:
    """Raises UsageError if so many images, or the reference, cannot give every figure."""
    classes, side = sampling.sizes(case)
    count = per_class * classes
    if count <= (width := protocol.extractor.widths.get("pool", 0)):
        raise UsageError(
            f"--per-class {per_class}: {count} images of {case.label} are too few for a FID over "
            f"{width} features, which need {width + 1}: --per-class {width // classes + 1}"
        )
    labels = np.arange(count) % classes
    samples = ImageSet(case.label, count, (side, side), lambda: iter(()), labels)
    exact = replace(protocol, reference=open_reference(reference, samples.size))
    evaluate.chosen(samples, exact)


def evaluated(
    folder: Path, images: ImageSet, protocol: Protocol, baseline: ImageSet | None
) -> Evaluation | None:
    """The folder's evaluation of these images as it is to be, if it has one."""
    file, manifest, held = folder / evaluations.FILE, images.manifest, protocol.reference
    wanted = {
        **{key: manifest[key] for key in ("case", "label", "seed", "weights_sha256")},
        "images": images.count,
        "reference": held.name,
        "reference_images": held.images.count if held.images else None,
        "extractor_sha256": protocol.extractor.sha256,
        "groups": GROUPS if protocol.intervals else None,
    }
    if held.sha256 is not None:  # one file may have another's name
        wanted["reference_sha256"] = held.sha256
    sampled_at = manifest["runs"][-1]["started_at"]
    name = baseline.name if baseline else None
    fits = (
        line
        for line in evaluations.read(file)[0]
        if line.evaluated_at >= sampled_at
        and wanted.items() <= line.to_json().items()
        and (line.against or {}).get("samples") == name
    )
    return next(fits, None)


def printed(title: str, found: Mapping[str, Evaluation]) -> Printed:
    """What each setting is worth: a row for each evaluation."""
    rows = []
    for name, one in found.items():
        against = one.against or {"differences": {}, "difference_intervals": {}}
        row: dict[str, Any] = {"setting": name, "images": one.images}
        for metric in ("fid", "kid", "inception_score", "precision", "recall", "class_accuracy"):
            if metric in one.metrics:
                row[METRICS[metric].heading] = format_figure(
                    METRICS[metric].format, one.metrics[metric]
                )
        if "fid" in against["differences"]:
            low, high = against["difference_intervals"]["fid"]
            row["FID - baseline's"] = f"{against['differences']['fid']:+.2f}"
            row["95 % of it"] = f"{low:+.2f} to {high:+.2f}"
        rows.append(row)
    data = pd.DataFrame([{"setting": name, **one.to_json()} for name, one in found.items()])
    return Printed(title, data, pd.DataFrame(rows).fillna(""))
