"""`bench.py train`: parse, call, print."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.study.errors import UsageError


class Recipe(StrEnum):
    vqvae = "vqvae"
    var = "var"
    code_drafter = "code-drafter"
    code_refiner = "code-refiner"
    variant = "variant"
    perturb = "perturb"
    classifier = "classifier"
    all = "all"


def train(
    recipe: Annotated[Recipe, typer.Argument(help="what the config is for; all takes any")],
    config: Annotated[list[Path], typer.Option(help="TOML file, or a folder of them for all")],
    out: Annotated[Path | None, typer.Option(help="folder of the run, if not the config's")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint")] = False,
    changes: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="optimizer.lr=1e-3, steps=9")
    ] = [],  # noqa: B006
) -> None:
    """Trains a model by a config; torchrun in front of it shares the work."""
    split = [change.partition("=") for change in changes]
    if wrong := [key for key, equals, _ in split if not equals]:
        raise UsageError(f"--set takes KEY=VALUE, not {wrong[0]}")
    values = {key.strip(): value for key, _, value in split}
    files = [
        f for path in config for f in (sorted(path.glob("*.toml")) if path.is_dir() else [path])
    ]
    if not files:
        raise UsageError(f"{config[0]}: no .toml file there")
    if absent := [file for file in files if not file.is_file()]:
        raise UsageError(f"{absent[0]}: no such file")
    from codevar.files import CheckpointError
    from codevar.progress import Progress
    from codevar.train import TrainError, loop, parallel, recipes

    progress = Progress()
    try:
        loaded = []
        for file in files:
            for asked in recipes.load(file, values):
                if recipe.value not in ("all", asked.recipe):
                    raise UsageError(f"{file} is for {asked.recipe}: bench.py train {asked.recipe}")
                loaded.append(asked)
        if out and len(loaded) > 1:
            raise UsageError("--out is the folder of one run; several have their own")
        for asked in loaded:
            folder = out or Path(asked.out)
            path = loop.train(asked, folder, device=device, resume=resume, progress=progress)
            if parallel.is_first():
                progress.say(f"model: {path}")
    except (TrainError, CheckpointError) as e:
        raise UsageError(str(e)) from None
    finally:
        parallel.leave()
