"""What a sweep over many machines has measured and what it lacks: one run folder a machine.

    results/<machine>/<run>/        each as a local run writes it

There is no other state.  What is measured next follows from the records, so a node that died, a
driver that was killed and a sweep that just goes on are the same case.
"""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure.runner import remaining_measurements
from bench.predict.shares import Family
from bench.study.cases import Case
from bench.study.experiment import Sweep
from bench.study.records import Record, RunFolder
from bench.study.storage import write_text

MACHINE = "{machine}"
Todo = list[tuple[int, Case]]  # (round, case), in the order of measuring


def left(
    sweep: Sweep, family: Family, records: Sequence[Record], machine: str, place: str | None
) -> Todo:
    """What a place of a machine has yet to measure of a family; place None: any one place.

    A round that is complete on the machine stays.  One that was broken off elsewhere begins again
    here, since its speed-ups would be ratios of two cards.
    """
    own = [record for record in of_family(records, family) if record.machine == machine]
    incomplete = {round_ for round_, _ in _lacking(sweep, family, own)}
    places: dict[int, set[str | None]] = {}
    for record in own:
        places.setdefault(record.round, set()).add(record.place)
    kept = [
        record
        for record in own
        if record.place == place
        or (record.round not in incomplete and len(places[record.round]) == 1)
    ]
    return _lacking(sweep, family, kept)


def of_family(records: Sequence[Record], family: Family) -> list[Record]:
    """The records of a family's cases that were asked for on its kind of machine."""
    return [r for r in records if r.key in family.keys and r.on == family.on]


def _lacking(sweep: Sweep, family: Family, records: list[Record]) -> Todo:
    todo = remaining_measurements(sweep, records)
    return [(round_, case) for round_, case in todo if case.key in family.keys]


class SweepRecords:
    """The records of a sweep by machine, on disk before `add` returns.

    out: the runs' folder with "{machine}" in it, or a folder to hold one for each machine.
    Raises UsageError as `RunFolder` does, for any of the folders that are there.
    """

    def __init__(self, sweep: Sweep, out: str, what: dict[str, Any], resume: bool) -> None:
        self.sweep, self.what, self.resume = sweep, what, resume
        self.out = out if MACHINE in out else str(Path(out) / MACHINE)
        self.folders: dict[str, RunFolder] = {}
        before, after = self.out.split(MACHINE, 1)
        try:
            for file in sorted(glob.glob(f"{glob.escape(before)}*{glob.escape(after)}/run.json")):
                name = file.removesuffix("/run.json")
                machine = name[len(before) : len(name) - len(after)]
                self.folders[machine] = RunFolder(Path(name), what, {}, resume)
        except BaseException:
            self.close()
            raise

    def all(self) -> list[Record]:
        """Every machine's records."""
        return [record for folder in self.folders.values() for record in folder.records]

    def missing(self, family: Family) -> Todo:
        """What the machine that has most of a family lacks of it; empty if the family is done."""
        records = of_family(self.all(), family)
        machines = {record.machine for record in records}
        found = [left(self.sweep, family, records, machine, None) for machine in machines]
        return min(found or [_lacking(self.sweep, family, [])], key=len)

    def add(self, record: Record, log: str, env: dict[str, Any]) -> None:
        """Writes a measurement, in the place of one of a round that was broken off elsewhere.

        The old one goes first: if this process dies in between, one is missing, which the next
        finds, rather than there twice.
        """
        machine = env["machine"]
        if machine not in self.folders:
            path = Path(self.out.replace(MACHINE, machine))
            self.folders[machine] = RunFolder(path, self.what, env, self.resume)
        home = self.folders[machine]
        write_text(home.path / "logs" / f"{record.key}-{record.round}.log", log)
        for folder in self.folders.values():
            folder.discard(record)
        home.append(record)

    def close(self) -> None:
        """Lets others write to the folders."""
        for folder in self.folders.values():
            folder.close()
