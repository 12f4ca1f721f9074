"""What the papers claim, against what was measured: `results/papers/claims.toml`.

A claim says that one case is better than another.  It holds if the 95 % interval of the paired
difference lies on that side of zero, does not hold if it lies on the other, and is not resolved
else; how many images would resolve a difference of the size that was found is told then.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from bench.metrics import METRICS
from bench.study import papers
from bench.study.columns import format_figure
from bench.study.folders import PAPERS
from bench.study.printing import Printed
from bench.tables.frames import Run
from bench.tables.pareto import Known

METRIC = "fid"
FILE = PAPERS / "claims.toml"
MOST = 1_000_000  # images: nobody draws more

Keys = Mapping[str, str]


class Claim(BaseModel):
    """One line of the file, or several of one kind (`each`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    says: str
    experiment: str
    better: dict[str, str]
    worse: dict[str, str]
    each: list[dict[str, int | str]] = Field(default=[{}])
    paper: str = ""
    paper_better: dict[str, str] = {}
    paper_worse: dict[str, str] = {}

    def printed(self, keys: Keys) -> float | None:
        """What the paper has for a case; None where it prints nothing."""
        if not self.paper:
            return None
        return papers.load(self.paper).select(keys, {}).columns[f"{METRIC}_paper"]


def read() -> list[Claim]:
    """All claims, a line each."""
    found = []
    for entry in tomllib.loads(FILE.read_text("utf-8"))["claims"]:
        claim = Claim.model_validate(entry)
        for values in claim.each:
            row: dict[str, Any] = {"says": claim.says.format_map(values), "each": [values]}
            for side in ("better", "worse", "paper_better", "paper_worse"):
                keys: Keys = getattr(claim, side)
                row[side] = {key: text.format_map(values) for key, text in keys.items()}
            found.append(claim.model_copy(update=row))
    return found


def known(run: Run, keys: Keys) -> tuple[Known, int] | None:
    """What was measured of the one case of an experiment that has these keys, and on how many
    images; None where nothing was."""
    for case in run.sweep.cases:
        if all(str(getattr(case, key, None)) == text for key, text in keys.items()):
            quality = run.quality.by_key.get(case.key)
            if quality and METRIC in quality.known:
                return quality.known[METRIC], quality.images[METRIC]
    return None


def verdict(interval: tuple[float, float] | None) -> str:
    """From the interval of the better case's FID minus the other's: less FID is better."""
    if interval is None:
        return "no interval"
    return "holds" if interval[1] < 0 else "does not hold" if interval[0] > 0 else "not resolved"


def images_to_decide(difference: float, interval: tuple[float, float], images: int) -> float:
    """So many that a difference of this size would have an interval without zero."""
    half = (interval[1] - interval[0]) / 2
    return images * (half / difference) ** 2 if difference else math.inf


def table(runs_of: Callable[[str], Sequence[Run]]) -> Printed:
    """A row for each claim.  runs_of: an experiment's newest run, or the experiment alone."""
    heading, form = METRICS[METRIC].heading, METRICS[METRIC].format
    runs: dict[str, Run] = {}
    rows = []
    for claim in read():
        if claim.experiment not in runs:
            (runs[claim.experiment],) = runs_of(claim.experiment)
        row: dict[str, Any] = {"source": claim.source, "claim": claim.says}
        for side, keys in (("better", claim.paper_better), ("worse", claim.paper_worse)):
            row[f"{side}_paper"] = claim.printed(keys)
        pair = [known(runs[claim.experiment], keys) for keys in (claim.better, claim.worse)]
        if None in pair:
            row["verdict"] = "not measured"
        else:
            (better, images), (worse, _) = (one for one in pair if one)
            apart, span = better.less(worse)
            row |= {"better": better.value, "worse": worse.value, "difference": apart}
            row |= {"verdict": verdict(span), "images": images}
            if span:
                row["difference_low"], row["difference_high"] = span
                if row["verdict"] == "not resolved":
                    row["images_to_decide"] = images_to_decide(apart, span, images)
        rows.append(row)
    data = pd.DataFrame(rows)
    text = pd.DataFrame([cells(row, heading, form) for row in rows])
    held = data["verdict"].value_counts()
    notes = [
        f"{heading} of the case that the claim calls better, then of the other.  The difference "
        "is below 0 where the claim holds.",
        "Intervals are of 95 %, paired where both sets are of the same seeds; one in twenty is "
        "wrong by chance.",
        "; ".join(f"{count} {words}" for words, count in held.items()) + ".",
    ]
    return Printed("What the papers claim", data, text, notes, names=2)


def cells(row: Mapping[str, Any], heading: str, form: str) -> dict[str, str]:
    """A row as text."""

    def pair(end: str) -> str:
        both = [row[side + end] for side in ("better", "worse") if row.get(side + end) is not None]
        return " against ".join(format_figure(form, one) for one in both)

    low, high = row.get("difference_low"), row.get("difference_high")
    needed = row.get("images_to_decide")
    return {
        "source": row["source"],
        "claim": row["claim"],
        f"{heading}, paper": pair("_paper"),
        f"{heading}, here": pair(""),
        "difference": f"{row['difference']:+.2f}" if "difference" in row else "",
        "95 %": "" if low is None else f"{low:+.2f} to {high:+.2f}",
        "verdict": row["verdict"],
        "images": f"{row['images']:,}" if "images" in row else "",
        "would resolve it": "" if needed is None else at_least(needed),
    }


def at_least(images: float) -> str:
    """Rounded up to two digits."""
    if images > MOST:
        return f"over {MOST:,}"
    unit = 10 ** max(0, math.floor(math.log10(images)) - 1)
    return f"{math.ceil(images / unit) * unit:,}"
