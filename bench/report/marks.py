"""What a reader must not overlook: noise, throttling, failures, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.measure.machine import BUSY_CORES
from bench.study import printing
from bench.study.records import DEGRADED, FAILED, OUT_OF_MEMORY, Record
from bench.tables import tables

SPREAD = 0.05  # of the rounds' medians, from which a figure is marked
KINDS = ("failed", "throttled", "noisy", "not comparable", "not as predicted", "unreadable")


@dataclass(frozen=True)
class Mark:
    """kind: of KINDS.  short: for a table's cell."""

    kind: str
    short: str
    text: str


def marks(row: Mapping[Any, Any]) -> list[Mark]:
    """Of a row of `frames.frame`."""

    def value(name: str) -> Any:
        found = row.get(name)
        return None if printing.missing(found) else found

    found = []
    if row.get("status") in (*OUT_OF_MEMORY, *FAILED):
        why = value("reason") or "no reason was given"
        found.append(Mark("failed", "", f"{row['status']}: {why}"))
    if discarded := value("discarded"):
        why = value("discarded_for") or "of unknown reason"
        of = f"{discarded:.0f} of {discarded + value('samples'):.0f} samples were discarded"
        found.append(Mark("throttled", "throttled", f"{of}: {why}"))
    if (load := value("other_load_cores")) is not None and load > BUSY_CORES:
        text = f"other processes kept {load:.2f} cores busy"
        found.append(Mark("noisy", "busy machine", text))
    if tables.is_shared(row):
        text = f"on the same host at the time: {', '.join(row['shared_with'])}"
        found.append(Mark("noisy", "shared host", text))
    if (spread := value("latency_spread")) is not None and spread > SPREAD:
        found.append(
            Mark("noisy", f"rounds {spread:.0%} apart", f"its rounds lie {spread:.1%} apart")
        )
    if value("steady") is False:
        found.append(Mark("noisy", "never steady", "the warm-up did not become steady"))
    if "noise" in (ended := value("stopped_by") or "") or "time" in ended:
        text = f"sampling ended before its target was met ({ended})"
        found.append(Mark("noisy", "wide interval", text))
    if value("speedup_by") == "one round":
        text = "its speed-up is from one round: a drift of the machine is in it"
        found.append(Mark("not comparable", "one round", text))
    if value("speedup_by") == "few turns":
        text = f"its speed-up is from {row['pairs']:.0f} turns with its baseline"
        found.append(Mark("noisy", "few turns", text))
    if value("extrapolated"):
        text = "only some of its steps ran; each stands for those near it"
        found.append(Mark("not comparable", "extrapolated", text))
    for name, (short, text) in DEGRADED.items():
        if why := value(name):
            found.append(Mark("not comparable", short, f"{text}: {why}"))
    if lost := value("paired_reason"):
        found.append(Mark("not comparable", "not paired", f"not paired with its baseline: {lost}"))
    if differs := value("memory_differs"):
        found.append(Mark("not as predicted", "", f"memory: {differs}"))
    if value("accounted") is False:
        text = f"{value('unaccounted_mib'):.1f} MiB of memory have no owner"
        found.append(Mark("not as predicted", "unaccounted memory", text))
    return found


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


def label(
    row: Mapping[Any, Any], names: Sequence[str] = ("batch_size", "stack", "precision")
) -> str:
    """A case in words, of a record or a row.  names: what else tells it from others."""
    parts = [str(row["method"])]
    for name in names:
        if not printing.missing(row.get(name)):
            parts.append(f"batch {row[name]}" if name == "batch_size" else str(row[name]))
    return ", ".join(parts)
