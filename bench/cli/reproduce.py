"""`bench.py reproduce`: parse, call, print."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.targets import check_paths, reference_paths
from bench.study import experiment, printing, storage
from bench.study.cases import Case, sampled
from bench.study.errors import UsageError
from bench.study.experiment import Sweep
from bench.study.folders import PLOTS, PROGRAM, RESULTS
from bench.study.printing import Format
from codevar.progress import say

PAGE = "report.html"


def reproduce(
    experiments: Annotated[
        list[str], typer.Argument(metavar="EXPERIMENT...", help="names from `list`, or TOML files")
    ],
    reference: Annotated[
        str, typer.Option(metavar="REF", help=f"as `{PROGRAM} eval` takes it")
    ] = "mini:test:2000",
    per_class: options.PerClass = 200,
    batch_size: options.BatchSize = 50,
    intervals: options.Intervals = True,
    speed: Annotated[bool, typer.Option(help="also measure speed and memory")] = True,
    weights: options.ExtractorWeights = None,
    changes: options.Changes = [],  # noqa: B006
    plugin: options.Plugins = [],  # noqa: B006
    allow_plugins: options.AllowPlugins = False,
    device: options.Device = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="folder; results/MACHINE/EXPERIMENT, of several results/MACHINE with one for each"
        ),
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="folder of the sample sets; `samples` in that of --out")
    ] = None,
    train: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0.0001,
            max=1,
            help="train the models that are missing, for this share of their configs' steps; the "
            "shipped ones had about 0.2",
        ),
    ] = None,
    download: options.Download = False,
    dry_run: options.DryRun = False,
) -> None:
    """Experiments from nothing to tables, figures and a page: images, quality, speed, memory.

    A case that several of them have is sampled once.  What the folder has of all this is kept:
    after a stop, run the same command again.
    """
    if device is not None:
        changes = [*changes, f"device={device}"]
    for name in experiments:
        experiment.load(name, changes)  # what it refuses, it refuses before torch is imported
    check_paths(*filter(None, [weights]), *reference_paths(reference))
    import torch

    from bench.cli.sample import show_before_sampling
    from bench.cli.targets import check_measured, forecast_here, with_quality
    from bench.figures import known, registry
    from bench.measure import devices, machine, runner
    from bench.quality import ablations, features
    from bench.quality import reproduce as whole
    from bench.quality.evaluate import Protocol
    from bench.quality.reference import Reference
    from bench.report import page
    from bench.tables import frames, hours, tables
    from codevar.progress import Progress

    chosen = devices.default_device()
    sweeps = [experiment.load(name, changes, chosen) for name in dict.fromkeys(experiments)]
    known.check([name for sweep in sweeps for name in sweep.experiment.figures])
    folders = folders_of([sweep.name for sweep in sweeps], out)
    cases = [case for sweep in sweeps for case in sweep.cases]
    devices.check_devices(cases)
    wanted = sampled(cases, ", ".join(sweep.name for sweep in sweeps))
    env, console = machine.environment(), Console()
    if dry_run:
        show_before_sampling("images", wanted, per_class, env)
        for sweep in sweeps if speed else []:
            forecast = forecast_here(chosen, env, sweep.experiment)
            left = sweep.cases * sweep.experiment.rounds
            printing.show(hours.before_a_run(sweep, forecast, left), Format.rich)
        return
    if absent := ablations.missing(wanted):
        if train is None:
            ablations.check(absent, experiments)
        else:
            ablations.train(absent, train, sweeps[0].device or "cpu", Progress())
    devices.check_weights(cases, download)
    for folder in folders:
        storage.check_writable(folder)
    device_of = torch.device(sweeps[0].device or "cpu")
    network = features.extractor_of(features.default_for(reference), weights, download, device_of)
    shared = folders[0] if len(folders) == 1 else folders[0].parent
    found = whole.quality(
        wanted,
        samples or shared / whole.SAMPLES,
        shared,
        per_class,
        reference,
        Protocol(
            Reference("none"), network, features.default_cache(), batch_size, intervals=intervals
        ),
        env,
        Progress(),
        baselines_of(sweeps),
        (views := [view for sweep in sweeps for view in sweep.experiment.views]),
        download,
    )
    if views:
        title = ", ".join(sweep.experiment.title for sweep in sweeps)
        printing.show(whole.printed(title, found), Format.rich)
    del network
    torch.cuda.empty_cache()  # or the processes that are timed would have to do without it
    runs = []
    for sweep, folder in zip(sweeps, folders, strict=True):
        run = frames.Run(sweep, folder=folder)
        if speed:
            runner.run(sweep, folder, env, console, (folder / "run.json").exists(), download)
            run = frames.load(folder)
        (measured,) = with_quality([run], shared)
        printing.show(tables.measured(measured, view=tables.IN_BRIEF), Format.rich)
        for path in registry.draw(measured, [], PLOTS) if speed else []:
            say(str(path), console)
        runs.append(measured)
    if speed:
        html = page.of_runs(runs, [], shlex.join([PROGRAM, "reproduce", *experiments]))
        page.write(html, shared / PAGE)
        say(str(shared / PAGE), console)
        check_measured(*runs)


def folders_of(names: Sequence[str], out: Path | None) -> list[Path]:
    """Of each experiment's run.  Raises UsageError for two of the same name."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]}: two experiments of this name; reproduce them one by one")
    if len(names) == 1 and out:
        return [out]
    from bench.measure import machine

    home = out or RESULTS / machine.environment()["machine"]
    return [home / name for name in names]


def baselines_of(sweeps: Sequence[Sweep]) -> dict[str, Case]:
    """By what each case draws, the case that its figures are compared with."""
    from bench.quality.wanted import drawn_by

    found: dict[str, Case] = {}
    for sweep in sweeps:
        for case in sampled(sweep.cases, sweep.name):
            base = sweep.baseline_case(case)
            if base and base.makes_images:
                found.setdefault(drawn_by(case), base)
    return found
