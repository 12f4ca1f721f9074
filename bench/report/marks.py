"""What a reader must not overlook: noise, throttling, failures, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.study import printing
from bench.study.records import DEGRADED, FAILED, OUT_OF_MEMORY, Record

SPREAD = 0.05  # of the rounds' medians, from which a figure is marked
KINDS = (
    *("failed", "invalid", "throttled", "noisy"),
    *("not comparable", "not as predicted", "unreadable"),
)


@dataclass(frozen=True)
class Mark:
    """kind: of KINDS.  short: for a table's cell, empty where the cell says it already."""

    kind: str
    short: str
    text: str


def marks(row: Mapping[Any, Any]) -> list[Mark]:
    """Of a row of `frames.frame`."""
    known = {name: value for name, value in row.items() if not printing.missing(value)}
    value = known.get
    status, lost = value("status"), value("discarded", 0)
    spread, wrong = value("latency_spread", 0.0), value("invalid")
    ended, by = value("stopped_by") or "", value("speedup_by")
    why, cause = (value(n) for n in ("reason", "discarded_for"))
    found = [
        (status in (*OUT_OF_MEMORY, *FAILED), "failed", "",
         f"{status}: {why or 'no reason was given'}"),
        (lost, "throttled", "throttled",
         f"{lost:.0f} of {lost + value('samples', 0):.0f} samples were discarded: "
         f"{cause or 'of unknown reason'}"),
        (wrong, "invalid", "invalid", f"{wrong}: its times are not to be judged"),
        (value("shared_with"), "noisy", "shared host",
         f"on the same host at the time: {', '.join(value('shared_with') or [])}"),
        (spread > SPREAD, "noisy", f"rounds {spread:.0%} apart",
         f"its rounds lie {spread:.1%} apart"),
        (value("steady") is False, "noisy", "never steady", "the warm-up did not become steady"),
        ("noise" in ended or "time" in ended, "noisy", "wide interval",
         f"sampling ended before its target was met ({ended})"),
        (by == "one round", "not comparable", "one round",
         "its speed-up is from one round: a drift of the machine is in it"),
        (by == "few turns", "noisy", "few turns",
         f"its speed-up is from {value('pairs', 0):.0f} turns with its baseline"),
        (value("extrapolated"), "not comparable", "extrapolated",
         "only some of its steps ran; each stands for those near it"),
        *((name in known and known[name], "not comparable", short, f"{text}: {value(name)}")
          for name, (short, text) in DEGRADED.items()),
        (value("paired_reason"), "not comparable", "not paired",
         f"not paired with its baseline: {value('paired_reason')}"),
        (value("memory_differs"), "not as predicted", "", f"memory: {value('memory_differs')}"),
        (value("accounted") is False, "not as predicted", "unaccounted memory",
         f"{value('unaccounted_mib', 0.0):.1f} MiB of memory have no owner"),
    ]  # fmt: skip
    return [Mark(kind, short, text) for holds, kind, short, text in found if holds]


def of_records(records: Sequence[Record]) -> list[tuple[Record, Mark]]:
    """What stands in records alone: other processes on the card."""
    found = {}
    for record in records:
        others = (record.gpu and record.gpu.others) or []
        if others:
            names = ", ".join(str(other.get("name") or "unknown") for other in others)
            text = f"other processes were on the GPU: {names}"
            found[record.key] = (record, Mark("noisy", "shared GPU", text))
    return [*found.values()]
