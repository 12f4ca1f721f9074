"""What commands share: the runs that a user names, with their evaluations."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import typer

from bench.study import evaluations, experiment, records
from bench.study.errors import UsageError
from bench.study.folders import RESULTS
from bench.tables import frames


def check_measured(*runs: frames.Run) -> None:
    """Exit code 1 where no case came to a result."""
    if all(record["status"] in records.FAILED for run in runs for record in run.records):
        folders = ", ".join(str(run.folder) for run in runs)
        print(
            f"bench.py: nothing was measured, every case failed: see the logs in {folders}; "
            "--resume tries again",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def every_run() -> list[frames.Run]:
    """All runs under results/ that can be read, newest first."""
    found = []
    for folder, _ in records.runs(RESULTS):
        try:
            found.append(frames.load(folder))
        except UsageError as e:
            print(f"left out: {e}", file=sys.stderr)
    return with_quality(found)


def with_quality(runs: list[frames.Run], *more: Path) -> list[frames.Run]:
    """The runs, with all evaluations under results/, in their own folders and in `more`."""
    folders = [RESULTS, *more, *(run.folder for run in runs if run.folder)]
    found, complaints = evaluations.every(*folders)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return [dataclasses.replace(run, evaluations=found) for run in runs]


def find(targets: list[str] | None) -> list[frames.Run]:
    """The runs that the user means; an experiment that was never run comes without records."""
    newest = records.runs(RESULTS)
    if not targets:
        if not newest:
            raise UsageError(f"no run under {RESULTS}; `bench.py run` makes one")
        return with_quality([frames.load(newest[0][0])])
    found = []
    for target in targets:
        if Path(target).is_dir():
            found.append(frames.load(Path(target)))
            continue
        sweep = experiment.load(target)
        named = [folder for folder, name in newest if name == sweep.name]
        found.append(frames.load(named[0]) if named else frames.Run(sweep))
    return with_quality(found)
