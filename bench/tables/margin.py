"""What has been measured of a case, for the margin of a picture: speed, memory, FID.

All of it is of the very case (its seed and device aside, and the footer names the machine), of
one run and of one protocol, so that rows compare.  What was not measured is left out.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.methods.sources import hashes_of
from bench.study import evaluations, records
from bench.study.cases import Case
from bench.study.columns import rounded
from bench.study.errors import UsageError
from bench.tables import case_rows, frames, links
from bench.tables.frames import Run

#: Keys that change neither how fast a case is on a machine nor what it draws on average.
ELSEWHERE = {"seed", "device", "memory_limit_gib"}


@dataclass(frozen=True)
class Facts:
    """lines: by key of a case, what its margin says.  sources: where that is from."""

    lines: dict[str, list[str]] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)


def facts_of(cases: Sequence[Case], results: Path, folder: Path | None = None) -> Facts:
    """Speed and memory from the newest run below `results` that measured most of the cases, or
    from the run in `folder`; FIDs from evaluations below both.

    Raises UsageError if `folder` holds no run.
    """
    found = Facts({case.key: [] for case in cases})
    folders = [folder] if folder else [path for path, _ in records.runs(results)]
    runs = [frames.load(path) for path in folders] if folder else readable(folders)
    if run := best(runs, cases):
        rows = {
            same_speed(row["case"]): row for row in case_rows.rows_of(run) if "latency_s" in row
        }
        shown = [rows[same_speed(case)] for case in cases if same_speed(case) in rows]
        bases = {same_speed(b) for row in shown if (b := run.sweep.baseline_case(row["case"]))}
        drawn = {same_speed(row["case"]): row["method"] for row in shown}
        # Speed-ups stand beside rows only if they are all over one of these.
        over = drawn.get(*bases) if len(bases) == 1 else None
        for case in cases:
            row = rows.get(same_speed(case), {})
            found.lines[case.key] += speed_lines(
                {name: value for name, value in row.items() if over or name != "speedup"}
            )
        words = case_rows.footer(run, shown) + f" Speed-ups are over {over}." * bool(over)
        found.sources.append(f"Speed and memory: {words[0].lower()}{words[1:]}")
    homes = [results, folder] if folder else [results]
    weights = {case.key: hashes_of(case) for case in cases}  # of the pictures, which are made now
    evaluated = links.link(cases, evaluations.every(*homes)[0], weights)
    fids = {
        key: quality.figures["fid"]
        for key, quality in evaluated.by_key.items()
        if quality.differs.get("fid") == ""
    }
    for key, fid in fids.items():
        found.lines[key].append(f"FID {fid:.2f}")
    if fids:
        found.sources.append(f"FID: {evaluated.how['fid']}.")
    return found


def speed_lines(row: dict[str, Any]) -> list[str]:
    """What stands beside a case's pictures: speed-up, rate, memory."""
    speed = [f"{row['speedup']:.1f}x"] if "speedup" in row else []
    speed += [f"{rounded(row['throughput_img_s'])} images/s"] if "throughput_img_s" in row else []
    memory = [f"{row['total_mib']:,.0f} MiB"] if "total_mib" in row else []
    return [", ".join(speed), *memory] if speed else memory


def readable(folders: Sequence[Path]) -> list[Run]:
    """Runs without those that are damaged."""
    runs = []
    for folder in folders:
        with suppress(UsageError):
            runs.append(frames.load(folder))
    return runs


def best(runs: Sequence[Run], cases: Sequence[Case]) -> Run | None:
    """Of the runs, newest first, the first that measured most of the cases."""
    wanted = {same_speed(case) for case in cases}

    def measured(run: Run) -> int:
        keys = {record.key for record in run.records if record.ok}
        return len(wanted & {same_speed(case) for case in run.sweep.cases if case.key in keys})

    chosen = max(runs, key=measured, default=None)
    return chosen if chosen and measured(chosen) else None


def same_speed(case: Case) -> str:
    """The case without what leaves its speed alone."""
    return case.model_dump_json(exclude=ELSEWHERE)
