"""Which evaluations speak of which case: quality and speed of the same weights and settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.metrics import METRICS
from bench.metrics.frechet import DIFFERENCE, SAME_SEED
from bench.metrics.metric import of_features, of_pixels, register_kept
from bench.study import strangers
from bench.study.cases import SAMPLING_KEYS, Case, make_case, make_foreign, methods
from bench.study.errors import UsageError
from bench.study.evaluations import Evaluation
from bench.tables.pareto import Known

#: Keys of a case that do not touch what it draws, or only by which images.
HOW = {"batch_size", "attention", "device", "seed", "memory_limit_gib"}
#: Keys that do, and may differ between an evaluation and a measured speed: a table says so.
#: With what a reader calls them.
MARKED = {
    "weights": "weights",
    "stack": "stack",
    "precision": "precision",
    "sampling": "preset",
    **{key: key for key in SAMPLING_KEYS},
}
#: Metrics whose figures are of one protocol in a table: those of `bench.py eval` have a network
#: and a reference in common, each of `bench.py iqa` has weights of its own and no reference.
ALONE = tuple(of_pixels())


def together() -> list[set[str]]:
    """The groups, of all metrics that there are."""
    return [
        {*of_features(), *(f"{name}_std" for name in of_features()), DIFFERENCE, SAME_SEED},
        *({*of_features(network)} for network in {m.network for m in METRICS.values()} - {""}),
        *({metric} for metric in ALONE),
    ]


@dataclass(frozen=True)
class Quality:
    """What evaluations say of a case, by metric.

    images: evaluated.  source: how many, and of what is not of the run itself the commit that drew
    them: "n=500 @2304b14a3".  differs: what quality and speed were not measured alike in, as a
    reader is told; "" if nothing.  against: an evaluation's, of a FID.  known: figures for
    comparisons with others of one protocol.
    """

    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    images: dict[str, int]
    source: dict[str, str]
    differs: dict[str, str]
    against: dict[str, Any] = field(default_factory=dict)
    known: dict[str, Known] = field(default_factory=dict)

    def __or__(self, other: Quality) -> Quality:
        """Figures of both, which have none in common."""
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return Quality(*(mine | its for mine, its in both))


@dataclass(frozen=True)
class Linked:
    """by_key: of each case that was evaluated.  how: what the figures rest on, by metric."""

    by_key: dict[str, Quality]
    how: dict[str, str]


def method_and_size(case: Case) -> dict[str, Any]:
    """What makes it this method and this size, whatever its weights and however it is run."""
    return case.model_dump(exclude={*HOW, *MARKED})


def case_of(evaluation: Evaluation) -> Case | None:
    """The case that was sampled, a plugin's as it was kept; None for images of unknown origin, for
    cases that cannot be, and for random weights, whose images say nothing of a method."""
    values = evaluation.case
    if values is None or values.get("weights", "seeded") == "seeded":
        return None
    try:
        values = {**values, "sampling": evaluation.preset or values["sampling"]}
        if values["method"] not in methods():
            return make_foreign(values, {"key": "", "label": evaluation.label, "steps": ""})
        return make_case(values)
    except (UsageError, KeyError):
        return None


def protocol_of(evaluation: Evaluation, metrics: set[str]) -> tuple[Any, ...]:
    """Of a group of `together`: figures of other networks, references or numbers of images are not
    comparable."""
    if metrics.issubset(ALONE):
        weights = evaluation.metric_weights_sha256 or {}
        return (evaluation.extractor, *(weights.get(metric) for metric in metrics))
    names = ("extractor", "extractor_sha256", "reference_sha256", "reference_images", "images")
    return tuple(getattr(evaluation, name) for name in names)


class Pair(NamedTuple):
    """A case with what is known of its weights (SHA-256 by source), and one evaluation that
    speaks of it, by the case that was sampled for that.  own: of the run's own folder."""

    case: Case
    weights_sha256: Mapping[str, str]
    sampled: Case
    evaluation: Evaluation
    own: bool = False


def link(
    cases: Sequence[Case],
    evaluations: Iterable[Evaluation],
    weights_sha256: Mapping[str, Mapping[str, str]] | None = None,
    folder: Path | None = None,
) -> Linked:
    """What the evaluations (newest first) say of each case.

    weights_sha256: by a case's key, of its weights by source, as far as they are known.  folder:
    the run's.  All figures of a group of `together` are by one network against one reference: those
    of the run's own samples, of most of the cases, or else the newest.  Of several evaluations of a
    case one of the run's own counts, then the one that is most like it, then the newest.
    """
    known = [(case, e) for e in evaluations if (case := case_of(e)) is not None]
    hashes = weights_sha256 or {}
    pairs = [
        pair
        for sampled, e in known
        for case in cases
        if speaks_of(pair := Pair(case, hashes.get(case.key, {}), sampled, e, e.is_in(folder)))
    ]
    for _, evaluation in known if strangers.folder() is None else ():
        register_kept(evaluation.foreign)
    by_key: dict[str, Quality] = {}
    how: dict[str, str] = {}
    for metrics in together():
        found = [pair for pair in pairs if metrics & pair.evaluation.metrics.keys()]
        of_one = of_one_protocol(found, metrics)
        shown: list[Pair] = []
        for case in dict.fromkeys(pair.case for pair in of_one):
            of_case = of_one_set([pair for pair in of_one if pair.case == case])
            quality = quality_of(of_case, metrics)
            by_key[case.key] = by_key[case.key] | quality if case.key in by_key else quality
            shown += of_case
        there = {metric for pair in shown for metric in pair.evaluation.metrics}
        how |= {metric: how_measured(shown) for metric in METRICS if metric in metrics & there}
    return Linked(by_key, how)


def of_one_protocol(found: Sequence[Pair], metrics: set[str]) -> list[Pair]:
    """Those of the protocol that most of the run's own have, most of the cases, or else the
    newest."""
    of_pair = [protocol_of(pair.evaluation, metrics) for pair in found]
    covered = Counter(
        protocol
        for protocol, _ in {(p, pair.case.key) for p, pair in zip(of_pair, found, strict=True)}
    )
    own = Counter(p for p, pair in zip(of_pair, found, strict=True) if pair.own)
    chosen = max(of_pair, key=lambda p: (own[p], covered[p]), default=None)  # the first of such
    return [pair for p, pair in zip(of_pair, found, strict=True) if p == chosen]


def speaks_of(pair: Pair) -> bool:
    """Whether it is the same method, and of the same weights; random ones are as fast as any of
    the same size, so that a speed measured with them goes with the quality of what was trained."""
    sampled, case = pair.sampled, pair.case
    if sampled.in_mini_world != case.in_mini_world:  # other sizes under the same names
        return False
    seeded = case.weights == "seeded"
    return method_and_size(sampled) == method_and_size(case) and (seeded or same_weights(pair))


def same_weights(pair: Pair) -> bool:
    """By their hashes, so that a file which was trained on is another one; where one side has
    none, by their sources ("published" and "finetuned" are the same for a plain VAR)."""
    from bench.methods.sources import sources_of

    known, sampled = pair.weights_sha256, pair.evaluation.weights_sha256 or {}
    return all(
        known[mine] == sampled[theirs] if mine in known and theirs in sampled else mine == theirs
        for mine, theirs in zip(sources_of(pair.case), sources_of(pair.sampled), strict=True)
    )


def differences(pair: Pair) -> dict[str, str]:
    """What differs between the case and the one that was sampled, as a reader is told."""
    case, sampled = pair.case, pair.sampled
    same = {"weights"} if same_weights(pair) else set()
    return {
        key: f"{name} {dict(sampled)[key]}, speed with {dict(case)[key]}"
        for key, name in MARKED.items()
        if key not in same and dict(sampled).get(key) != dict(case).get(key)
    }


def of_one_set(own: Sequence[Pair]) -> list[Pair]:
    """Of a case's, those of the run's own samples, or of those that are most like it; of several
    such the newest."""

    def which(pair: Pair) -> tuple[bool, dict[str, str], bool, str]:
        other_seed = pair.case.seed != pair.sampled.seed
        return not pair.own, differences(pair), other_seed, pair.evaluation.samples_sha256

    best = min(map(which, own), key=lambda one: (one[0], len(one[1]), one[2]))
    return [pair for pair in own if which(pair) == best]


def quality_of(own: Sequence[Pair], metrics: set[str]) -> Quality:
    """Of one case's pairs of one set of samples, newest first: each figure from the first."""
    words = "; ".join(differences(own[0]).values())
    quality = Quality({}, {}, {}, {}, {})
    for pair in own:
        evaluation, against = pair.evaluation, pair.evaluation.against or {}
        figures, intervals = dict(evaluation.metrics), dict(evaluation.right_intervals)
        if "fid" in against.get("differences", {}):
            figures[DIFFERENCE] = against["differences"]["fid"]
            low, high = against["difference_intervals"]["fid"]
            intervals[DIFFERENCE] = low, high
        if distances := against.get("distances"):
            figures[SAME_SEED] = distances["psnr_db"]["mean"]
            low, high = distances["psnr_db"]["interval"]
            intervals[SAME_SEED] = low, high
        joined = "" if pair.own else f" @{evaluation.source}"
        for name in metrics & figures.keys() - quality.figures.keys():
            quality.figures[name] = figures[name]
            quality.images[name], quality.differs[name] = evaluation.images, words
            quality.source[name] = f"n={evaluation.images:,}{joined}"
            if name in intervals:
                quality.intervals[name] = intervals[name]
            if name == "fid":
                quality.against.update(against)
            replicates = tuple(evaluation.replicates.get(name, ()))
            quality.known[name] = Known(
                figures[name], intervals.get(name), replicates, evaluation.seed
            )
    return quality


def how_measured(pairs: Sequence[Pair]) -> str:
    """One line."""
    evaluations = [pair.evaluation for pair in pairs]
    first = evaluations[0]
    counts = sorted({e.images for e in evaluations})
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    own = "" if first.published else " (weights of one's own)"
    if first.metric_weights_sha256 is not None:
        return f"{images} samples a row, by {first.extractor}{own}"
    floors = [e.floor["fid"] for e in evaluations if e.floor and "fid" in e.floor]
    floor = f"; as many real images: FID {floors[0]:.2f}" if floors else ""
    baselines = dict.fromkeys(str(e.against["label"]) for e in evaluations if e.against)
    against = f"; differences to {', '.join(baselines)}, paired" if baselines else ""
    few = "; fewer than 10,000: FID is mostly bias" if counts[0] < 10_000 else ""
    of = f" of {first.reference_images:,} images" if first.reference_images else ""
    return (
        f"{images} samples a row, features of {first.extractor}{own}, "
        f"reference {first.reference}{of}{against}{floor}{few}"
    )
