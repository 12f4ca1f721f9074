"""What the sessions of a profile came to: what is left, what was checked, what to mistrust."""

from collections.abc import Sequence

import pandas as pd

from bench.measure.machine import BUSY_CORES
from bench.measure.profile import items, session
from bench.measure.profile.forecast import Forecast
from bench.measure.profile.items import Job
from bench.predict.ceilings import Ceilings
from bench.study.printing import Printed
from bench.study.records import DEGRADED, FAILED
from bench.tables.case_rows import Row
from bench.tables.frames import Run


def jobs_of(run: Run) -> list[Job]:
    """The list that the profile works through."""
    half = {case.precision for case in run.sweep.cases if case.stack == "modern"}
    return items.jobs(run.devices[0], bf16="bf16" in half)[1]


def left(run: Run) -> Printed:
    """Of each item how much is done, what failed, and how long the rest takes."""
    assert run.folder is not None
    lines, jobs = session.read(run.folder), jobs_of(run)
    todo = session.left_to_do(jobs, lines)
    forecast = Forecast(run.devices[0], run.sweep.experiment)
    forecast.learn(run.records, lines)
    rows = [
        {
            "item": f"({item})",
            "what": " / ".join(titles),
            "done": f"{len(of_item) - len(lacking)} of {len(of_item)}",
            "left out": "; ".join(shortened([job.title for job in lacking])),
            "takes": f"{sum(forecast.seconds(job, True) for job in lacking) / 60:.1f} min",
        }
        for item, titles in titles_of(run).items()
        if (of_item := [job for job in jobs if job.item == item])
        and (lacking := [job for job in of_item if job in todo])
    ]
    text = pd.DataFrame(rows)
    return Printed("Left out for lack of time", text, text, ["`--resume` goes on with it."])


def titles_of(run: Run) -> dict[str, list[str]]:
    """Titles of a profile's items by letter."""
    found: dict[str, list[str]] = {}
    for item in items.items(items.kind_of(run.devices[0])):
        found.setdefault(item.letter, []).append(item.title)
    return found


def shortened(titles: Sequence[str]) -> list[str]:
    """The first titles, and how many more there are."""
    return [*titles[:3], f"{len(titles) - 3} more"] if len(titles) > 4 else list(titles)


def checks(run: Run) -> Printed:
    """The first decode on each stack, the timer's own cost, the tests that need a GPU."""
    assert run.folder is not None
    rows = []
    for line in session.ended(session.read(run.folder)).values():
        for stack, told in line.stacks.items():
            same = f"{told['same']:.1%} of the tokens" if "same" in told else told["reason"]
            rows.append((f"{stack}: those of published on the CPU", same))
        if line.verdict:
            overhead = f"{line.verdict}, {line.overhead or 0:+.2%} of a decode"
            rows.append(("the timer's own cost", overhead))
        if line.passed is not None:
            counts = f"{line.passed} passed, {len(line.failed)} failed, {line.skipped} skipped"
            rows.append((line.key, counts))
    text = pd.DataFrame(rows, columns=["check", "found"])
    return Printed("Checks", text, text)


def anomalies(run: Run, rows: Sequence[Row], top: Ceilings) -> Printed:
    """Everything that was marked.  rows: with their floors."""
    assert run.folder is not None
    found: list[tuple[str, str]] = []
    for gpu in run.env.get("gpus", []):
        if "nvml" in gpu:
            found.append((gpu["name"], f"no NVML: {gpu['nvml']}"))
    if top.other_load_cores > BUSY_CORES:
        found.append(("ceilings", f"machine busy, {top.other_load_cores:.1f} cores"))
    for line in session.ended(session.read(run.folder)).values():
        if line.status in (*FAILED, session.CUT):
            found.append((f"({line.item}) {line.title}", f"{line.status}: {line.reason}"))
        if line.verdict not in (None, "passed"):
            found.append(("selfcheck", str(line.verdict)))
        found += [(test, "failed") for test in line.failed]
    for row in rows:
        what = f"{row['name']}, batch {row['batch_size']}, {row['stack']}"
        marks = [f"{short}: {row[name]}" for name, (short, _) in DEGRADED.items() if row.get(name)]
        if row["beats_floor"]:
            marks.append("faster than its floor: the ceilings are invalid")
        if differs := row.get("memory_differs"):
            marks.append(f"memory differs: {differs}")
        if why := row.get("discarded_for"):
            marks.append(f"throttled: {why}")
        if not row.get("steady", True):
            marks.append("had not settled when the time for warm-up was over")
        if row.get("other_load_cores", 0) > BUSY_CORES:
            marks.append(f"machine busy, {row['other_load_cores']:.1f} cores")
        found += [(what, mark) for mark in marks]
    text = pd.DataFrame(found, columns=["where", "what"])
    return Printed("Anomalies", text, text, [] if found else ["Nothing was marked."])
