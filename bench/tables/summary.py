"""What the records of one case say: medians over its rounds, and how far the rounds lie apart.

A record is one process.  What processes differ by does not show within one, so the unit here is
the round: a figure is the median of the rounds' medians, an interval comes from the rounds.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from scipy.special import stdtrit

from bench.study.columns import COLUMNS, Column, column, register
from bench.study.records import LOST
from bench.study.storage import Record

FEW = 6  # turns in one process: the least whose median has a 95 % interval
ROUGH = ("one round", "few turns")  # what a speed-up rests on that is but a look


def measured(records: Sequence[Record]) -> dict[str, Any]:
    """A case's figures by name: every registered column, and what else is known; of a case that
    failed in any round, why."""
    if not records:
        return {"status": "not run"}
    failed = [record for record in records if record["status"] != "ok"]
    shown = failed[0] if failed else records[0]
    found = {name: shown.get(name) for name in ("status", "reason")}
    found["other_load_cores"] = other_load_cores(records)
    found["shared_with"] = sorted({case for r in records for case in r.get("shared_with", [])})
    if failed:
        return found
    scales = [by_scale(record["samples"]["scale_latency_s"]) for record in records]
    memory = max((record["memory"] for record in records), key=lambda used: used["total_mib"])
    derived = {c.name: c.derive(records) for c in COLUMNS.values() if c.derive}
    return {
        **found,
        "scale_latency_s": by_scale(scales),
        "stands_for": records[0].get("stands_for"),
        **{name: next((r[name] for r in records if name in r), None) for name in LOST},
        "vqvae_latency_s": vqvae_latency(records),
        "steady": all(record["samples"]["steady"] for record in records),
        "discarded_for": ", ".join(
            sorted({why for record in records for why in record["samples"]["discarded_for"]})
        ),
        **memory,
        **{name: value for name, value in derived.items() if value is not None},
    }


def by_scale(rows: Sequence[Sequence[float]]) -> list[float]:
    """Median of each scale."""
    return [statistics.median(scale) for scale in zip(*rows, strict=True)]


# Columns.  Their order: speed below 100, sustained speed and energy below 200, memory below 300,
# quality (`bench.metrics`) below 400.

register(Column("speedup", "speed-up", "{:.2f}x", 10, lower_is_better=False))
for i, part in enumerate(("params", "KV cache", "running", "total")):
    name = f"{part.lower().replace(' ', '_')}_mib"
    form = "{:.1f}" if part == "KV cache" else "{:.0f}"
    register(Column(name, f"{part} MiB", form, 200 + 10 * i, lower_is_better=True))


def latency_by_round(records: Sequence[Record]) -> list[float]:
    return [statistics.median(record["samples"]["latency_s"]) for record in records]


@column("latency_s", "latency s", "{:.3g}", 20, lower_is_better=True)
def latency_of_case(records: Sequence[Record]) -> float:
    return statistics.median(latency_by_round(records))


@column("latency_spread", "spread", "{:.1%}", 30)
def latency_spread(records: Sequence[Record]) -> float | None:
    by_round = latency_by_round(records)
    spread = max(by_round) - min(by_round)
    return spread / statistics.median(by_round) if len(by_round) > 1 else None


@column("throughput_img_s", "images/s", "{:.3g}", 40, lower_is_better=False)
def throughput(records: Sequence[Record]) -> float:
    return records[0]["batch_size"] / latency_of_case(records)


@column("sustained_img_s", "sustained images/s", "{:.3g}", 110, lower_is_better=False)
def sustained_throughput(records: Sequence[Record]) -> float | None:
    """Images per second of the streams."""
    rates = [records[0]["batch_size"] * len(batches) / sum(batches) for batches in streams(records)]
    return statistics.median(rates) if rates else None


def streams(records: Sequence[Record]) -> list[list[float]]:
    """Seconds of each batch, a list a stream."""
    return [record["stream"]["batch_s"] for record in records if record.get("stream")]


def batch_percentile(percent: int, records: Sequence[Record]) -> float | None:
    """The least seconds that at least that share of all batches does not exceed."""
    ordered = sorted(seconds for batches in streams(records) for seconds in batches)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] if ordered else None


for i, percent in enumerate((50, 90, 99)):
    heading = "batch p50 s" if percent == 50 else f"p{percent} s"
    column(f"batch_p{percent}_s", heading, "{:.3g}", 120 + 10 * i, lower_is_better=True)(
        partial(batch_percentile, percent)
    )


@column("energy_j_per_image", "J/image", "{:.3g}", 150, lower_is_better=True)
def energy_per_image(records: Sequence[Record]) -> float | None:
    """Joules, over everything decoded while the counter ran."""
    known = [record for record in records if record["samples"]["energy_j"] is not None]
    images = sum(
        record["batch_size"] * (len(taken["latency_s"]) + len(taken["discarded_latency_s"]))
        for record in known
        if (taken := record["samples"])
    )
    return sum(record["samples"]["energy_j"] for record in known) / images if images else None


# Columns of how the figures came about


@column("rounds", "rounds", "{}", 10, section="how")
def rounds(records: Sequence[Record]) -> int:
    return len(records)


@column("samples", "samples", "{}", 20, section="how")
def samples(records: Sequence[Record]) -> int:
    return sum(len(record["samples"]["latency_s"]) for record in records)


register(Column("pairs", "turns with the baseline", "{}", 30, section="how"))


@column("stopped_by", "stopped by", "{}", 40, section="how")
def stopped_by(records: Sequence[Record]) -> str:
    ends = Counter(record["samples"]["stopped_by"] for record in records)
    return ", ".join(f"{why} {n}" if n > 1 else why for why, n in ends.items())


@column("discarded", "discarded", "{}", 50, section="how")
def discarded(records: Sequence[Record]) -> int:
    return sum(len(record["samples"]["discarded_latency_s"]) for record in records)


@column("other_load_cores", "other load", "{:.2f}", 60, section="how")
def other_load_cores(records: Sequence[Record]) -> float | None:
    loads = [load for record in records if (load := record["other_load_cores"]) is not None]
    return max(loads, default=None)


def start_up(name: str, records: Sequence[Record]) -> float | None:
    """Median seconds of one part of the start of a process."""
    starts = [record["start_up"] for record in records if record.get("start_up")]
    known = [seconds for start in starts if (seconds := start.get(name)) is not None]
    return statistics.median(known) if known else None


for i, (name, heading) in enumerate(
    {
        "import_s": "import s",
        "load_s": "load s",
        "prepare_s": "prepare s",
        "first_latency_s": "first decode s",
        "capture_s": "capture s",
        "first_image_s": "to first image s",
    }.items()
):
    column(name, heading, "{:.3g}", 70 + 10 * i, section="how")(partial(start_up, name))


def vqvae_latency(records: Sequence[Record]) -> float | None:
    known = [taken for record in records if (taken := record["samples"]["vqvae_latency_s"])]
    return statistics.median(map(statistics.median, known)) if known else None


@column("warm_decode_s", "warm decode s", "{:.3g}", 130, section="how")
def warm_decode(records: Sequence[Record]) -> float:
    return latency_of_case(records)


@column("warm_image_s", "to warm image s", "{:.3g}", 140, section="how")
def warm_image(records: Sequence[Record]) -> float | None:
    vqvae = vqvae_latency(records)
    return latency_of_case(records) + vqvae if vqvae is not None else None


# Speed-ups


def speedup(records: Sequence[Record], baseline: Sequence[Record]) -> dict[str, Any]:
    """How much faster than the baseline, its 95 % interval, and what it rests on.

    speedup_by: "paired" (in turn in one process), "interleaved" (the same round of both), or what
    is rough: "one round" of each, in which a machine that changed meanwhile would pass for a
    speed-up, or "few turns", paired in one round and fewer than six times.  pairs: of turns.  The
    interval is from three rounds on: what a process is born with all of its turns share.  Empty
    where the case failed in any round, where either was not measured, or only in different places
    of a cluster.
    """
    if not records or any(record["status"] != "ok" for record in records):
        return {}
    if records == baseline:
        return {"speedup": 1.0}
    own = {record["round"]: record for record in records}
    base = {record["round"]: record for record in baseline if record["status"] == "ok"}
    pairs = [paired_ratios(record) for record in own.values() if has_pairs(record, baseline)]
    if pairs:
        ratios, by = [statistics.median(found) for found in pairs], "paired"
    else:
        both = [i for i in own if i in base and own[i].get("place") == base[i].get("place")]
        ratios, by = [latency(base[i]) / latency(own[i]) for i in both], "interleaved"
    if not ratios:
        return {}
    turns = sum(map(len, pairs))
    if len(ratios) == 1 and turns < FEW:
        by = "few turns" if pairs else "one round"
    low, high = interval(ratios)
    found: dict[str, Any] = {"speedup": statistics.median(ratios), "speedup_by": by}
    if pairs:
        found["pairs"] = turns
    if lost := [why for record in own.values() if (why := lost_pair(record))]:
        found["paired_reason"] = lost[0]
    if math.isfinite(low) and math.isfinite(high):
        found |= {"speedup_low": low, "speedup_high": high}
    return found


def latency(record: Record) -> float:
    return statistics.median(record["samples"]["latency_s"])


def has_pairs(record: Record, baseline: Sequence[Record]) -> bool:
    pairs = record.get("paired") or {}
    return bool(pairs.get("latency_s")) and pairs["baseline"] in {r["key"] for r in baseline}


def lost_pair(record: Record) -> str | None:
    """Why a case could not take turns with its baseline."""
    return (record.get("paired") or {}).get("reason")


def paired_ratios(record: Record) -> list[float]:
    pairs = record["paired"]
    both = zip(pairs["baseline_latency_s"], pairs["latency_s"], strict=True)
    return [base / own for base, own in both]


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the rounds' ratios, on their logarithms.  Infinite below three
    rounds: two ratios 5 % apart would give one of a factor of 1.4 either way."""
    if len(ratios) < 3:
        return 0.0, math.inf
    logs = [math.log(ratio) for ratio in ratios]
    half = stdtrit(len(logs) - 1, 0.975) * statistics.stdev(logs) / math.sqrt(len(logs))
    middle = statistics.fmean(logs)
    return math.exp(middle - half), math.exp(middle + half)
