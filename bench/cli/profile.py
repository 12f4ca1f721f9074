"""`bench.py profile`, `pack` and `import`: parse, call, print."""

from __future__ import annotations

import datetime
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.options import finite
from bench.study import archive, printing, records, storage
from bench.study.errors import UsageError
from bench.study.folders import PROGRAM, RESULTS
from bench.study.printing import Format
from codevar.progress import Progress

if TYPE_CHECKING:
    from bench.measure.profile.session import Session

MaxMiB = Annotated[
    float | None,
    typer.Option(min=1, callback=finite, help="the most that one archive may have; else one"),
]
MaxFiles = Annotated[int | None, typer.Option(min=1, help="the most archives")]


def profile(
    run: Annotated[
        Path | None, typer.Argument(help="a run that there is: only its times over the floor")
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.5, callback=finite, help="how long it may take")
    ] = 5,
    device: options.Device = None,
    out: Annotated[Path | None, typer.Option(help="folder of the profile")] = None,
    resume: options.Resume = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only print what would be measured, and when")
    ] = False,
    pack_to: Annotated[
        Path | None, typer.Option("--pack", metavar="DIR", help="put the results there, archived")
    ] = None,
    max_mib: MaxMiB = None,
    max_files: MaxFiles = None,
    format: options.OutputFormat = Format.rich,
) -> None:
    """What this machine can do, in a stated time: ceilings, then the papers' methods against them.

    What is most worth comes first; --resume goes on where the time was over.  Of a run that there
    is, only its times over the floor, with the ceilings that it has, or this machine's.
    """
    began = time.monotonic()
    if resume and out is None:
        raise UsageError("--resume goes on with a profile: name its folder with --out")
    if run is not None:
        show_run(run, format)
        return
    if pack_to is not None:
        storage.prepare(pack_to)
    import torch

    from bench.measure import devices, machine, runner
    from bench.measure.profile import items
    from bench.measure.profile.forecast import Forecast
    from bench.measure.profile.measuring import Measuring
    from bench.measure.profile.session import Session

    chosen = devices.chosen_device(device)
    bf16 = devices.has_bf16(chosen)
    sweep, jobs = items.jobs(chosen, bf16)
    found = machine.environment()
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = out or RESULTS / found["machine"] / f"profile-{now}"
    forecast, say = Forecast(chosen, sweep.experiment), Progress(Console()).say
    if dry_run:
        measured, _ = records.read_lines(folder / records.FILE)
        planned = Session(folder, jobs, forecast, lambda *_: {}, lambda: measured)
        print(*plan_of(planned, minutes, items.precisions(items.kind_of(chosen), bf16)), sep="\n")
        return
    held = records.RunFolder(folder, runner.describe_run(sweep), found, resume)
    measuring = Measuring(held, sweep, found, chosen)
    try:
        for line in machine.find_disturbances(torch.device(chosen)):
            say(f"warning: {line}", "yellow")
        session = Session(
            folder, jobs, forecast, measuring, lambda: held.records, say, lambda: measuring.started
        )
        session.run(60 * minutes - (time.monotonic() - began))
    except KeyboardInterrupt:
        say(f"stopped; what was measured is in {folder}, --resume goes on from there")
        raise
    finally:
        measuring.process.close()
        held.close()
    goes_on = f"left, --resume --out {folder} goes on with them"
    say(f"{len(session.todo)} of {len(jobs)} {goes_on}" if session.todo else "all is measured")
    try:
        with within(60 * minutes - (time.monotonic() - began)):
            make_page(folder, say)
    except TimeoutError:
        say("no time was left for the page; --resume makes it, and `import` elsewhere")
    if pack_to is not None:
        pack(folder, pack_to, max_mib, max_files)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError where the block is, once so many seconds are over."""

    def over(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def plan_of(session: Session, minutes: float, precisions: dict[str, str]) -> list[str]:
    """The lines of --dry-run."""
    lines = ["precision: " + ", ".join(f"{name} {how}" for name, how in precisions.items())]
    planned = session.plan(60 * minutes)
    for job, begins, ends in planned:
        lines.append(f"{begins // 60:3.0f}:{begins % 60:02.0f}  {ends - begins:4.0f} s  "
                     f"({job.item}) {job.title}")  # fmt: skip
    ends = planned[-1][2] if planned else 0.0
    lines.append(f"{ends // 60:3.0f}:{ends % 60:02.0f}  {session.page_s:4.0f} s  the page")
    rest: dict[str, list[float]] = {}
    for job in session.todo:
        rest.setdefault(job.item, []).append(session.forecast.seconds(job, True))
    for item, seconds in rest.items():
        lines.append(f" later {sum(seconds) / 60:4.1f} min  ({item}) {len(seconds)} more")
    return lines


def show_run(run: Path, format: Format) -> None:
    """A run's times over the floor."""
    records.read_run(run)  # what it refuses, it refuses before torch is imported
    from bench.measure import machine
    from bench.measure.profile.measuring import ceilings_of_run
    from bench.predict import ceilings
    from bench.tables import frames
    from bench.tables import profile as pages

    if (run / records.SESSION).exists() and (found := pages.tables_of(pages.load(run))):
        printing.show(replace(found[0], more=found[1:]), format)
        return
    measured = frames.load(run)
    there = measured.env.get("machine")
    if not ceilings.load(run) and there != machine.environment()["machine"]:
        raise UsageError(f"{run}: has no ceilings.json, and was measured on {there}")
    if len(measured.devices) > 1:
        several = " and ".join(measured.devices)
        raise UsageError(f"{run}: was measured on {several}, which have ceilings of their own")
    top = ceilings_of_run(run, measured.devices[0], Console(stderr=True))
    printing.show(pages.page(measured, top), format)


def make_page(folder: Path, say: Callable[[str], None]) -> None:
    """`profile.md` and `report.html` of a profile's folder.

    What they need a machine to be measured may lack: then `import` makes them elsewhere.
    """
    try:
        from bench.figures import roofline
        from bench.report import page
        from bench.tables import profile as pages
    except ModuleNotFoundError as e:
        say(f"no page, as {e.name} is not installed; elsewhere `{PROGRAM} import` makes it")
        return
    run = pages.load(folder)
    if not run.records:
        say("no page, as no case was measured")
        return
    for path in roofline.write_profile(run):
        say(str(path))
    html = folder / "report.html"
    page.write(page.of_runs([run], [], f"{PROGRAM} report {folder}"), html)
    say(str(html))


def pack(
    folder: Annotated[Path, typer.Argument(help="results of a run or a profile")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the archives")],
    max_mib: MaxMiB = None,
    max_files: MaxFiles = None,
) -> None:
    """Packs a folder of results into archives that `import` reads."""
    records.read_run(folder)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("-._") or "run"
    for file in archive.pack(archive.files_of(folder), name, out, max_mib, max_files):
        print(f"{file} ({file.stat().st_size / archive.MIB:.1f} MiB)")


def import_(
    archives: Annotated[Path, typer.Argument(help="an archive, or the folder of its parts")],
    out: Annotated[
        Path | None, typer.Option(help="folder for them; default: results/MACHINE/NAME")
    ] = None,
) -> None:
    """Checks archives of results, unpacks them and makes the page of a profile."""
    parts = sorted(archives.glob("*.zip")) if archives.is_dir() else [archives]
    if not parts:
        raise UsageError(f"{archives}: no archive here; `{PROGRAM} pack` makes them")
    packed = archive.Archive(parts)
    if packed.read("run.json") is None:
        raise UsageError(f"{archives}: holds no run")
    env = json.loads(packed.read("env.json") or b"{}")
    machine = re.sub(r"[^a-z0-9]+", "-", str(env.get("machine")).lower()).strip("-")
    folder = out or RESULTS / (machine or "unknown") / packed.name
    packed.unpack(folder)
    print(folder)
    if (folder / records.SESSION).exists():
        make_page(folder, print)
