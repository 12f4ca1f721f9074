"""Whether a measurement says something of the code, or only of what disturbed it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.measure.machine import BUSY_CORES
from bench.predict import ceilings
from bench.predict.ceilings import Ceilings
from bench.predict.floor import beats, least_seconds
from bench.study import storage
from bench.study.records import Record


def why_invalid(record: Record, top: Ceilings | None = None) -> str:
    """Why the times of a record are not to be judged; "" if they are, or if it has none.

    Throttled: samples were discarded, and the time for others in their place ran out.
    top: the ceilings of its machine, where they are known.
    """
    if record.samples is None:
        return ""
    if (record.other_load_cores or 0) > BUSY_CORES:
        return f"measured beside other work ({record.other_load_cores:.1f} cores)"
    if record.samples.discarded_for and record.samples.stopped_by == "time":
        return f"throttled ({', '.join(record.samples.discarded_for)})"
    precisions = {product.precision for product in top.products} if top else set()
    if top and record.device == top.device and {record.precision, "float32"} <= precisions:
        least = least_seconds(record, top)
        if beats(min(record.samples.latency_s), least):
            return f"faster than the machine can be ({least:.3g} s)"
    return ""


def why_any_invalid(records: Iterable[Record], top: Ceilings | None = None) -> str:
    """The same of a case's rounds: of the first that is not to be judged, or ""."""
    return next(filter(None, (why_invalid(record, top) for record in records)), "")


def known_ceilings(folder: Path, env: dict[str, Any]) -> Ceilings | None:
    """The newest that a profile left in a run's folder or beside it, on the same hardware."""
    found = []
    for file in (folder / ceilings.FILE, *folder.resolve().parent.glob(f"*/{ceilings.FILE}")):
        there = storage.read_json(file.parent / "env.json") or {}
        hardware = there.get("hardware") if "hardware" in env else None
        if hardware and hardware == env["hardware"] and (top := ceilings.load(file.parent)):
            found.append(top)
    return max(found, key=lambda top: top.measured_at, default=None)
