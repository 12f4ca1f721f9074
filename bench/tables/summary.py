"""What the records of one case say: medians over its rounds, and how far the rounds lie apart.

A record is one process.  What processes differ by does not show within one, so the unit here is
the round: a figure is the median of the rounds' medians, an interval comes from the rounds.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from scipy.special import stdtrit

from bench.study.records import LOST
from bench.study.storage import Record

FEW = 6  # turns in one process: the least whose median has a 95 % interval
ROUGH = ("one round", "few turns")  # what a speed-up rests on that is but a look


def measured(records: Sequence[Record]) -> dict[str, Any]:
    """A case's figures by name; of a case that failed in any round, why."""
    if not records:
        return {"status": "not run"}
    failed = [record for record in records if record["status"] != "ok"]
    shown = failed[0] if failed else records[0]
    found = {name: shown.get(name) for name in ("status", "reason")}
    loads = [load for record in records if (load := record["other_load_cores"]) is not None]
    found["other_load_cores"] = max(loads, default=None)
    found["shared_with"] = sorted({case for r in records for case in r.get("shared_with", [])})
    if failed:
        return found
    samples = [record["samples"] for record in records]
    memory = max((record["memory"] for record in records), key=lambda used: used["total_mib"])
    by_round = [statistics.median(taken["latency_s"]) for taken in samples]
    latency = statistics.median(by_round)
    scales = [by_scale(taken["scale_latency_s"]) for taken in samples]
    vqvae = [statistics.median(v) for taken in samples if (v := taken["vqvae_latency_s"])]
    return {
        **found,
        "latency_s": latency,
        "latency_spread": (max(by_round) - min(by_round)) / latency if len(records) > 1 else None,
        "throughput_img_s": records[0]["batch_size"] / latency,
        "scale_latency_s": by_scale(scales),
        "stands_for": records[0].get("stands_for"),
        **{name: next((r[name] for r in records if name in r), None) for name in LOST},
        "vqvae_latency_s": statistics.median(vqvae) if vqvae else None,
        "warm_image_s": latency + statistics.median(vqvae) if vqvae else None,
        **sustained(records),
        **memory,
        "energy_j_per_image": energy_per_image(records),
        **effort(records),
    }


def by_scale(rows: Sequence[Sequence[float]]) -> list[float]:
    """Median of each scale."""
    return [statistics.median(scale) for scale in zip(*rows, strict=True)]


def effort(records: Sequence[Record]) -> dict[str, Any]:
    """How the figures came about."""
    samples = [record["samples"] for record in records]
    start_up = [record["start_up"] for record in records if record.get("start_up")]
    names = ("import_s", "load_s", "prepare_s", "first_latency_s", "capture_s", "first_image_s")
    told = {name: [s for found in start_up if (s := found.get(name)) is not None] for name in names}
    medians = {name: statistics.median(found) if found else None for name, found in told.items()}
    ends = Counter(taken["stopped_by"] for taken in samples)
    return {
        "rounds": len(records),
        "samples": sum(len(taken["latency_s"]) for taken in samples),
        "discarded": sum(len(taken["discarded_latency_s"]) for taken in samples),
        "discarded_for": ", ".join(sorted({why for t in samples for why in t["discarded_for"]})),
        "stopped_by": ", ".join(f"{why} {n}" if n > 1 else why for why, n in ends.items()),
        "steady": all(taken["steady"] for taken in samples),
        **medians,
    }


def sustained(records: Sequence[Record]) -> dict[str, Any]:
    """Images per second of the streams, and percentiles of a batch."""
    streams = [record["stream"]["batch_s"] for record in records if record.get("stream")]
    if not streams:
        return {}
    batches = sorted(seconds for stream in streams for seconds in stream)
    rates = [records[0]["batch_size"] * len(stream) / sum(stream) for stream in streams]
    shares = {f"batch_p{q}_s": percentile(batches, q / 100) for q in (50, 90, 99)}
    return {"sustained_img_s": statistics.median(rates), **shares}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that at least that share of all does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def energy_per_image(records: Sequence[Record]) -> float | None:
    """Joules, over everything decoded while the counter ran."""
    known = [record for record in records if record["samples"]["energy_j"] is not None]
    images = sum(
        record["batch_size"] * (len(taken["latency_s"]) + len(taken["discarded_latency_s"]))
        for record in known
        if (taken := record["samples"])
    )
    return sum(record["samples"]["energy_j"] for record in known) / images if images else None


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
