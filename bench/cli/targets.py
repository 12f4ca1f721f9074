"""What commands share: the runs that a user names, with their evaluations."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bench.study import evaluations, experiment, printing, records, storage
from bench.study.cases import is_method
from bench.study.errors import UsageError
from bench.study.experiment import Experiment, Sweep
from bench.study.folders import PROGRAM, RESULTS, SHIPPED

if TYPE_CHECKING:
    from bench.measure.profile.forecast import Forecast
    from bench.tables.frames import Run


def check_measured(*runs: Run) -> None:
    """Exit code 1 where no case came to a result."""
    if all(record.status in records.FAILED for run in runs for record in run.records):
        folders = ", ".join(str(run.folder) for run in runs)
        print(
            f"{PROGRAM}: nothing was measured, every case failed: see the logs in {folders}; "
            "--resume tries again",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def every_run() -> list[Run]:
    """All runs under results/ that can be read, newest first."""
    from bench.tables import frames

    found = []
    for folder, _ in records.runs(RESULTS):
        try:
            found.append(frames.load(folder))
        except UsageError as e:
            printing.warn(f"left out: {e}")
    return with_quality(found)


def with_quality(runs: list[Run], *more: Path) -> list[Run]:
    """The runs, with all evaluations under results/, in their own folders and in `more`; those that
    the project ships with the evaluations among these."""
    own = [run.folder for run in runs if run.folder]
    read = {
        shipped: evaluations.every(SHIPPED) if shipped else evaluations.every(RESULTS, *more, *own)
        for shipped in {run.shipped for run in runs}
    }
    for complaint in itertools.chain(*(complaints for _, complaints in read.values())):
        printing.warn(complaint)
    return [dataclasses.replace(run, evaluations=read[run.shipped][0]) for run in runs]


def find(targets: list[str] | None, shipped: bool = False) -> list[Run]:
    """The runs that the user means; an experiment that was never run comes without records.

    shipped: runs by name are those that the project ships.
    """
    newest = records.runs(SHIPPED if shipped else RESULTS)
    if not targets and not newest:
        raise UsageError(f"no run under {RESULTS}; `{PROGRAM} run` makes one")
    named: list[Path | Sweep] = []
    for target in targets or [str(newest[0][0])]:
        if Path(target).is_dir():
            records.read_run(Path(target))  # what it refuses, it refuses before torch is imported
            named.append(Path(target))
        else:
            name = Path(target).stem if target.endswith(".toml") else target
            folders = [folder for folder, run in newest if run == name]  # which needs no plugin
            named.append(folders[0] if folders else experiment.load(target))
    from bench.tables import frames

    return with_quality(
        [
            frames.load(one) if isinstance(one, Path) else frames.Run(one, shipped=shipped)
            for one in named
        ]
    )


def check_paths(*paths: Path) -> None:
    """Raises OSError, before torch is imported, for what is not there or may not be read."""
    for path in paths:
        os.stat(path)


def reference_paths(reference: str | None) -> list[Path]:
    """Of a REF, the path that it is, if it is one."""
    return [] if reference is None or reference.startswith("mini:") else [Path(reference)]


def check_targets(targets: Sequence[str], changes: Sequence[str]) -> None:
    """Raises UsageError, before torch is imported, for what is no method and no experiment."""
    for target in targets:
        if not is_method(target):
            experiment.load(target, changes)


def forecast_here(device: str, env: dict[str, Any], effort: Experiment | None = None) -> Forecast:
    """How long things take here, by the ceilings and the newest runs of this machine.

    env: `machine.environment()`.  effort: of what is measured.
    """
    from bench.measure.profile.forecast import Forecast
    from bench.measure.validity import known_ceilings

    home = RESULTS / env["machine"]
    found = Forecast(device, effort, known_ceilings(home / "next", env))
    found.learn(records.newest(home), [])
    return found


def record_folder(out: Path | None, name: str) -> Path:
    """The folder that a command adds its record to: --out, or the machine's own in results/.

    Raises UsageError, before any work, for one that cannot be written.
    """
    from bench.measure import machine

    folder = out or RESULTS / machine.environment()["machine"] / name
    storage.check_writable(folder)
    return folder
