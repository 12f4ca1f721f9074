"""How long measuring a sweep or sampling its images takes, said before anything runs.

At a rate (`Rate`), one for all cases, though small batches reach less of it: `bench.py predict`
tells hours and cost of cards that are not here.  On this machine (`Forecast`): every --dry-run.
"""

import copy
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.measure.limit import format_bytes
from bench.predict.durations import Span, Speed, decoder_flops, of_round
from bench.predict.prediction import predict
from bench.predict.shares import families
from bench.study.cases import Case, sampled
from bench.study.columns import rounded
from bench.study.errors import UsageError
from bench.study.experiment import Sweep
from bench.study.printing import Printed
from bench.study.units import MIB

# Assumed of a process: to start, to import torch, to load or make its weights.
START_S = 20.0
RECORD_BYTES = 20_000  # of a measurement, its log too
PNG_SHARE = 0.62  # of three bytes a pixel
SHARES = tuple(0.5**k for k in range(7))  # of an effort's seconds, that `--minutes` tries


@dataclass(frozen=True)
class Terms:
    """rate: FLOP/s that a card reaches.  price: of an hour of one card.  gpus: cards at a time.
    images: to sample with each case; None: the sweep is to be measured."""

    rate: float
    price: float | None = None
    gpus: int = 1
    images: int | None = None


@dataclass(frozen=True)
class Rate:
    """So many FLOP/s for all cases."""

    flop_per_s: float

    def decode_s(self, case: Case) -> float:
        """By the FLOPs of all scales."""
        return sum(predict(case).flops) / self.flop_per_s

    def images_s(self, case: Case) -> float:
        """By the FLOPs of the image decoder."""
        return case.batch_size * decoder_flops(case) / self.flop_per_s

    def starting_s(self, case: Case, baseline: Case | None) -> Span:
        """As long for all; a baseline in the same process may be a process of its own."""
        return Span(START_S, START_S if baseline is None else 2 * START_S)


def sampling(case: Case, images: int, speed: Speed, gpus: int = 1) -> Span:
    """Of so many images by cards that share the batches, decoder included, writing not."""
    batches = -(-images // (case.batch_size * gpus))
    start = speed.starting_s(case, None).least
    seconds = start + batches * (speed.decode_s(case) + speed.images_s(case))
    return Span(seconds, seconds)


def measuring(case: Case, sweep: Sweep, speed: Speed) -> Span:
    """Of one round of a case."""
    baseline = sweep.baseline_case(case) if sweep.experiment.paired else None
    return of_round(case, None if baseline == case else baseline, sweep.experiment, speed)


def before_a_run(sweep: Sweep, speed: Speed, left: Sequence[Case]) -> Printed:
    """The table of `run --dry-run`.  left: the cases still to be measured, one for each round."""
    spans = {case.key: measuring(case, sweep, speed) for case in sweep.cases}
    total = sum((spans[case.key] for case in left), Span(0, 0))
    rounds = Counter(case.key for case in left)
    shown = [(case, spans[case.key] * rounds[case.key]) for case in sweep.cases]
    needs = f"{len(left)} measurements of {len(rounds)} cases: {minutes(total)} minutes."
    return before(sweep.experiment.title, shown, needs, len(left) * RECORD_BYTES)


def before_sampling(title: str, images: Mapping[Case, tuple[int, int]], speed: Speed) -> Printed:
    """The table of `sample --dry-run`.  images: of each case, how many and the side of one."""
    shown = [(case, sampling(case, count, speed)) for case, (count, _) in images.items()]
    total = sum((span for _, span in shown), Span(0, 0))
    disk = sum(PNG_SHARE * count * 3 * side**2 for count, side in images.values())
    count = sum(count for count, _ in images.values())
    counted = f"{count} images of {len(images)} cases: {minutes(total)} minutes."
    return before(title, shown, counted, disk)


def before(title: str, spans: Sequence[tuple[Case, Span]], needs: str, disk: float) -> Printed:
    """Minutes and memory of each case; what all of it needs, as a note."""
    rows = [
        {
            "method": case.label,
            "batch": case.batch_size,
            "stack": case.stack,
            "prec.": case.precision,
            "minutes": minutes(span),
            "memory MiB": f"{predict(case).total_bytes / MIB:,.0f}",
        }
        for case, span in spans
    ]
    most = max(predict(case).total_bytes for case, _ in spans)
    notes = [
        f"{needs}  Memory: {format_bytes(most)}.  Disk: {format_bytes(max(disk, MIB))}.",
        "Disk without weights.  Estimated from shapes and what was measured on this machine; "
        "`profile` measures most of it.",
    ]
    data = pd.DataFrame(rows)
    return Printed(f"{title}: before it runs", data, data.astype(str), notes)


def minutes(span: Span) -> str:
    """Of seconds."""
    return said(span * (1 / 60))


def shortened(sweep: Sweep, speed: Speed, seconds: float) -> list[str]:
    """The most thorough effort that fits into the time, as `--set` has it; as it is, if it fits.

    Raises UsageError where not even one round of the shortest does.
    """
    own, tried = sweep.experiment, []
    for rounds, share in itertools.product(range(own.rounds, 0, -1), SHARES):
        effort = own.model_copy(update={"rounds": rounds, "max_seconds": own.max_seconds * share})
        planned = copy.copy(sweep)
        planned.experiment = effort
        took = sum(measuring(case, planned, speed).most for case in sweep.cases) * rounds
        tried.append((took, effort))
    fitting = [(took, effort) for took, effort in tried if took <= seconds]
    if not fitting:
        least = min(took for took, _ in tried) / 60
        raise UsageError(
            f"--minutes: a round of all {len(sweep.cases)} cases takes {rounded(least, 2)}; give "
            "so many, or choose fewer cases with --set"
        )
    best = max(fitting, key=lambda one: one[0])[1]
    names = ("rounds", "max_seconds")
    return [f"{n}={v:g}" for n in names if (v := getattr(best, n)) != getattr(own, n)]


def on_cards(jobs: list[float], gpus: int) -> float:
    """When the last is done, if each card takes the next, the largest first."""
    busy = [0.0] * gpus
    for seconds in sorted(jobs, reverse=True):
        busy.sort()
        busy[0] += seconds
    return max(busy)


def estimate(sweep: Sweep, terms: Terms) -> Printed:
    """The table of `bench.py predict --rate`; to sample, of what can be sampled."""
    cases = sampled(sweep.cases, sweep.name) if terms.images else sweep.cases
    speed = Rate(terms.rate)
    spans = {
        case.key: sampling(case, terms.images, speed)
        if terms.images
        else measuring(case, sweep, speed) * sweep.experiment.rounds
        for case in cases
    }
    rows = [
        {
            "method": case.label,
            "batch_size": case.batch_size,
            "stack": case.stack,
            "precision": case.precision,
            "tflops": sum(predict(case).flops) / 1e12,
            "decoder_tflops": Rate(1e12).images_s(case),
            "decode_s": speed.decode_s(case),
            "hours_least": spans[case.key].least / 3600,
            "hours_most": spans[case.key].most / 3600,
        }
        for case in cases
    ]
    data = pd.DataFrame(rows)
    text = data[["method", "batch_size", "stack"]].rename(columns={"batch_size": "batch"})
    for name, heading in (
        ("tflops", "TFLOP"),
        ("decoder_tflops", "decoder TFLOP"),
        ("decode_s", "decode s"),
        ("hours_least", "hours at least"),
        ("hours_most", "at most"),
    ):
        text[heading] = data[name].map(rounded)
    if terms.images:  # all cards share the images of each case
        shared = [sampling(case, terms.images, speed, terms.gpus).most for case in cases]
        ends = Span(sum(shared) / 3600, sum(shared) / 3600)
    else:
        jobs = [[spans[case.key] for case in family.cases] for family in families(sweep, "any")]
        least = on_cards([sum(span.least for span in job) for job in jobs], terms.gpus)
        most = on_cards([sum(span.most for span in job) for job in jobs], terms.gpus)
        ends = Span(least / 3600, most / 3600)
    hours = Span(data["hours_least"].sum(), data["hours_most"].sum())
    what = f"{terms.images} images of each" if terms.images else "all rounds of all"
    notes = [
        f"One card, {what}: {said(hours)} hours.",
        f"At {terms.rate / 1e12:g} TFLOP/s for all, which small batches do not reach, and "
        f"{START_S:g} s for a process to start and load.",
    ]
    if terms.gpus > 1:
        notes.insert(1, f"{terms.gpus} cards: {said(ends)} hours until the last is done.")
    if terms.price is not None:
        paid = said(ends * (terms.price * terms.gpus))
        notes.append(f"At {terms.price:g} an hour for each card until then: {paid}.")
    return Printed(f"{sweep.experiment.title}: hours", data, text, notes, names=3)


def said(span: Span) -> str:
    """The least and the most, or one number where they are the same."""
    least, most = rounded(span.least, 2), rounded(span.most, 2)
    return least if least == most else f"{least} to {most}"
