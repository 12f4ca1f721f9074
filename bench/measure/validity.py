"""Whether a measurement says something of the code, or only of what disturbed it."""

from __future__ import annotations

from bench.measure.machine import BUSY_CORES
from bench.study.records import Record


def why_invalid(record: Record) -> str:
    """Why the times of a record are not to be judged; "" if they are, or if it has none.

    Throttled: samples were discarded, and the time for others in their place ran out.
    """
    if record.samples is None:
        return ""
    if (record.other_load_cores or 0) > BUSY_CORES:
        return f"measured beside other work ({record.other_load_cores:.1f} cores)"
    if record.samples.discarded_for and record.samples.stopped_by == "time":
        return f"throttled ({', '.join(record.samples.discarded_for)})"
    return ""
