"""Jobs of a profile measured for real: `Measuring` is what a session runs them by."""

import copy
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.measure import runner
from bench.measure.profile import tasks
from bench.measure.profile.items import Job
from bench.measure.shared import SharedProcess
from bench.predict import ceilings
from bench.predict.ceilings import Ceilings
from bench.study import storage
from bench.study.errors import UsageError
from bench.study.experiment import Sweep
from bench.study.records import RunFolder
from codevar.progress import say


class Measuring:
    """Runs jobs on a device; cases leave their records in the folder, ceilings their file.

    What is measured a second time, for a stream, replaces nothing: it is another round.
    """

    def __init__(self, folder: RunFolder, sweep: Sweep, env: dict[str, Any], device: str) -> None:
        self.folder, self.sweep, self.env, self.device = folder, sweep, env, device
        self.process = SharedProcess()

    @property
    def started(self) -> bool:
        """Whether a process waits for the next case."""
        return self.process.started

    def __call__(self, job: Job, limit_s: float) -> dict[str, Any]:
        """The outcome: a status, a reason if it is not ok, and what is said of it."""
        if job.case is None:
            return self.task(job, limit_s)
        sweep = copy.copy(self.sweep)
        effort = {**job.effort, "timeout_s": limit_s}
        sweep.experiment = sweep.experiment.model_copy(update=effort)
        record = runner.run_case(
            job.case,
            sweep,
            self.folder.path,
            self.env,
            round_=job.round,
            before=self.folder.records,
            measure=self.process,
        )
        if record.ok or job.round == 1:  # the first round of the case is good
            self.folder.append(record)
        return {
            "status": record.status,
            "reason": record.reason,
            "said": runner.describe_outcome(record),
        }

    def task(self, job: Job, limit_s: float) -> dict[str, Any]:
        """What is no case."""
        self.process.close()  # nothing is to disturb it
        log = self.folder.path / "logs" / f"{job.key.replace('/', '-').replace(' ', '-')}.log"
        found = tasks.in_process(job.task, self.device, job.about, limit_s, log)
        if measured := found.pop("ceilings", None):
            path = self.folder.path
            top = best(Ceilings.model_validate(measured), ceilings.load(path))
            storage.write_json(path / ceilings.FILE, top.model_dump())
        return found


def ceilings_of_run(folder: Path, device: str, console: Console) -> Ceilings:
    """Those in a run's folder, or else measured now and put there.

    Raises UsageError where they are another device's, or cannot be measured.
    """
    found = ceilings.load(folder)
    if found is None:
        say(f"ceilings of {device}: about half a minute", console)
        told = tasks.in_process("ceilings", device, "", 600, folder / "ceilings.log")
        if told["status"] != "ok":
            raise UsageError(f"ceilings of {device}: not measured ({told['reason']})")
        found = Ceilings.model_validate(told["ceilings"])
        storage.write_json(folder / ceilings.FILE, found.model_dump())
    if found.device != device:
        raise UsageError(f"{folder / ceilings.FILE}: is of {found.device}, the run of {device}")
    return found


def best(now: Ceilings, before: Ceilings | None) -> Ceilings:
    """The ceilings of two measurements: whatever else a machine does can only lower them."""
    if before is None:
        return now
    faster = [
        max(pair, key=lambda product: product.flop_per_s)
        for pair in zip(now.products, before.products, strict=True)
    ]
    return now.model_copy(
        update={
            "products": faster,
            "copy_bytes_per_s": max(now.copy_bytes_per_s, before.copy_bytes_per_s),
            "read_bytes_per_s": max(now.read_bytes_per_s, before.read_bytes_per_s),
            "launch_s": min(now.launch_s, before.launch_s),
        }
    )
