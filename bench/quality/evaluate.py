"""SAMPLES against REF: which figures can be had, their features, the figures, one record."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.measure import machine
from bench.metrics import Given
from bench.metrics.coverage import NEIGHBOURS
from bench.metrics.frechet import Gaussian
from bench.metrics.halves import GROUPS, Halves, interval
from bench.metrics.metric import of_features, of_pixels
from bench.quality.features import Extractor, Features, extract
from bench.quality.images import ImageSet
from bench.quality.reference import Reference
from bench.study.errors import UsageError
from bench.study.evaluations import Evaluation

METRICS = of_features() | of_pixels()

#: Told what is in work, how much of it is done, and of how much.
Tell = Callable[[str, int, int], None]


@dataclass
class Figures:
    """values, intervals: by metric.  by_class: accuracy.  notes: what a reader must know."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    by_class: list[float] | None
    notes: list[str]


def evaluate(
    samples: ImageSet,
    reference: Reference,
    extractor: Extractor,
    wanted: Sequence[str] | None,
    bootstrap: int,
    cache: Path,
    batch_size: int,
    tell: Tell = lambda what, done, total: None,
) -> tuple[Evaluation, list[str]]:
    """One record of the wanted metrics (by default all that can be had), and notes.

    bootstrap: how many halves of the samples give the intervals; 0: none.
    Raises UsageError before anything is extracted for what cannot be had.
    """
    began = time.perf_counter()
    names, notes = chosen(samples, reference, extractor, wanted)
    check_counts(samples, reference, extractor, names, bootstrap)

    def features(what: str, images: ImageSet, layers: Sequence[str]) -> Features:
        def done(count: int) -> None:
            tell(f"features of the {what}", count, images.count)

        return extract(images, extractor, layers, cache, batch_size, done)

    of_samples = features("samples", samples, sorted({METRICS[name].layer for name in names}))
    of_reference = None
    if reference.images and (layers := layers_of(reference, names)):
        of_reference = features("reference", reference.images, layers)
    found = figures(
        names,
        of_samples,
        of_reference,
        reference,
        samples.labels,
        bootstrap,
        extractor.device,
        tell,
    )
    own = {name: sha for name, sha in extractor.layer_sha256.items() if name in names}
    weights = {"metric_weights_sha256": own} if own else {}
    record = {
        **record_of(samples, of_samples.digest),
        **measured_by(reference, of_reference, extractor),
        **weights,
        "metrics": found.values,
        "intervals": found.intervals,
        "bootstrap": bootstrap,
        "class_accuracy_by_class": found.by_class,
        **here(extractor.device),
        "duration_s": time.perf_counter() - began,
    }
    return Evaluation.model_validate(record), [
        *notes,
        *found.notes,
        *cautions(reference, extractor, names),
    ]


def measured_by(
    reference: Reference, of_reference: Features | None, extractor: Extractor
) -> dict[str, Any]:
    """What a record's figures rest on: the reference and the network, with their hashes."""
    return {
        "reference": reference.name,
        "reference_sha256": reference.sha256 or (of_reference and of_reference.digest),
        "reference_images": reference.images.count if reference.images else None,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "published": extractor.published,
    }


def statistics_of(
    samples: ImageSet,
    extractor: Extractor,
    cache: Path,
    batch_size: int,
    tell: Tell = lambda what, done, total: None,
) -> dict[str, Gaussian]:
    """Mean and covariance of each layer that a FID is of.  Raises UsageError."""
    layers = [
        metric.layer
        for metric in METRICS.values()
        if metric.needs == "distribution" and metric.layer in extractor.widths
    ]
    for layer in layers:
        check_enough(samples, layer, extractor.widths[layer])

    def done(count: int) -> None:
        tell("features of the samples", count, samples.count)

    found = extract(samples, extractor, layers, cache, batch_size, done)
    return {layer: Gaussian.of(found.layers[layer].to(extractor.device)) for layer in layers}


# What can be had


def chosen(
    samples: ImageSet, reference: Reference, extractor: Extractor, wanted: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The metrics to compute, and a note for each that is left out.

    Raises UsageError for one that was asked for and cannot be had.
    """
    known = of_pixels() if extractor.layer_sha256 else of_features()
    for name in wanted or ():
        if name not in known:
            raise UsageError(f"--metrics {name}: no such metric; there are {', '.join(known)}")
    whys = {name: why_not(name, samples, reference, extractor) for name in wanted or known}
    lacking = {name: why for name, why in whys.items() if why}
    if wanted and lacking:
        name, why = next(iter(lacking.items()))
        raise UsageError(f"--metrics {name}: {why}")
    by_why: dict[str, list[str]] = {}
    for name, why in lacking.items():
        by_why.setdefault(why, []).append(name)
    notes = [f"Without {' and '.join(left)}: {why}." for why, left in by_why.items()]
    return [name for name in whys if name not in lacking], notes


def why_not(name: str, samples: ImageSet, reference: Reference, extractor: Extractor) -> str:
    """Why a metric cannot be had, or ""."""
    metric = METRICS[name]
    if metric.layer not in extractor.widths:
        return f"{extractor.name} has no {metric.layer} features"
    if metric.needs == "distribution" and reference.gaussians:
        if metric.layer not in reference.gaussians:
            return f"{reference.name} has no statistics of {metric.layer} features"
    elif metric.needs in ("distribution", "images") and not reference.images:
        only = f"{reference.name} has statistics but no images"
        return only if reference.gaussians else "it needs a --reference"
    return metric.lacks(samples, extractor)


def layers_of(reference: Reference, names: Sequence[str]) -> list[str]:
    """Layers that the reference's images are needed for."""
    from_images = {"images"} if reference.gaussians else {"images", "distribution"}
    return sorted({METRICS[name].layer for name in names if METRICS[name].needs in from_images})


def check_counts(
    samples: ImageSet,
    reference: Reference,
    extractor: Extractor,
    names: Sequence[str],
    bootstrap: int,
) -> None:
    """Refuses figures that so many images, or these statistics, cannot give."""
    if reference.extractor not in (None, extractor.key):
        raise UsageError(
            f"{reference.name} was made by {reference.extractor}, not by {extractor.key}"
        )
    of_images = [] if reference.gaussians or not reference.images else [reference.images]
    distributions = [name for name in names if METRICS[name].needs == "distribution"]
    for name in distributions:
        layer = METRICS[name].layer
        width = extractor.widths[layer]
        gaussian = reference.gaussians.get(layer)
        if gaussian and len(gaussian.mu) != width:
            raise UsageError(
                f"{reference.name} is of {len(gaussian.mu)} features, {extractor.name} has {width}"
            )
        others = ",".join(other for other in names if other not in distributions)
        for images in (samples, *of_images):
            check_enough(images, layer, width, f"--metrics {others}" if others else "")
        if bootstrap and samples.count < (least := enough_for_halves(width)):
            raise UsageError(
                f"--bootstrap: half of {samples.count} images are too few for a {name} over "
                f"{width} features: give {least} at least, or leave it out"
            )
    of_neighbours = any(METRICS[name].needs == "images" for name in names)
    for held in (samples, reference.images):
        if held and of_neighbours and held.count <= NEIGHBOURS:
            raise UsageError(
                f"{held.name}: {held.count} images have no {NEIGHBOURS} neighbours each, "
                "which precision and recall are of"
            )
    if bootstrap and samples.count < 2 * GROUPS:
        raise UsageError(
            f"--bootstrap: {samples.count} images are too few; {2 * GROUPS} at least are needed"
        )


def enough_for_halves(width: int) -> int:
    """How many images there must be for every half to have more of them than features."""
    return GROUPS * (width // (GROUPS // 2) + 1)


def check_enough(images: ImageSet, layer: str, width: int, instead: str = "") -> None:
    """Refuses a covariance that would be singular: its FID says more of the count than of the
    images.  instead: what the user can do."""
    if images.count <= width:
        raise UsageError(
            f"{images.name}: {images.count} images are too few for a FID over {width} {layer} "
            f"features, whose covariance would be singular: give more than {width}"
            + (f", or {instead}" if instead else "")
        )


# Figures


def figures(
    names: Sequence[str],
    samples: Features,
    of_reference: Features | None,
    reference: Reference,
    labels: Any,
    bootstrap: int,
    device: torch.device,
    tell: Tell,
) -> Figures:
    """The metrics by name, from features."""
    count = len(next(iter(samples.layers.values())))
    references = on(device, of_reference.layers if of_reference else {})
    known = {layer: gaussian.to(device) for layer, gaussian in reference.gaussians.items()}
    distributions = {METRICS[name].layer for name in names if METRICS[name].needs == "distribution"}
    given = Given(
        on(device, samples.layers),
        references,
        {layer: known.get(layer) or Gaussian.of(references[layer]) for layer in distributions},
        None if labels is None else torch.as_tensor(labels),
        Halves.draw(count, bootstrap, labels) if bootstrap else None,
    )
    found = Figures({}, {}, None, [])
    for i, name in enumerate(names):
        tell("figures", i, len(names))
        metric = METRICS[name]
        try:
            estimate = metric.compute(given)
        except ValueError as e:
            raise UsageError(f"{reference.name}: {e}") from None
        if not math.isfinite(estimate.value):
            raise UsageError(f"{name}: not finite; these features give no valid figure")
        found.values[name] = estimate.value
        if estimate.spread is not None:
            found.values[f"{name}_std"] = estimate.spread
        if estimate.interval:
            found.intervals[name] = estimate.interval
        elif estimate.of_halves:
            bounds = metric.low, metric.high
            found.intervals[name] = interval(estimate.value, estimate.of_halves, *bounds)
        if estimate.note:
            found.notes.append(estimate.note)
        found.by_class = found.by_class or estimate.by_class
    return found


def on(device: torch.device, layers: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: features_ND.to(device) for name, features_ND in layers.items()}


def cautions(reference: Reference, extractor: Extractor, names: Sequence[str]) -> list[str]:
    """What keeps the figures from being compared with others."""
    notes = []
    if not extractor.published:
        notes.append(
            f"The weights of {extractor.name} are not the published ones: compare these figures "
            "with each other, not with papers."
        )
    if reference.size is None and any(METRICS[n].needs == "distribution" for n in names):
        notes.append(f"{reference.name} does not say of which size its images were.")
    return notes


# The record


def record_of(samples: ImageSet, digest: str) -> dict[str, Any]:
    """Where the samples are from; of unknown origin unless it is a sample set."""
    manifest = samples.manifest
    sampled = {key: manifest.get(key) for key in ("machine", "torch", "commit", "dirty")}
    names = ("case", "label", "preset", "seed", "sources", "weights_sha256")
    return {
        "samples": samples.name,
        "samples_sha256": digest,
        "images": samples.count,
        "size": samples.size,
        **{name: manifest.get(name) for name in names},
        "sampled": sampled if manifest else None,
    }


def here(device: torch.device) -> dict[str, Any]:
    """This machine, as a record names it."""
    found = machine.environment()
    packages = {**found["packages"], "torch-fidelity": version("torch-fidelity")}
    return {
        "machine": found["machine"],
        "device": str(device),
        "packages": packages,
        "commit": found["commit"],
        "dirty": found["dirty"],
        "evaluated_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
