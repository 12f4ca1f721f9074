"""SAMPLES against REF, and against a BASELINE: features, figures, differences, one record."""

import datetime
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.measure import machine
from bench.metrics import METRICS, Given
from bench.metrics.coverage import DENSITY_NEIGHBOURS
from bench.metrics.frechet import Gaussian
from bench.metrics.jackknife import GROUPS, LEAST, Groups
from bench.metrics.metric import kept_facts, of_features, of_pixels
from bench.quality.against import Measured, are_paired, check_alike, compared
from bench.quality.features import Extractor, Features, extract
from bench.quality.images import ImageSet
from bench.quality.lpips import Distance
from bench.quality.reference import Reference, floor_of
from bench.study.errors import UsageError, nearest
from bench.study.evaluations import Evaluation

KEPT = {"fid"}  # metrics whose replicates a record keeps
FEW = 10_000  # images below which FID and IS are mostly bias

#: Told what is in work, how much of it is done, and of how much.
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Protocol:
    """How images are measured.

    wanted: metrics; None for all that can be had.  intervals: 95 % for each, where there are
    images enough.  as_published: with the evaluator's float16 distances.  lpips: of paired images.
    """

    reference: Reference
    extractor: Extractor
    cache: Path
    batch_size: int = 64
    wanted: Sequence[str] | None = None
    intervals: bool = True
    as_published: bool = False
    tell: Tell = lambda *_: None
    lpips: Distance | None = None

    def features(self, what: str, images: ImageSet, names: Iterable[str]) -> Features:
        """Of a set, all that the metrics need.  Raises UsageError."""
        layers = {METRICS[name].layer for name in names}

        def done(count: int) -> None:
            self.tell(f"features of the {what}", count, images.count)

        return extract(images, self.extractor, sorted(layers), self.cache, self.batch_size, done)


def evaluate(
    samples: ImageSet, protocol: Protocol, baseline: ImageSet | None = None
) -> tuple[Evaluation, list[str]]:
    """One record of the wanted metrics, compared with a baseline's if there is one, and notes.

    Raises UsageError before anything is extracted for what cannot be had or compared.
    """
    began = time.perf_counter()
    if baseline:
        check_alike(samples, baseline)
        chosen(baseline, protocol)
    paired = baseline is not None and are_paired(samples, baseline)
    names, notes = chosen(samples, protocol, paired)
    of_samples = protocol.features("samples", samples, names)
    distinct = of_samples.distinct
    if baseline:
        of_baseline = protocol.features("baseline", baseline, names)
        distinct = min(distinct, of_baseline.distinct)
    groups = groups_of(samples, distinct, protocol, names, notes)
    if baseline and names and groups is None:
        raise UsageError(f"--against: {notes[-1] if protocol.intervals else 'needs --intervals'}")
    found = measure(samples, of_samples, protocol, names, groups, of_baseline if baseline else None)
    record = record_of(samples, protocol, found)
    if baseline:
        theirs = measure(baseline, of_baseline, protocol, names, groups)
        record["against"] = compared(samples, baseline, found, theirs, protocol.lpips)
        if not record["against"]["paired"]:
            notes.append("The sets do not share seeds and classes: no distances image by image.")
    held = [name for name in names if METRICS[name].needs in ("distribution", "images")]
    if held and (real := floor_of(protocol.reference, samples.count)):
        floor = measure(real, protocol.features("floor", real, held), protocol, held, groups)
        record["floor"] = {name: one.value for name, one in floor.estimates.items()}
    theirs_too = theirs.notes if baseline else []
    notes += [*dict.fromkeys([*found.notes, *theirs_too]), *cautions(samples, protocol, names)]
    record["duration_s"] = time.perf_counter() - began
    return Evaluation.model_validate(record), notes


def groups_of(
    samples: ImageSet, distinct: int, protocol: Protocol, names: list[str], notes: list[str]
) -> Groups | None:
    """The groups that intervals rest on; None if there are to be none, or too few images, which
    is noted, and the metrics that need them leave `names`.

    distinct: how many images are no copies.  Copies in several groups make these alike, and an
    interval too narrow: with more than a tenth of them there is none.
    """
    widths = [
        protocol.extractor.widths[METRICS[name].layer]
        for name in names
        if METRICS[name].needs == "distribution"
    ]
    least = enough_for_intervals(max(widths, default=0))
    if protocol.intervals and distinct >= max(least, 0.9 * samples.count):
        return Groups.deal(samples.count, samples.labels)
    if protocol.intervals and any(not METRICS[name].per_image for name in names):
        why = f"{distinct:,} images are too few; they need {least:,}"
        if distinct >= least:
            why = f"only {distinct:,} of {samples.count:,} images are no copies of others"
        notes.append(f"No intervals: {why}.")
    names[:] = [name for name in names if not METRICS[name].groups_needed]
    return None


def measure(
    images: ImageSet,
    of_images: Features,
    protocol: Protocol,
    names: Sequence[str],
    groups: Groups | None,
    baseline: Features | None = None,
) -> Measured:
    """The metrics of one set, without a baseline those that need none.

    Raises UsageError for what its distinct images are too few for.
    """
    if baseline is None:
        names = [name for name in names if METRICS[name].needs != "baseline"]
    reference, device = protocol.reference, protocol.extractor.device
    from_images = {"images"} if reference.gaussians else {"images", "distribution"}
    held = [name for name in names if METRICS[name].needs in from_images]
    of_reference, real = None, reference.images
    notes = [*images.notes, *(real.notes if real else ())]
    if real and held:
        of_reference = protocol.features("reference", real, held)
        real = without_copies(real, of_reference, notes)
    check_counts(without_copies(images, of_images, notes), real, protocol, names)
    references = on(device, of_reference.layers if of_reference else {})
    known = {layer: gaussian.to(device) for layer, gaussian in reference.gaussians.items()}
    distributions = {METRICS[name].layer for name in names if METRICS[name].needs == "distribution"}
    given = Given(
        on(device, of_images.layers),
        references,
        {layer: known.get(layer) or Gaussian.of(references[layer]) for layer in distributions},
        None if images.labels is None else torch.as_tensor(images.labels),
        groups,
        protocol.as_published,
        on(device, baseline.layers if baseline else {}),
    )
    sha256 = of_reference.digest if of_reference else None
    found = Measured({}, of_images, reference.sha256 or sha256, notes)
    for i, name in enumerate(names):
        protocol.tell("figures", i, len(names))
        try:
            estimate = METRICS[name].compute(given)
        except ValueError as e:
            raise UsageError(f"{reference.name}: {e}") from None
        if not math.isfinite(estimate.value):
            raise UsageError(f"{name}: not finite; these features give no valid figure")
        found.estimates[name] = estimate
        if estimate.note:
            found.notes.append(estimate.note)
    return found


def on(device: torch.device, layers: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Features on a device."""
    return {name: features_ND.to(device) for name, features_ND in layers.items()}


def statistics_of(samples: ImageSet, protocol: Protocol) -> dict[str, Gaussian]:
    """Mean and covariance of each layer that a FID is of.  Raises UsageError."""
    extractor = protocol.extractor
    names = [
        metric.name
        for metric in METRICS.values()
        if metric.needs == "distribution" and metric.layer in extractor.widths
    ]
    layers = {METRICS[name].layer for name in names}
    for layer in layers:
        check_enough(samples, layer, extractor.widths[layer])
    found = protocol.features("samples", samples, names)
    for layer in layers:
        check_enough(without_copies(samples, found, []), layer, extractor.widths[layer])
    return {layer: Gaussian.of(found.layers[layer].to(extractor.device)) for layer in layers}


# What can be had


def chosen(
    samples: ImageSet, protocol: Protocol, paired: bool = False
) -> tuple[list[str], list[str]]:
    """The metrics to compute, and a note for each that is left out.

    paired: with a baseline of the same seeds and classes.
    Raises UsageError for one that was asked for and cannot be had, and for too few images.
    """
    wanted, extractor = protocol.wanted, protocol.extractor
    known = of_features(extractor.name) or of_features()
    if extractor.layer_sha256:
        known = of_pixels()
    if not extractor.widths:  # `--extractor none`: nothing but pixels and tokens
        known = {}
    for name in wanted or ():
        if name not in known:
            raise UsageError(f"--metrics {name}: no such metric{nearest(name, known)}")
    whys = {name: why_not(name, samples, protocol, paired) for name in wanted or known}
    lacking = {name: why for name, why in whys.items() if why}
    if wanted and lacking:
        name, why = next(iter(lacking.items()))
        raise UsageError(f"--metrics {name}: {why}")
    by_why: dict[str, list[str]] = {}
    for name, why in lacking.items():
        by_why.setdefault(why, []).append(name)
    notes = [f"Without {', '.join(left)}: {why}." for why, left in by_why.items()]
    names = [name for name in whys if name not in lacking]
    check_counts(samples, protocol.reference.images, protocol, names)
    return names, notes


def why_not(name: str, samples: ImageSet, protocol: Protocol, paired: bool) -> str:
    """Why a metric cannot be had, or ""."""
    metric, reference, extractor = METRICS[name], protocol.reference, protocol.extractor
    if metric.layer not in extractor.widths:
        return f"{extractor.name} has no {metric.layer} features"
    if metric.groups_needed and not protocol.intervals:
        return "it needs --intervals"
    if metric.needs == "baseline" and not paired:
        return "it needs --against a set of the same seeds and classes"
    if metric.needs == "distribution" and reference.gaussians:
        if metric.layer not in reference.gaussians:
            return f"{reference.name} has no statistics of {metric.layer} features"
    elif metric.needs in ("distribution", "images") and not reference.images:
        only = f"{reference.name} has statistics but no images"
        return only if reference.gaussians else "it needs a --reference"
    return metric.lacks(samples, extractor)


def check_counts(
    samples: ImageSet, real: ImageSet | None, protocol: Protocol, names: Sequence[str]
) -> None:
    """Refuses figures that so many images, or these statistics, cannot give."""
    reference, extractor = protocol.reference, protocol.extractor
    if reference.extractor not in (None, extractor.key):
        raise UsageError(
            f"{reference.name} was made by {reference.extractor}, not by {extractor.key}"
        )
    of_images = [] if reference.gaussians or not real else [real]
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
    of_neighbours = any(METRICS[name].needs == "images" for name in names)
    for held in (samples, real):
        if held and of_neighbours and held.count <= DENSITY_NEIGHBOURS:
            raise UsageError(
                f"{held.name}: {held.count} images have no {DENSITY_NEIGHBOURS} neighbours each, "
                "which precision, recall, density and coverage are of"
            )


def without_copies(images: ImageSet, found: Features, notes: list[str]) -> ImageSet:
    """A set by another name and count, for `check_counts`; adds a note for copies."""
    if found.distinct == images.count:
        return images
    copies = images.count - found.distinct
    notes.append(f"{images.name}: {copies:,} of {images.count:,} images are copies of others.")
    return replace(images, name=f"{images.name} without copies", count=found.distinct)


def enough_for_intervals(width: int) -> int:
    """How many images there must be for more than `width` of them without any two groups."""
    count = max(LEAST, width + 1)
    while count - 2 * math.ceil(count / GROUPS) <= width:
        count += 1
    return count


def check_enough(images: ImageSet, layer: str, width: int, instead: str = "") -> None:
    """Refuses a covariance that would be singular: its FID says more of the count than of the
    images.  instead: what the user can do."""
    if images.count <= width:
        raise UsageError(
            f"{images.name}: {images.count} images are too few for a FID over {width} {layer} "
            f"features, whose covariance would be singular: give more than {width}"
            + (f", or {instead}" if instead else "")
        )


def cautions(samples: ImageSet, protocol: Protocol, names: Sequence[str]) -> list[str]:
    """What keeps the figures from being compared with others."""
    notes, extractor, reference = [], protocol.extractor, protocol.reference
    if not extractor.published:
        notes.append(
            f"The weights of {extractor.name} are not the published ones: compare these figures "
            "with each other, not with papers."
        )
    if not any(METRICS[name].needs == "distribution" for name in names):
        return notes
    if reference.size is None:
        notes.append(f"{reference.name} does not say of which size its images were.")
    if samples.count < FEW:
        notes.append(
            f"{samples.count:,} images, fewer than {FEW:,}: FID is higher and IS lower than of "
            "many; compare only figures of as many images."
        )
    return notes


# The record


def record_of(samples: ImageSet, protocol: Protocol, found: Measured) -> dict[str, Any]:
    """All but its duration.  Of unknown origin unless the images are a sample set."""
    extractor, reference, manifest = protocol.extractor, protocol.reference, samples.manifest
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for name, one in found.estimates.items():
        values[name] = one.value
        if one.spread is not None:
            values[f"{name}_std"] = one.spread
        if span := one.within(METRICS[name].low, METRICS[name].high):
            intervals[name] = span
    by_class = [one.by_class for one in found.estimates.values() if one.by_class]
    own = {name: sha for name, sha in extractor.layer_sha256.items() if name in values}
    sampled = {key: manifest.get(key) for key in ("machine", "torch", "commit", "dirty")}
    names = ("case", "label", "preset", "seed", "sources", "weights_sha256")
    here = machine.environment()
    return {
        "samples": samples.name,
        "samples_sha256": found.features.digest,
        "images": samples.count,
        "size": samples.size,
        **{name: manifest.get(name) for name in names},
        "sampled": sampled if manifest else None,
        "reference": reference.name,
        "reference_sha256": found.reference_sha256,
        "reference_images": reference.images.count if reference.images else None,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "published": extractor.published,
        "as_published": protocol.as_published,
        **({"metric_weights_sha256": own} if own else {}),
        "metrics": values,
        "intervals": intervals,
        "replicates": {
            name: [float(f"{value:.7g}") for value in found.estimates[name].replicates]
            for name in KEPT & found.estimates.keys()
        },
        "groups": GROUPS if protocol.intervals else None,
        "foreign": kept_facts(found.estimates),
        "class_accuracy_by_class": by_class[0] if by_class else None,
        "machine": here["machine"],
        "device": str(extractor.device),
        "packages": {**here["packages"], "torch-fidelity": version("torch-fidelity")},
        "commit": here["commit"],
        "dirty": here["dirty"],
        "evaluated_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
