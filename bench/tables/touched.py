"""What leaving something out saves of what it should: by scale against the rows that are left, and
over the whole decode against the FLOPs that are left.

A case is held against the same case whole, of the same run.
"""

from typing import Any

import pandas as pd

from bench.methods.meta import meta_plan
from bench.predict.prediction import predict
from bench.study import savings
from bench.study.cases import VARCase, make_case
from bench.study.printing import Printed
from bench.tables.frames import Run, frame, known
from codevar.stacks import stack
from codevar.work import Pass, work

WITHIN = 1.1  # of what the rows that are left predict


def touched_scales(run: Run) -> Printed:
    """A row for each scale that a case touches, and one for the whole decode."""
    found: list[dict[str, Any]] = []
    rows = zip(run.sweep.cases, known(frame(run)), strict=False)
    measured = {case.key: row for case, row in rows if "scale_latency_s" in row}
    for case in run.sweep.cases:
        if isinstance(case, VARCase) and case.key in measured:
            base = make_case(savings.whole(case.model_dump()))
            if isinstance(base, VARCase) and base != case and base.key in measured:
                found += rows_of(case, base, measured[case.key], measured[base.key])
    table = pd.DataFrame(found)
    notes = [
        "Rows left: tokens times rows of the batch that go through the layers, of those of the "
        "same case whole; ratio: the time over that share of the whole case's time.  Of the whole "
        "decode, FLOPs left, and how much of what is predicted to be saved is saved as time.",
        f"Over {WITHIN} is marked: what does not shrink with the rows, such as selection.",
    ]
    return Printed("What is left of each scale", table, table.astype(str), notes)


def rows_of(
    case: VARCase, base: VARCase, own: dict[str, Any], whole: dict[str, Any]
) -> list[dict[str, Any]]:
    """Of one case."""
    ours, theirs = passes_of(case), passes_of(base)
    found = []
    for k, before_s in enumerate(whole["scale_latency_s"]):
        one, other = (doing(passes, k) for passes in (ours, theirs))
        if one == other and case.weight_bits == base.weight_bits:
            continue
        left, after_s = through(ours, k) / through(theirs, k), own["scale_latency_s"][k]
        ratio = f"{after_s / (left * before_s):.2f}" if left else ""
        found.append(
            {
                "method": own["name"],
                "batch": own["batch_size"],
                "prec.": own["precision"],
                "scale": str(k + 1),
                "whole ms": f"{1000 * before_s:.1f}",
                "left": f"{left:.3f}",
                "ms": f"{1000 * after_s:.1f}",
                "ratio": ratio + "!" * (bool(ratio) and float(ratio) > WITHIN),
                "saved of predicted": "",
            }
        )
    left = sum(predict(case).flops) / sum(predict(base).flops)
    share = time_left(own, whole)
    found.append(
        {
            "method": own["name"],
            "batch": own["batch_size"],
            "prec.": own["precision"],
            "scale": "all",
            "whole ms": f"{1000 * whole['latency_s']:.1f}",
            "left": f"{left:.3f}",
            "ms": f"{1000 * own['latency_s']:.1f}",
            "ratio": f"{share / left:.2f}",
            "saved of predicted": f"{(1 - share) / (1 - left):.0%}" if left < 1 else "",
        }
    )
    return found


def time_left(own: dict[str, Any], whole: dict[str, Any]) -> float:
    """Share of the whole case's time; by speed-ups over one baseline where these are paired."""
    if own.get("speedup_by") == "paired" and whole.get("speedup") == 1:
        return float(1 / own["speedup"])
    return float(own["latency_s"] / whole["latency_s"])


def passes_of(case: VARCase) -> list[Pass]:
    """Of a decode, from shapes."""
    how = stack(case.stack, case.precision, case.attention)
    return work(meta_plan(case), case.batch_size, how)


def doing(passes: list[Pass], k: int) -> list[tuple[Any, ...]]:
    """All that is done for a scale."""
    return [(p.halves, p.scales, p.visits, p.bits) for p in passes if p.scale == k]


def through(passes: list[Pass], k: int) -> int:
    """Tokens times rows that go through layers, for a scale."""
    return sum(v.rows * v.queries for p in passes if p.scale == k for v in p.visits)
