"""`bench.py run` and `selfcheck`: parse, call, print."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.targets import check_measured, forecast_here, with_quality
from bench.study import experiment, printing, records
from bench.study.errors import NoPredictionError, UsageError
from bench.study.folders import RESULTS
from bench.study.printing import Format
from codevar.progress import say


def run(
    experiment_: options.ExperimentName = "quick",
    changes: options.Changes = [],  # noqa: B006
    plugin: options.Plugins = [],  # noqa: B006
    allow_plugins: options.AllowPlugins = False,
    out: options.RunFolder = None,
    device: options.Device = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="only what --out does not have, or what failed there")
    ] = False,
    paired: Annotated[
        bool, typer.Option("--paired", help="each case also in turn with its baseline: A B B A")
    ] = False,
    throughput: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="also a stream of batches, so long")
    ] = None,
    download: options.Download = False,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, callback=options.finite, help="measure no longer, less thoroughly"),
    ] = None,
    dry_run: options.DryRun = False,
    trace: Annotated[
        Path | None, typer.Option(help="folder for a profiler trace of the only case")
    ] = None,
    snapshot: Annotated[
        Path | None, typer.Option(help="folder for PyTorch's memory snapshot of the only case")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="over a Ray cluster: HOST:PORT, auto or local"),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(metavar="KINDS", help="with --cluster, each case on h100,l20 or on all"),
    ] = None,
) -> None:
    """Measures every case of an experiment, each in its own process."""
    keep = {kind: to for kind, to in (("trace", trace), ("snapshot", snapshot)) if to is not None}
    if resume and out is None:
        raise UsageError("--resume goes on with a run: name its folder with --out")
    if resume and keep:
        raise UsageError("--trace and --snapshot are of a case that runs; leave out --resume")
    if resume and minutes is not None:
        raise UsageError("--minutes chooses how thorough a new run is; --resume keeps that")
    if cluster is not None and (minutes is not None or dry_run):
        raise UsageError("--minutes and --dry-run are of this machine; `predict --rate` of others")
    if on is not None and cluster is None:
        raise UsageError("--on goes with --cluster")
    if device is not None:
        changes = [*changes, f"device={device}"]
    if paired:
        changes = [*changes, "paired=true"]
    if throughput is not None:
        changes = [*changes, f"stream_seconds={throughput}"]
    experiment.load(experiment_, changes)  # what it refuses, it refuses before torch is imported
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    console = Console()
    if cluster is not None:
        if keep:
            raise UsageError("--trace and --snapshot are of one case on one machine; no --cluster")
        from bench.measure.cluster import driver as many
        from bench.tables import frames, tables

        place = str(out or RESULTS / "{machine}" / f"{Path(experiment_).stem}-{now}")
        folders = many.run(experiment_, changes, cluster, on, place, console, resume, download)
        measured = list(map(frames.load, folders))
        printing.show(tables.measured(*measured, view=tables.IN_BRIEF), Format.rich)
        for path in folders:
            print(f"records: {path / records.FILE}")
        check_measured(*measured)
        return
    from bench.figures import known
    from bench.measure import devices, machine, runner, tracing
    from bench.tables import frames, hours, tables

    device = devices.default_device()
    sweep = experiment.load(experiment_, changes, device)
    known.check(sweep.experiment.figures)
    devices.check_devices(sweep.cases)
    found = machine.environment()
    folder = out or RESULTS / found["machine"] / f"{sweep.name}-{now}"
    forecast = forecast_here(device, found, sweep.experiment)
    if minutes is not None:
        fitted = hours.shortened(sweep, forecast, 60 * minutes)
        sweep = experiment.load(experiment_, [*changes, *fitted], device)
        if fitted:
            say(f"{minutes:g} minutes: --set {' --set '.join(fitted)}", console)
    left = runner.remaining_measurements(sweep, records.read_lines(folder / records.FILE)[0])
    try:
        planned = hours.before_a_run(sweep, forecast, [case for _, case in left])
        if dry_run:
            printing.show(planned, Format.rich)
            return
        sweep.notes.append(planned.notes[0])
    except NoPredictionError as e:  # of one case, whose record tells why
        if dry_run:
            raise
        sweep.notes.append(f"how long it takes cannot be told: {e}")
    runner.run(sweep, folder, found, console, resume, download, keep)
    measured = with_quality([frames.load(folder)])
    printing.show(tables.measured(*measured, view=tables.IN_BRIEF), Format.rich)
    print(f"records: {folder / records.FILE}")
    for kind, to in keep.items():
        file = tracing.output_file(kind, to, sweep.cases[0])
        said = file if file.exists() else f"none was made, see {folder / 'logs'}"
        say(f"{kind}: {said}", console)
    check_measured(*measured)


def selfcheck(
    device: options.Device = None,
    depth: Annotated[int, typer.Option(min=1, max=60, help="VAR-d of this depth")] = 4,
    pairs: Annotated[int, typer.Option(min=6, help="at most, with and without the timer")] = 600,
    format: options.OutputFormat = Format.rich,
) -> None:
    """Whether measuring changes what is measured; exit code 1 if by more than 1 %."""
    import torch

    from bench.measure import devices
    from bench.measure.selfcheck import selfcheck as check
    from bench.tables import tables

    chosen = devices.chosen_device(device)
    found = check(torch.device(chosen), depth, pairs)
    printing.show(tables.checked(found, chosen, depth), format)
    raise typer.Exit(1 if found.verdict == "failed" else 0)
