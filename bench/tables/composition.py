"""Do savings multiply and losses add up where two methods are combined?

A case's parts are its method, if that is not the baseline's, and each key of `savings.KEYS` that is
set.  A pair is a case of two parts whose parts were also measured alone, in the same run.
"""

import itertools
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.metrics.frechet import DIFFERENCE
from bench.study import savings
from bench.study.cases import Case, VARCase
from bench.study.errors import UsageError
from bench.study.printing import Printed, missing
from bench.tables import frames
from bench.tables.frames import Run

Part = tuple[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two methods together, held against each alone; all against the baseline.

    speed: the pair's speed-up over the product of both.  loss: the pair's FID difference less the
    sum of both, loss_within the half-width of its 95 % interval; NaN where it was not measured.
    """

    one: str
    other: str
    speed: float
    loss: float
    loss_within: float


def parts_of(case: Case, base: Case) -> frozenset[Part]:
    """What sets the case apart from the baseline."""
    if not isinstance(case, VARCase):
        return frozenset()
    found: list[Part] = []
    if case.method != base.method:
        found.append(("method", case.model_copy(update=savings.NONE).label))
    for key in savings.KEYS:
        if (value := getattr(case, key)) != savings.NONE[key]:
            alone = case.model_copy(update={**savings.NONE, key: value})
            found.append((key, savings.label(alone).removeprefix(", ")))
    return frozenset(found)


def pairs_of(run: Run) -> tuple[list[str], list[Pair]]:
    """The names of the parts, and every pair of them that was measured.

    Raises UsageError where there is none.
    """
    sweep, by_parts = run.sweep, dict[frozenset[Part], str]()
    for case in sweep.cases:
        if base := sweep.baseline_case(case):
            by_parts[parts_of(case, base)] = case.key
    singles = [next(iter(parts)) for parts in by_parts if len(parts) == 1]
    combined = [
        (one, other, by_parts[both])
        for one, other in itertools.combinations(singles, 2)
        if (both := frozenset((one, other))) in by_parts
    ]
    if not combined:
        raise UsageError(f"{sweep.name}: has no two methods alone and together")
    figures = frames.frame(run).to_dict("records")
    rows = dict(zip((case.key for case in sweep.cases), figures, strict=False))
    found = []
    for one, other, key in combined:
        alone = (rows[by_parts[frozenset((part,))]] for part in (one, other))
        found.append(held_against(one[1], other[1], rows[key], *alone))
    return [name for _, name in singles], found


def held_against(one: str, other: str, both: Any, a: Any, b: Any) -> Pair:
    """One pair of rows and their combination's."""

    def figure(row: Any, name: str) -> float:
        value = row.get(name)
        return math.nan if missing(value) else float(value)

    losses = [figure(row, DIFFERENCE) for row in (both, a, b)]
    halves = [
        (figure(row, f"{DIFFERENCE}_high") - figure(row, f"{DIFFERENCE}_low")) / 2
        for row in (both, a, b)
    ]
    speeds = [figure(row, "speedup") for row in (both, a, b)]
    return Pair(
        one,
        other,
        speed=speeds[0] / (speeds[1] * speeds[2]),
        loss=losses[0] - losses[1] - losses[2],
        loss_within=math.hypot(*halves),
    )


def tables(runs: Iterable[Run]) -> list[Printed]:
    """Of the runs whose experiment is of pairs."""
    of_pairs = [run for run in runs if "composition" in run.sweep.experiment.figures]
    with suppress(UsageError):  # --set has left none
        return [table(run) for run in of_pairs]
    return []


def table(run: Run) -> Printed:
    """A row a pair, those that lose most beyond their sum first."""
    _, pairs = pairs_of(run)
    pairs = sorted(pairs, key=lambda pair: -pair.loss if pair.loss == pair.loss else math.inf)
    data = pd.DataFrame([vars(pair) for pair in pairs])
    text = pd.DataFrame(
        {
            "one": data["one"],
            "other": data["other"],
            "speed-up / product": data["speed"].map("{:.2f}".format),
            "FID loss - sum": [
                "" if math.isnan(p.loss) else f"{p.loss:+.2f} ± {p.loss_within:.2f}" for p in pairs
            ],
        }
    )
    notes = [
        "1.00: the speed-up of both is the product of each.  0: the loss of both is the sum of "
        "each; ±: 95 %, the three losses taken as independent.",
    ]
    return Printed("Composition", data, text, notes)
