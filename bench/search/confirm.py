"""Found plans against the published ones of the same cost, on seeds that the search never saw.

Every set shares its images' seeds and classes, so differences are paired.  Over all comparisons
p-values are corrected (Holm): the chance that even one difference is called real by luck is 5 %.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from bench.metrics.jackknife import GROUPS
from bench.quality import evaluate, sampling
from bench.quality import reproduce as whole
from bench.quality.evaluate import METRICS, Protocol
from bench.quality.images import ImageSet, open_images
from bench.quality.reference import open_reference
from bench.quality.wanted import Wanted
from bench.search.race import Raced
from bench.search.space import Steps
from bench.search.target import WITHIN, Target, said
from bench.search.world import case_of
from bench.study import evaluations, storage
from bench.study.cases import VARCase
from bench.study.columns import format_figure
from bench.study.errors import UsageError
from bench.study.evaluations import Evaluation
from bench.study.printing import Printed
from bench.tables.stats import holm
from codevar.progress import Progress

COMPARED = ("fid", "class_accuracy")
ALPHA = 0.05
WHOLE = "the whole model"


@dataclass(frozen=True)
class Versus:
    """A found plan against another by one metric.  difference: the found one's less the other's.

    p: corrected over all comparisons with published plans; None against the whole model.
    """

    found: str
    other: str
    metric: str
    value: float
    other_value: float
    difference: float
    interval: tuple[float, float]
    p: float | None = None

    @property
    def verdict(self) -> str:
        """Of the found one."""
        if self.p is None or self.p > ALPHA:
            return "" if self.p is None else "cannot be told"
        lower = self.difference < 0
        return "better" if lower == METRICS[self.metric].lower_is_better else "worse"


def p_value(difference: float, interval: tuple[float, float]) -> float:
    """Two-sided, of a difference with this 95 % interval; by its end that is nearer to zero, since
    intervals of shares are lopsided."""
    half = difference - interval[0] if difference > 0 else interval[1] - difference
    if not half:
        return float(difference == 0)
    freedom = GROUPS // 2  # as intervals have it
    error = half / student.ppf(0.975, freedom)
    return float(2 * student.sf(abs(difference) / error, freedom))


def corrected(comparisons: Sequence[Versus]) -> list[Versus]:
    """With Holm's correction over those against published plans."""
    against = [one for one in comparisons if one.other != WHOLE]
    adjusted = holm(np.array([p_value(one.difference, one.interval) for one in against]))
    found = iter(adjusted.tolist())
    return [one if one.other == WHOLE else replace(one, p=next(found)) for one in comparisons]


@dataclass
class Confirmation:
    """Sample sets and evaluations of a search's folder; what is there is not made again.

    images: of each set.  seed: of the sets.  protocol: all but the reference.
    """

    target: Target
    folder: Path
    images: int
    seed: int
    device: str
    reference: str
    protocol: Protocol
    env: dict[str, Any]
    progress: Progress

    def check(self) -> None:
        """Raises UsageError, before the search, for fewer images than a paired FID needs."""
        case = self.case([{"scales": f"1-{self.target.scales}"}], WHOLE)
        classes, _ = sampling.sizes(case)
        width = self.protocol.extractor.widths["pool"]
        least = evaluate.enough_for_intervals(width)
        if self.images < least:
            raise UsageError(
                f"--confirm {self.images}: paired FIDs over {width} features need {least} images, "
                f"as many of each class: --confirm {math.ceil(least / classes) * classes}"
            )
        whole.check(case, self.images // classes, self.reference, self.protocol)

    def case(self, steps: Steps, name: str) -> VARCase:
        """A plan in the mini world."""
        return case_of(steps, self.device, name)

    def images_of(self, steps: Steps, name: str) -> ImageSet:
        """The set of a plan, made where it is not there."""
        case = self.case(steps, name)
        classes, _ = sampling.sizes(case)
        wanted = Wanted(case, self.seed, self.images // classes, "npz")
        folder = self.folder / whole.SAMPLES / case.key
        sampling.sample(wanted, folder, self.env, self.progress, resume=True)
        return open_images(folder)

    def compare(self, samples: ImageSet, other: ImageSet) -> Evaluation:
        """Their evaluation; kept in the folder."""
        exact = replace(self.protocol, reference=open_reference(self.reference, samples.size))
        if kept := whole.evaluated(self.folder, samples, exact, other):
            return kept
        found, _ = evaluate.evaluate(samples, exact, other)
        evaluations.append(self.folder, found)
        return found

    def run(
        self, front: Mapping[str, Raced], published: Sequence[Mapping[str, Any]]
    ) -> list[Versus]:
        """Each plan of the front against the whole model, and against every published plan that
        costs the same, or more but no more than the budget.  published: name, by_scale, costs."""
        found = []
        every = f"1-{self.target.scales}"
        for name, plan in front.items():
            cost = self.target.cost
            least, most = cost(plan.costs) * (1 - WITHIN), cost(self.target.limits) * (1 + WITHIN)
            same = {
                one["name"]: one["by_scale"]
                for one in published
                if one["by_scale"] != plan.plan and least <= cost(one["costs"]) <= most
            }
            samples = self.images_of(plan.plan, name)
            for other, steps in {WHOLE: [{"scales": every}], **same}.items():
                record = self.compare(samples, self.images_of(steps, other))
                assert record.against
                for metric in COMPARED:
                    keys = ("metrics", "differences", "difference_intervals")
                    theirs, apart, interval = (record.against[key][metric] for key in keys)
                    own = record.metrics[metric]
                    found.append(Versus(name, other, metric, own, theirs, apart, tuple(interval)))
        return corrected(found)


def printed(target: Target, front: Mapping[str, Raced], found: Sequence[Versus]) -> Printed:
    """What was found, and how it holds against what was published."""
    rows = [
        {
            "plan": one.found,
            "against": one.other,
            "metric": METRICS[one.metric].heading,
            "found": format_figure(METRICS[one.metric].format, one.value),
            "other": format_figure(METRICS[one.metric].format, one.other_value),
            "difference": f"{one.difference:+.3g}",
            "95 %": f"{one.interval[0]:+.3g} to {one.interval[1]:+.3g}",
            "p (Holm)": "" if one.p is None else f"{one.p:.2g}",
            "is": one.verdict,
        }
        for one in found
    ]
    notes = [f"{name}: {said(plan.costs)}; {toml(plan.plan)}." for name, plan in front.items()]
    for name in front:
        own = [one for one in found if one.found == name and one.other != WHOLE]
        fids = {one.other: one.verdict for one in own if one.metric == "fid"}
        lost = [o.other for o in own if o.metric == "class_accuracy" and o.verdict == "worse"]
        beaten = [other for other, verdict in fids.items() if verdict == "better"]
        beaten = [other for other in beaten if other not in lost]
        if not fids:
            notes.append(f"{name}: no other published plan costs as much within the budget.")
        elif len(beaten) == len(fids):
            notes.append(f"{name} beats every published plan of its cost: {', '.join(fids)}.")
        else:
            left = [other for other in fids if other not in beaten]
            notes.append(f"{name} does not beat {', '.join(left)}.")
    data = pd.DataFrame([{**vars(one), "verdict": one.verdict} for one in found])
    return Printed(f"Plans found for {target.text}", data, pd.DataFrame(rows), notes, names=3)


def toml(value: Any) -> str:
    """A value as TOML writes it in a line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def write_experiment(file: Path, target: Target, name: str, plan: Raced) -> None:
    """The plan as an experiment of the target's models; `--set` makes it one of others."""
    case = target.case(plan.plan, name)
    keys = ("depth", "other_depth", "batch_size", "stack", "weights", "sampling")
    defaults = {key: value for key, value in case.model_dump().items() if key in keys}
    other = defaults.pop("other_depth")
    lines = [
        f"# Found by `bench.py search --for {target.text}`: {said(plan.costs)},",
        f"# KID {plan.loss:.3g} from the whole model on the mini world.",
        f"title = {toml(f'Found for {target.text}')}",
        f"baseline = {toml({'method': 'var', 'depth': defaults['depth']})}",
        "",
        "[defaults]",
        *(f"{key} = {toml(value)}" for key, value in defaults.items()),
        "",
        "[[cases]]",
        'method = "var"',
        "",
        "[[cases]]",
        'method = "plan"',
        f"name = {toml(name)}",
        f"other_depth = {other}",
        "by_scale = [",
        *(f"    {toml(step)}," for step in plan.plan),
        "]",
    ]
    storage.write_text(file, "\n".join(lines) + "\n")
