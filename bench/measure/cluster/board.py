"""Progress of a sweep over many machines: what each node has done, does, and has left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bench.measure import runner
from bench.predict.shares import work
from bench.study.cases import Case
from bench.study.storage import Record

if TYPE_CHECKING:
    from bench.measure.cluster.driver import Driver, Hired


def short(case: Case) -> str:
    return f"{case.label} b{case.batch_size}"


@dataclass
class Tally:
    """What a node has done.  work: `ledger.work`, in `seconds`."""

    finished: int = 0
    failed: int = 0
    retried: int = 0
    work: float = 0
    seconds: float = 0

    @property
    def rate(self) -> float:
        return self.work / self.seconds if self.seconds else 0.0


class Board:
    """Progress: a line for each node on a terminal, a line for each measurement otherwise."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.nodes: dict[str, Tally] = {}
        self.live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def say(self, line: str, style: str | None = None) -> None:
        self.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def tally(self, slot: Hired) -> Tally:
        return self.nodes.setdefault(slot.node.name, Tally())

    def retried(self, slot: Hired) -> None:
        self.tally(slot).retried += 1

    def done(self, driver: Driver, slot: Hired, case: Case, record: Record, seconds: float) -> None:
        tally = self.tally(slot)
        tally.finished += 1
        tally.failed += record["status"] != "ok"
        tally.work += work(case)
        tally.seconds += seconds
        finished = len(driver.ledger.records)
        left = sum(len(todo) for _, todo in self.left(driver))
        said = f"{slot.place}: {runner.in_words(case)}: {runner.outcome(record)}"
        self.say(f"[{finished}/{finished + left}] {said}")

    def left(self, driver: Driver) -> list[tuple[Hired | None, list[tuple[int, Case]]]]:
        """What each family lacks, and who has it."""
        found: list[tuple[Hired | None, list[tuple[int, Case]]]] = [
            (None, driver.ledger.missing(family)) for family in driver.waiting
        ]
        for slot in driver.slots:
            if slot.family is not None:
                found.append((slot, driver.ledger.left(slot.family, slot.machine, slot.place)))
        return found

    def show(self, driver: Driver) -> None:
        if self.live.is_started:
            self.live.update(self.table(driver), refresh=True)

    def table(self, driver: Driver) -> Table:
        """A node's time left is that of the families it has; the last line's is the sweep's."""
        left = self.left(driver)
        table = Table("node", "runs", "finished", "failed", "retried", "left", box=None)
        for slot in driver.slots:
            self.tally(slot)
        for name, tally in self.nodes.items():
            slots = [slot for slot in driver.slots if slot.node.name == name]
            runs = ", ".join(short(slot.doing[1]) for slot in slots if slot.doing)
            if not runs:
                runs = "starting, or waiting until it is free" if slots else "nothing"
            own = sum(work(case) for slot, todo in left if slot in slots for _, case in todo)
            counts = (tally.finished, tally.failed, tally.retried)
            parallel = tally.rate * max(1, sum(slot.doing is not None for slot in slots))
            table.add_row(name, runs, *map(str, counts), duration(own, parallel))
        every = sum(work(case) for _, todo in left for _, case in todo)
        busy = [slot for slot in driver.slots if slot.doing is not None]
        rate = sum(self.tally(slot).rate for slot in busy)
        finished = str(len(driver.ledger.records))
        missing = sum(len(todo) for _, todo in left)
        table.add_row("", f"{missing} measurements to go", finished, "", "", duration(every, rate))
        return table


def duration(left: float, rate: float) -> str:
    """Hours and minutes, if anything is known of them."""
    if not left:
        return ""
    if not rate:
        return "-"
    minutes, seconds = divmod(round(left / rate), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
