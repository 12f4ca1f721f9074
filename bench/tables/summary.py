"""What the records of one case say: medians over its rounds, and how far the rounds lie apart.

A record is one process.  What processes differ by does not show within one, so the unit here is
the round: a figure is the median of the rounds' medians, an interval comes from the rounds.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from scipy.special import stdtrit

from bench.study.columns import COLUMNS, Column, column, register
from bench.study.records import DEGRADED, MemoryUse, Paired, Record, Samples

FEW = 6  # turns in one process: the least whose median has a 95 % interval
ROUGH = ("one round", "few turns")  # what a speed-up rests on that is but a look


def measured(records: Sequence[Record]) -> dict[str, Any]:
    """A case's figures by name: every registered column, and what else is known; of a case that
    failed in any round, why."""
    if not records:
        return {"status": "not run"}
    failed = [record for record in records if not record.ok]
    shown = failed[0] if failed else records[0]
    found = {
        "status": shown.status,
        "reason": shown.reason,
        "other_load_cores": other_load_cores(records),
        "shared_with": sorted({case for record in records for case in record.shared_with}),
    }
    if failed:
        return found
    derived = {c.name: c.derive(records) for c in COLUMNS.values() if c.derive}
    return {
        **found,
        "scale_latency_s": by_scale([by_scale(s.scale_latency_s) for s in samples_of(records)]),
        "stands_for": records[0].stands_for,
        **{name: first_known(records, name) for name in DEGRADED},
        "vqvae_latency_s": vqvae_latency(records),
        "steady": all(s.steady for s in samples_of(records)),
        "discarded_for": ", ".join(
            sorted({why for s in samples_of(records) for why in s.discarded_for})
        ),
        **largest_memory(records).to_json(),
        **{name: value for name, value in derived.items() if value is not None},
    }


def samples_of(records: Sequence[Record]) -> list[Samples]:
    """Of each round."""
    return [record.samples for record in records if record.ok and record.samples]


def largest_memory(records: Sequence[Record]) -> MemoryUse:
    """That of the round whose total is the largest."""
    return max((r.memory for r in records if r.memory), key=lambda used: used.total_mib)


def first_known(records: Sequence[Record], name: str) -> Any:
    """The first round's value that is not None, or None."""
    return next((v for record in records if (v := getattr(record, name)) is not None), None)


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
    """Median seconds of each round."""
    return [statistics.median(s.latency_s) for s in samples_of(records)]


def to_images_by_round(records: Sequence[Record]) -> list[float]:
    """The same with the image decoder, also of code that has none apart."""
    images = [statistics.median(s.vqvae_latency_s or [0.0]) for s in samples_of(records)]
    return [a + b for a, b in zip(latency_by_round(records), images, strict=True)]


@column("latency_s", "latency s", "{:.3g}", 20, lower_is_better=True)
def latency_of_case(records: Sequence[Record]) -> float:
    """Seconds of a decode: the median of the rounds' medians."""
    return statistics.median(latency_by_round(records))


@column("latency_spread", "spread", "{:.1%}", 30)
def latency_spread(records: Sequence[Record]) -> float | None:
    """Range of the rounds' medians over their median; None for one round."""
    by_round = latency_by_round(records)
    spread = max(by_round) - min(by_round)
    return spread / statistics.median(by_round) if len(by_round) > 1 else None


@column("throughput_img_s", "images/s", "{:.3g}", 40, lower_is_better=False)
def throughput(records: Sequence[Record]) -> float:
    """Images a second of decodes alone."""
    return records[0].batch_size / latency_of_case(records)


@column("sustained_img_s", "sustained images/s", "{:.3g}", 110, lower_is_better=False)
def sustained_throughput(records: Sequence[Record]) -> float | None:
    """Images per second of the streams."""
    rates = [records[0].batch_size * len(batches) / sum(batches) for batches in streams(records)]
    return statistics.median(rates) if rates else None


def streams(records: Sequence[Record]) -> list[list[float]]:
    """Seconds of each batch, a list a stream."""
    return [record.stream.batch_s for record in records if record.stream]


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
    known = [s for s in samples_of(records) if s.energy_j is not None]
    batches = sum(len(s.latency_s) + len(s.discarded_latency_s) for s in known)
    joules = sum(s.energy_j or 0 for s in known)
    return joules / (batches * records[0].batch_size) if batches else None


# Columns of how the figures came about


@column("rounds", "rounds", "{}", 10, section="how")
def rounds(records: Sequence[Record]) -> int:
    """How many rounds were measured."""
    return len(records)


@column("samples", "samples", "{}", 20, section="how")
def samples(records: Sequence[Record]) -> int:
    """How many decodes were timed."""
    return sum(len(s.latency_s) for s in samples_of(records))


register(Column("pairs", "turns with the baseline", "{}", 30, section="how"))


@column("stopped_by", "stopped by", "{}", 40, section="how")
def stopped_by(records: Sequence[Record]) -> str:
    """What ended the sampling, and how often."""
    ends = Counter(s.stopped_by for s in samples_of(records))
    return ", ".join(f"{why} {n}" if n > 1 else why for why, n in ends.items())


@column("discarded", "discarded", "{}", 50, section="how")
def discarded(records: Sequence[Record]) -> int:
    """How many samples were thrown away, as the card was throttled."""
    return sum(len(s.discarded_latency_s) for s in samples_of(records))


@column("other_load_cores", "other load", "{:.2f}", 60, section="how")
def other_load_cores(records: Sequence[Record]) -> float | None:
    """The most that other processes took in a round, in cores."""
    loads = [load for record in records if (load := record.other_load_cores) is not None]
    return max(loads, default=None)


def start_up(name: str, records: Sequence[Record]) -> float | None:
    """Median seconds of one part of the start of a process."""
    known = [s for record in records if (s := getattr(record.start_up, name)) is not None]
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
    """Seconds from features to pixels: the median of the rounds' medians."""
    known = [s.vqvae_latency_s for s in samples_of(records) if s.vqvae_latency_s]
    return statistics.median(map(statistics.median, known)) if known else None


@column("warm_decode_s", "warm decode s", "{:.3g}", 130, section="how")
def warm_decode(records: Sequence[Record]) -> float:
    """Seconds of a decode once all is loaded."""
    return latency_of_case(records)


@column("warm_image_s", "to warm image s", "{:.3g}", 140, section="how")
def warm_image(records: Sequence[Record]) -> float | None:
    """Seconds to images once all is loaded, VQVAE included."""
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
    if not records or not all(record.ok for record in records):
        return {}
    if records == baseline:
        return {"speedup": 1.0}
    own = {record.round: record for record in records}
    base = {record.round: record for record in baseline if record.ok}
    keys = {record.key for record in baseline}
    pairs = [r for record in records if (r := paired_ratios(record.paired, keys))]
    if pairs:
        ratios, by = [statistics.median(found) for found in pairs], "paired"
    else:
        both = [i for i in own if i in base and own[i].place == base[i].place]
        apart = all(s.vqvae_latency_s for s in samples_of([*records, *baseline]))
        of_round = latency_by_round if apart else to_images_by_round
        latencies = [of_round([side[i] for i in both]) for side in (base, own)]
        ratios, by = [a / b for a, b in zip(*latencies, strict=True)], "interleaved"
    if not ratios:
        return {}
    turns = sum(map(len, pairs))
    if len(ratios) == 1 and turns < FEW:
        by = "few turns" if pairs else "one round"
    low, high = interval(ratios)
    found: dict[str, Any] = {"speedup": statistics.median(ratios), "speedup_by": by}
    if pairs:
        found["pairs"] = turns
    if lost := [r.paired.reason for r in records if r.paired and r.paired.reason]:
        found["paired_reason"] = lost[0]
    if math.isfinite(low) and math.isfinite(high):
        found |= {"speedup_low": low, "speedup_high": high}
    return found


def paired_ratios(paired: Paired | None, baseline: set[str]) -> list[float]:
    """Baseline over case, turn by turn; empty unless the turns were with that baseline."""
    if paired is None or paired.baseline not in baseline:
        return []
    both = zip(paired.baseline_latency_s, paired.latency_s, strict=True)
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
