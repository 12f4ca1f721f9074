"""What a sweep over many machines has measured and what it lacks: its folders, one a machine.

    results/<machine>/<run>/        each as a local run writes it

There is no other state.  What a node is to do next follows from the records, so that a node that
died, a driver that was killed and a sweep that just goes on are one and the same.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from bench.measure.runner import left_to_do
from bench.predict.shares import Family
from bench.study.cases import Case
from bench.study.experiment import Sweep
from bench.study.records import RunFolder
from bench.study.storage import Record, write_text

MACHINE = "{machine}"


class Ledger:
    """The records of a sweep by machine; on disk before `add` returns.

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

    def folder(self, env: dict[str, Any]) -> RunFolder:
        """The run of that machine, begun if need be."""
        machine = env["machine"]
        if machine not in self.folders:
            path = Path(self.out.replace(MACHINE, machine))
            self.folders[machine] = RunFolder(path, self.what, env, self.resume)
        return self.folders[machine]

    @property
    def records(self) -> list[Record]:
        return [record for folder in self.folders.values() for record in folder.records]

    def of(self, family: Family) -> list[Record]:
        """The records of a family; not those that were asked for on another kind of machine."""
        asked = [record for record in self.records if record.get("on") == family.on]
        return [record for record in asked if record["key"] in family.keys]

    def left(self, family: Family, machine: str, place: str | None) -> list[tuple[int, Case]]:
        """(round, case) of what that place of that machine has yet to measure, in order.

        A round that is complete on the machine stays.  One that was broken off elsewhere begins
        again here, since its ratios would be of two cards; what it has is replaced, measurement
        by measurement.
        """
        own = [record for record in self.of(family) if record["machine"] == machine]
        open_ = {round_ for round_, _ in self._lacks(family, own)}
        places: dict[int, set[str | None]] = {}
        for record in own:
            places.setdefault(record["round"], set()).add(record.get("place"))
        kept = [
            record
            for record in own
            if record.get("place") == place
            or (record["round"] not in open_ and len(places[record["round"]]) == 1)
        ]
        return self._lacks(family, kept)

    def _lacks(self, family: Family, records: list[Record]) -> list[tuple[int, Case]]:
        todo = left_to_do(self.sweep, records)
        return [(round_, case) for round_, case in todo if case.key in family.keys]

    def missing(self, family: Family) -> list[tuple[int, Case]]:
        """What the machine that has most of it lacks."""
        machines = {record["machine"] for record in self.of(family)}
        found = [self.left(family, machine, None) for machine in machines]
        return min(found or [self._lacks(family, [])], key=len)

    def is_done(self, family: Family) -> bool:
        return not self.missing(family)

    def add(self, record: Record, log: str, env: dict[str, Any]) -> None:
        """Writes a measurement, in the place of one of a round that was broken off elsewhere.

        That goes first: if this process dies in between, one is missing, which the next finds,
        rather than there twice."""
        home = self.folder(env)
        write_text(home.path / "logs" / f"{record['key']}-{record['round']}.log", log)
        for folder in self.folders.values():
            folder.discard(record)
        home.append(record)

    def close(self) -> None:
        for folder in self.folders.values():
            folder.close()
