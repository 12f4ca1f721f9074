"""When a speed-up counts: the rules of docs/guide/rules.md, and how often they err (docs/notes).

Nothing is measured here: intervals are those of `bench.tables.summary` and of `bench.py eval
--against`, widened to the level that the rules ask for.
"""

import math
from collections.abc import Mapping
from typing import Any

from scipy.special import stdtrit

from bench.metrics.jackknife import GROUPS
from bench.study.records import Record

VERSION = 1
LEVEL = 0.99  # of every interval, two-sided
IMAGES, ROUNDS = 10_000, 3  # the fewest
#: FID over the baseline's less one, at most; the strictest gate first.
LOSSES = {"FID within 5 %": 0.05, "FID within 20 %": 0.20}
#: Mean PSNR to the baseline's images of the same seeds, at least.
SAME_SEED, SAME_SEED_DB = "same images", 30.0


def widened(span: tuple[float, float], freedom: float) -> tuple[float, float]:
    """The interval at `LEVEL` of which Student's 95 % interval, about its middle, is `span`."""
    upper = (1 + LEVEL) / 2
    factor = float(stdtrit(freedom, upper) / stdtrit(freedom, 0.975))
    half = factor * (span[1] - span[0]) / 2
    middle = (span[0] + span[1]) / 2
    return middle - half, middle + half


def gates(against: Mapping[str, Any], images: int) -> list[str]:
    """The gates that a set of images meets beside its baseline's (`bench.quality.against`)."""
    if not against["paired"] or images < IMAGES:
        return []
    met = []
    if "fid" in against["differences"]:
        _, worst = widened(against["difference_intervals"]["fid"], GROUPS // 2)
        met = [name for name, most in LOSSES.items() if worst <= most * against["metrics"]["fid"]]
    least, _ = widened(against["distances"]["psnr_db"]["interval"], images - 1)
    return [*met, *[SAME_SEED] * (least >= SAME_SEED_DB)]


def speedup_interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Of a row of `frames.frame`, at `LEVEL`; None of fewer than `ROUNDS`, or without pairs."""
    if row.get("speedup_by") != "paired" or row["rounds"] < ROUNDS or "speedup_low" not in row:
        return None
    logs = math.log(row["speedup_low"]), math.log(row["speedup_high"])
    low, high = widened(logs, row["rounds"] - 1)
    return math.exp(low), math.exp(high)


def why_not(row: Mapping[str, Any], against: Mapping[str, Any] | None, images: int) -> str:
    """Why a row's speed-up does not count; "" if it does."""
    span = speedup_interval(row)
    if span is None:
        return f"no speed-up in pairs of {ROUNDS} rounds"
    if span[0] <= 1:
        return f"no speed-up is shown: {span[0]:.2f}x to {span[1]:.2f}x"
    if not against or not against["paired"]:
        return "no images of the same seeds as the baseline's"
    if images < IMAGES:
        return f"{images:,} images, not {IMAGES:,}"
    return "" if gates(against, images) else "loses more than any gate allows, or may"


def division(own: Record, baseline: Record) -> str:
    """Whose weights: the baseline's own or others' as published ("training-free"), "fine-tuned" for
    the method, or "retrained", which is any other training; "random" weights say nothing."""
    if own.weights == "seeded":
        return "random"
    mine, theirs = (set(record.weights_sha256.values()) for record in (own, baseline))
    if not mine:
        return "not told"
    told = "training-free" if mine <= theirs else own.trained_as
    return told if told in ("training-free", "fine-tuned") else "retrained"
