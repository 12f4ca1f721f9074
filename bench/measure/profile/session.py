"""A profile in a stated time: what is most worth comes first, and `--resume` goes on.

    session.jsonl    a line when a job begins and one when it ends: `Began`, `Ended`

No job can spoil the rest: one that fails, crashes or hangs is recorded, and tried again when all
else is done.  One that was under way when the session was killed, or when its time was over, comes
first in the next session; if that happens twice, it comes last.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.measure.machine import now
from bench.measure.profile.forecast import Forecast, Line
from bench.measure.profile.items import Job
from bench.methods.sources import reason
from bench.predict import ceilings
from bench.predict.floor import beaten
from bench.study import storage
from bench.study.records import FAILED, OUT_OF_MEMORY, SESSION, Record

DONE = ("ok", *OUT_OF_MEMORY)
AGAIN = Job("b", "ceilings", "again")  # where a decode has beaten its floor
CUT = "cut"  # status of what was under way when the session's time was over
MOST_FAILURES = 2
#: A job may take so many times what is predicted, and some seconds, before it is ended.
PATIENCE, GRACE_S = 3, 30.0
PAGE_S = 25.0  # assumed of the page
RESERVE = 1.5  # times what is predicted is kept for what is essential
#: Runs a job in so many seconds; what comes back has a status, and a reason if it is not ok.
Measure = Callable[[Job, float], dict[str, Any]]


def read(folder: Path) -> list[Line]:
    """The lines of all sessions in a folder; what a crash cut short is left out."""
    return storage.read_lines(folder / SESSION, Line)[0]


def ended(lines: Sequence[Line]) -> dict[str, Line]:
    """How each job ended last, by its key."""
    return {line.key: line for line in lines if line.status}


def left_to_do(jobs: Sequence[Job], lines: Sequence[Line]) -> list[Job]:
    """In their order, but what failed comes last, and what failed too often not at all."""
    done = {line.key for line in ended(lines).values() if line.status in DONE}
    failures = Counter(line.key for line in lines if line.status in FAILED)
    lost = Counter(line.key for line in lines if not line.status)
    lost -= Counter(line.key for line in lines if line.status not in (None, CUT))
    left = [job for job in jobs if job.key not in done and failures[job.key] < MOST_FAILURES]
    return sorted(left, key=lambda job: failures[job.key] > 0 or lost[job.key] > 1)


class Session:
    """Some minutes of work in a folder.

    records: tells what the folder's cases have measured so far.  started: tells whether a process
    waits for the next case.  clock: seconds.  say: prints a line.
    """

    def __init__(
        self,
        folder: Path,
        jobs: Sequence[Job],
        forecast: Forecast,
        measure: Measure,
        records: Callable[[], Sequence[Record]],
        say: Callable[[str], None] = print,
        started: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.forecast, self.measure = folder, forecast, measure
        self.records, self.say, self.started, self.clock = records, say, started, clock
        self.lines = read(folder)
        self.todo = left_to_do(jobs, self.lines)
        self.held_against_floors = 0  # records
        self.learn()

    def run(self, seconds: float) -> None:
        """Works through what fits into the time, and leaves some for the page."""
        end = self.clock() + seconds
        while (job := self.next(end - self.clock() - self.page_s)) is not None:
            self.todo.remove(job)
            self.do(job, end - self.page_s)

    @property
    def page_s(self) -> float:
        """What the page will take on this machine."""
        return PAGE_S * max(1.0, self.forecast.slower)

    def plan(self, seconds: float) -> list[tuple[Job, float, float]]:
        """What `run` would do if all takes as long as is predicted: the job, and from when to when
        in seconds.  Nothing is measured; what is left is in `todo`."""
        at, planned = 0.0, list[tuple[Job, float, float]]()
        self.started = lambda: any(job.case for job, _, _ in planned)
        while (job := self.next(seconds - at - self.page_s)) is not None:
            self.todo.remove(job)
            planned.append((job, at, at := at + self.forecast.seconds(job, self.started())))
        return planned

    def next(self, left: float) -> Job | None:
        """The first that fits, and leaves time for what is essential; None if nothing does."""

        def need(job: Job) -> float:
            return self.forecast.seconds(job, self.started())

        kept = RESERVE * sum(s for job in self.todo if job.essential and (s := need(job)) <= left)
        fits = (job for job in self.todo if need(job) + (not job.essential) * kept <= left)
        return next(fits, None)

    def do(self, job: Job, end: float) -> None:
        """One job, whatever happens to it, between two lines of the file."""
        began, predicted = self.clock(), self.forecast.seconds(job, self.started())
        own, left = PATIENCE * predicted + GRACE_S, end - began
        said: dict[str, Any] = {"key": job.key, "item": job.item, "title": job.title}
        self.append(Line(**said, at=now(), predicted_s=round(predicted, 1)))
        try:
            found = self.measure(job, min(own, left))
            Line(**said, **found)
        except Exception as e:
            found = {"status": "error", "reason": reason(e)}
        took = self.clock() - began
        if found["status"] == "timeout" and left < own:
            found = {"status": CUT, "reason": "the session's time was over"}
        how = found.pop("said", None) or found.get("reason") or found["status"]
        self.append(Line(**said, took_s=round(took, 1), **found))
        told = f"{took:.0f} s, predicted {predicted:.0f}; {max(0, end - self.clock()):.0f} s left"
        self.say(f"({job.item}) {job.title}: {how} ({told})")
        self.learn()

    def append(self, line: Line) -> None:
        """Add a line to the session and to its file."""
        self.lines.append(line)
        storage.append_line(self.folder / SESSION, line)

    def learn(self) -> None:
        """Takes in what was measured; a decode that beats its floor has ceilings measured again."""
        found = ceilings.load(self.folder)
        if found and found != self.forecast.top:
            self.forecast.use(found)
        records = self.records()
        self.forecast.learn(records, self.lines)
        fresh = records[self.held_against_floors :]
        self.held_against_floors = len(records)
        known = (*ended(self.lines), *(job.key for job in self.todo))
        if found and AGAIN.key not in known and any(beaten(r, found) for r in fresh):
            self.todo.insert(0, AGAIN)
