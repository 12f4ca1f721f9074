"""The command line: parse, call, print; nothing else."""

from __future__ import annotations

import datetime
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from bench.cli import eval, pictures, report, reproduce, sample, spectra, train
from bench.cli.targets import check_measured, every_run, find, with_quality
from bench.measure import machine
from bench.study import evaluations, experiment, printing, records
from bench.study.errors import UsageError, bytes_of
from bench.study.folders import RESULTS, ROOT
from bench.study.printing import Format
from bench.tables import frames, tables

# The base of typer's own complaints (its module has moved between versions).
Complaint: Any = typer.BadParameter.__mro__[-4]


class OneLineErrors(TyperGroup):
    """A user's mistake is one line on standard error and exit code 2."""

    def main(self, args: Sequence[str] | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        args = sys.argv[1:] if args is None else args
        try:
            # Without "standalone mode" an exit code is returned, Ctrl-C's included.
            sys.exit(super().main(args or ["--help"], **{**kwargs, "standalone_mode": False}))
        except UsageError as e:
            fail(str(e))
        except Complaint as e:
            fail(e.format_message())
        except (KeyboardInterrupt, typer.Abort):
            sys.exit(130)


def fail(message: str) -> NoReturn:
    print(f"bench.py: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def finite(value: float | None) -> float | None:
    """For options: a minimum lets "inf" pass and, by version of typer, "nan"."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Benchmark of efficient visual autoregressive image generation: VAR, CoDe, VARiant.",
)

ExperimentName = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="a name from `list`, or a TOML file")
]
Changes = Annotated[
    list[str], typer.Option("--set", metavar="AXIS=VALUES", help="change an axis: batch_size=1,8")
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
]
OutputFormat = Annotated[Format, typer.Option("--format", help="how to print")]
Targets = Annotated[
    list[str] | None,
    typer.Argument(help="experiments (their newest run) or folders of runs; default: newest run"),
]


@app.command("list")
def list_(format: OutputFormat = Format.rich) -> None:
    """Experiments, methods and published models."""
    printing.show(tables.catalogue(), format)


@app.command()
def env(format: OutputFormat = Format.rich) -> None:
    """This machine."""
    found = machine.environment()
    if format is Format.json:
        print(json.dumps(found, indent=1))
    else:
        printing.show(tables.environment(found), format)


@app.command()
def predict(
    experiment_: ExperimentName = "code_table1",
    changes: Changes = [],  # noqa: B006
    format: OutputFormat = Format.rich,
    max_batch: Annotated[
        bool, typer.Option("--max-batch", help="the largest batch that fits into --memory")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(help="of the card, as sold: 48GiB; CUDA's own 0.5 GiB come off")
    ] = None,
    ecc: Annotated[
        bool,
        typer.Option(help="the card keeps 1/16 for ECC: L20, L40S, A6000; not A100, H100"),
    ] = True,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, callback=finite, help="hours instead, at so many TFLOP/s of a card"
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, callback=finite, help="of an hour of a card")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="cards that share the work")] = 1,
    images: Annotated[
        int | None, typer.Option(min=1, help="hours to sample so many with each case")
    ] = None,
) -> None:
    """Parameters, KV cache, running memory and FLOPs of each case, from shapes alone."""
    sweep = experiment.load(experiment_, changes)
    if rate is not None:
        from bench.tables import hours

        if max_batch:
            raise UsageError("--rate is for hours, --max-batch for memory; one at a time")
        printing.show(hours.estimate(sweep, hours.Terms(rate * 1e12, price, gpus, images)), format)
        return
    if price is not None or images is not None or gpus != 1:
        raise UsageError("--price, --gpus and --images need the card's speed: --rate TFLOP/S")
    if max_batch:
        if memory is None:
            raise UsageError("--max-batch needs the card's memory: --memory 48GiB")
        printing.show(tables.largest_batches(sweep, bytes_of(memory), ecc), format)
    elif memory is not None:
        raise UsageError("--memory goes with --max-batch")
    else:
        printing.show(tables.predictions(sweep), format)


@app.command()
def run(
    experiment_: ExperimentName = "quick",
    changes: Changes = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="folder of the run")] = None,
    device: Device = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="only what --out does not have, or what failed there")
    ] = False,
    paired: Annotated[
        bool, typer.Option("--paired", help="each case also in turn with its baseline: A B B A")
    ] = False,
    throughput: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="also a stream of batches, so long")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="fetch published checkpoints that are not cached")
    ] = False,
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
    from bench.measure import devices, runner, tracing

    keep = {kind: to for kind, to in (("trace", trace), ("snapshot", snapshot)) if to is not None}
    if resume and out is None:
        raise UsageError("--resume goes on with a run: name its folder with --out")
    if resume and keep:
        raise UsageError("--trace and --snapshot are of a case that runs; leave out --resume")
    if device is not None:
        changes = [*changes, f"device={device}"]
    if paired:
        changes = [*changes, "paired=true"]
    if throughput is not None:
        changes = [*changes, f"stream_seconds={throughput}"]
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    console = Console()
    if cluster is not None:
        from bench.measure.cluster import driver as many

        if keep:
            raise UsageError("--trace and --snapshot are of one case on one machine; no --cluster")
        place = str(out or RESULTS / "{machine}" / f"{Path(experiment_).stem}-{now}")
        folders = many.run(experiment_, changes, cluster, on, place, console, resume, download)
        measured = list(map(frames.load, folders))
        printing.show(tables.measured(*measured), Format.rich)
        for path in folders:
            console.print(f"records: {path / records.FILE}", soft_wrap=True, highlight=False)
        check_measured(*measured)
        return
    if on is not None:
        raise UsageError("--on goes with --cluster")
    from bench.figures import registry

    sweep = experiment.load(experiment_, changes, device=devices.default_device())
    registry.check(sweep.experiment.figures)
    found = machine.environment()
    folder = out or RESULTS / found["machine"] / f"{sweep.name}-{now}"
    runner.run(sweep, folder, found, console, resume, download, keep)
    measured = with_quality([frames.load(folder)])
    printing.show(tables.measured(*measured), Format.rich)
    console.print(f"records: {folder / records.FILE}", soft_wrap=True, highlight=False)
    for kind, to in keep.items():
        file = tracing.file_of(kind, to, sweep.cases[0])
        said = file if file.exists() else f"none was made, see {folder / 'logs'}"
        console.print(f"{kind}: {said}", soft_wrap=True, highlight=False)
    check_measured(*measured)


@app.command()
def selfcheck(
    device: Device = None,
    depth: Annotated[int, typer.Option(min=1, max=60, help="VAR-d of this depth")] = 4,
    pairs: Annotated[int, typer.Option(min=6, help="at most, with and without the timer")] = 600,
    format: OutputFormat = Format.rich,
) -> None:
    """Whether measuring changes what is measured; exit code 1 if by more than 1 %."""
    import torch

    from bench.measure import devices
    from bench.measure.selfcheck import selfcheck as check

    chosen = devices.default_device() if device in (None, "auto") else str(device)
    devices.check_device(chosen)
    found = check(torch.device(chosen), depth, pairs)
    printing.show(tables.checked(found, chosen, depth), format)
    raise typer.Exit(1 if found.verdict == "failed" else 0)


@app.command()
def profile(
    run: Annotated[
        Path | None, typer.Argument(help="a run that there is: only its times over the floor")
    ] = None,
    device: Device = None,
    depth: Annotated[int, typer.Option(min=4, max=30, help="VAR-d of this depth")] = 16,
    precision: Annotated[
        str | None, typer.Option(help="float32, bf16 or fp16; default: fp16 on a GPU, else float32")
    ] = None,
    changes: Changes = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="folder of the run")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with --out")] = False,
    format: OutputFormat = Format.rich,
) -> None:
    """This machine's ceilings, and each method's time over its floor, on one page.

    Of a run that there is, with the ceilings that it has, or this machine's.
    """
    from bench.figures import roofline
    from bench.measure import devices, find_ceilings, runner
    from bench.predict import ceilings
    from bench.tables import profile as pages

    if resume and out is None:
        raise UsageError("--resume goes on with a run: name its folder with --out")
    if run is not None:
        measured = frames.load(run)
        there = measured.env.get("machine")
        if not ceilings.load(run) and there != machine.environment()["machine"]:
            raise UsageError(f"{run}: has no ceilings.json, and was measured on {there}")
        if len(measured.devices) > 1:
            several = " and ".join(measured.devices)
            raise UsageError(f"{run}: was measured on {several}, which have ceilings of their own")
        top = find_ceilings.of_run(run, measured.devices[0], Console(stderr=True))
        printing.show(pages.page(measured, top), format)
        return
    chosen = devices.default_device() if device in (None, "auto") else str(device)
    devices.check_device(chosen)
    axes = [*pages.axes_of(chosen.partition(":")[0], depth, precision), *changes]
    sweep = experiment.load("profile", [*axes, f"device={chosen}"])
    devices.check_devices(sweep.cases)
    found = machine.environment()
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = out or RESULTS / found["machine"] / f"profile-{now}"
    console = Console()
    runner.run(sweep, folder, found, console, resume)
    top = find_ceilings.of_run(folder, chosen, console)
    measured = frames.load(folder)
    printed = pages.page(measured, top)
    printing.show(printed, format)
    words = [f"--depth {depth}", *(f"--set {change}" for change in changes)]
    words += [f"--precision {precision}"] if precision else []
    command = " ".join(["python bench.py profile", f"--device {chosen}", *words])
    for path in roofline.write(printed, measured, top, folder, command):
        console.print(path, soft_wrap=True, highlight=False)
    check_measured(measured)


@app.command()
def table(targets: Targets = None, format: OutputFormat = Format.rich) -> None:
    """The papers' columns: measured, predicted and as printed there.

    Runs of one experiment, say of several machines, share one table.
    """
    runs = find(targets)
    if format in (Format.json, Format.csv):
        for complaint in [line for measured in runs for line in measured.complaints]:
            print(complaint, file=sys.stderr)
        printing.show(tables.together(runs), format)
        return
    by_name: dict[str, list[frames.Run]] = {}
    for measured in runs:
        by_name.setdefault(measured.sweep.name, []).append(measured)
    for same in by_name.values():
        printing.show(tables.measured(*same), format)


@app.command()
def history(
    experiments: Annotated[
        list[str] | None, typer.Argument(help="only runs of these experiments")
    ] = None,
    method: Annotated[str, typer.Option(help="only methods with this in their name")] = "",
    results: Annotated[Path, typer.Option(help="folder with a folder for each machine")] = RESULTS,
    format: OutputFormat = Format.rich,
) -> None:
    """Each case over commits and machines."""
    from bench.tables.history import history as over_time

    printing.show(over_time(results, method, tuple(experiments or ())), format)


@app.command()
def plot(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="figures (memory: both of it), experiments or folders of runs or trainings"
        ),
    ] = None,
    figure: Annotated[list[str] | None, typer.Option(help="only these figures")] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = ROOT / "plots",
) -> None:
    """The papers' figures, as PNG and PDF: `plot code_table1`, `plot memory quick`."""
    from bench.figures import registry, training

    figures, runs = list(figure or []), []
    for target in targets or []:
        if target == "memory":
            figures += ["memory", "timeline"]
        elif target in registry.figures() or target in training.FIGURES:
            figures.append(target)
        else:
            runs.append(target)
    if {*figures} & training.FIGURES.keys() or any(map(training.is_training, runs)):
        for path in training.draw_trainings(runs, figures, out):
            print(path)
        return
    found = find(runs)
    names = Counter(run.sweep.name for run in found)
    for run in found:
        several = names[run.sweep.name] > 1
        called = "-".join(run.folder.absolute().parts[-2:]) if several and run.folder else ""
        for path in registry.draw(run, figures, out, called):
            print(path)


@app.command()
def recommend(
    targets: Targets = None,
    memory: Annotated[
        str, typer.Option(help="what the decode may take: of a card of 48 GiB some 44.5GiB")
    ] = "16GiB",
    batch: Annotated[int, typer.Option(min=1, max=1024, help="images at a time")] = 1,
    max_fid: Annotated[
        float | None, typer.Option(min=0, callback=finite, help="the worst FID to accept")
    ] = None,
    max_latency: Annotated[
        float | None, typer.Option(min=0, callback=finite, help="seconds a batch may take")
    ] = None,
    stack: Annotated[str, typer.Option(help="published, modern or compiled")] = "modern",
    precision: Annotated[
        str | None, typer.Option(help="float32, bf16 or fp16; default: fp16 on a GPU, else float32")
    ] = None,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="folder for the picture")] = ROOT / "plots",
    format: OutputFormat = Format.rich,
) -> None:
    """The Pareto-best methods for a memory and a batch size, with where each figure is from."""
    from bench.figures import advice_figure
    from bench.measure import devices
    from bench.tables import advice as advisor

    chosen = devices.default_device() if device in (None, "auto") else str(device)
    settings = {
        "batch_size": batch,
        "stack": stack,
        "precision": precision or ("float32" if chosen == "cpu" else "fp16"),
        "device": chosen,
    }
    limits = advisor.Limits(bytes_of(memory), max_fid, max_latency)
    cases = advisor.grid(settings)
    runs = find(targets) if targets else every_run()
    evaluated, _ = evaluations.every(RESULTS)
    with Console(stderr=True).status(f"predicting {len(cases)} cases: up to a minute"):
        found = advisor.candidates(cases, runs, machine.environment()["machine"], evaluated)
    advice = advisor.advise(found, limits, batch)
    paths = advice_figure.draw(advice, limits, out)
    printing.show(advisor.printed(advice, limits), format)
    for path in paths:
        print(path, file=sys.stderr)


app.command("train")(train.train)
app.command("eval")(eval.evaluate)


class GateFormat(StrEnum):
    rich = "rich"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"
    github = "github"
    junit = "junit"


@app.command("compare")
def compare_(
    base: Annotated[
        str, typer.Argument(help="a run's folder, or pytest-benchmark's JSON or a folder of it")
    ],
    new: Annotated[str, typer.Argument(help="the same, to be judged against BASE")],
    threshold: Annotated[str, typer.Option(help="change that matters")] = "3%",
    alpha: Annotated[float, typer.Option(help="chance of a false change in all the table")] = 0.01,
    format: Annotated[GateFormat, typer.Option("--format", help="how to print")] = GateFormat.rich,
    plot: Annotated[Path | None, typer.Option(help="folder for pictures of the samples")] = None,
) -> None:
    """Regression gate: exit code 1 for a regression, 2 for what cannot be compared."""
    from bench.figures import gate_figure
    from bench.tables import compare, gate

    sides = [
        compare.of_benchmarks(Path(side)) if compare.is_benchmarks(Path(side)) else find([side])[0]
        for side in (base, new)
    ]
    comparison = compare.compare(sides[0], sides[1], compare.share(threshold), alpha)
    paths = gate_figure.draw(comparison, plot) if plot else []
    if format is GateFormat.github:
        print(gate.workflow_commands(comparison))
        gate.step_summary(comparison)
    elif format is GateFormat.junit:
        print(gate.junit(comparison))
    else:
        printing.show(gate.printed(comparison), format)
    for path in paths:
        print(path, file=sys.stderr)
    raise typer.Exit(comparison.exit_code)


app.command("sample")(sample.sample)
app.command("fidelity")(sample.fidelity)
app.command("grid")(pictures.grid)
app.command("edit")(pictures.edit)
app.command("inpaint")(pictures.inpaint)
app.command("iqa")(pictures.iqa)
app.command("reproduce")(reproduce.reproduce)
app.command("report")(report.report)
app.command("spectra")(spectra.spectra)
