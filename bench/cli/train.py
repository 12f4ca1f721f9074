"""`bench.py train`: parse, call, print."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli import options
from bench.study.errors import UsageError
from bench.study.folders import PROGRAM
from codevar.files import CheckpointError
from codevar.train import TrainError, recipes

Trained = StrEnum("Trained", [*recipes.RECIPES, "all"])  # type: ignore[misc]


def train(
    recipe: Annotated[Trained, typer.Argument(help="what the config is for; all takes any")],
    config: Annotated[list[Path], typer.Option(help="TOML file, or a folder of them for all")],
    out: Annotated[Path | None, typer.Option(help="folder of the run, if not the config's")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint")] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=525_600,
            callback=options.finite,
            help="time that all share; each finishes",
        ),
    ] = None,
    changes: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="optimizer.lr=1e-3, steps=9")
    ] = [],  # noqa: B006
) -> None:
    """Trains a model by a config; torchrun in front of it shares the work."""
    try:
        runs = runs_of(recipe.value, config, changes)
        if out and len(runs) > 1:
            raise UsageError("--out is the folder of one run; several have their own")
        from codevar.progress import Progress
        from codevar.train import budget, loop, parallel

        progress = Progress()
        if out:
            runs = [runs[0].model_copy(update={"out": str(out)})]
        try:
            where: dict[str, Any] = {"device": device, "resume": resume, "progress": progress}
            if minutes is None:
                made: Iterator[Path] = (loop.train(run, Path(run.out), **where) for run in runs)
            else:
                made = budget.train_all(runs, 60 * minutes, **where)
            for path in made:
                if parallel.is_first():
                    progress.say(f"model: {path}")
        finally:
            parallel.leave()
    except (TrainError, CheckpointError) as e:
        raise UsageError(str(e)) from None


def runs_of(recipe: str, configs: list[Path], changes: list[str]) -> list[recipes.Recipe]:
    """The runs of config files, or of all in a folder.  Raises UsageError or TrainError for
    whatever the configs alone can tell."""
    split = [change.partition("=") for change in changes]
    if wrong := [key for key, equals, _ in split if not equals]:
        raise UsageError(f"--set takes KEY=VALUE, not {wrong[0]}")
    files = [
        f for path in configs for f in (sorted(path.glob("*.toml")) if path.is_dir() else [path])
    ]
    if not files:
        raise UsageError(f"{configs[0]}: no .toml file there")
    runs = []
    for file in files:
        for run in recipes.load(file, {key.strip(): value for key, _, value in split}):
            if recipe not in ("all", run.recipe):
                raise UsageError(f"{file} is for {run.recipe}: {PROGRAM} train {run.recipe}")
            try:
                run.check_files()
            except TrainError as e:
                raise UsageError(f"{file}: {e}") from None
            runs.append(run)
    return runs
