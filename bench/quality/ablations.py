"""Models that an experiment names and that do not ship: which trainings make them, how long that
takes, and the trainings themselves.

A missing file is matched with the configs in `experiments/train` by the folder that they write to.
Where a config starts from a model of the mini world that is not here either, the shipped one takes
its place.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import codevar
from bench.study.cases import VARCase
from bench.study.errors import UsageError
from bench.study.folders import EXPERIMENTS
from codevar.files import SHIPPED, CheckpointError
from codevar.progress import Progress
from codevar.train import TrainError, checkpoint, loop, parallel, recipes
from codevar.train.data import open_images, open_tokens, tokens_file
from codevar.train.recipes import VARRecipe

TRIAL_STEPS = 3  # the first warms up
TRIAL_IMAGES = 128  # whose token maps are timed


@dataclass(frozen=True)
class Needed:
    """A training that is still to be done, and the files of it that are missing."""

    recipe: VARRecipe
    files: tuple[Path, ...]


def missing(cases: Sequence[VARCase]) -> list[Path]:
    """Files of models that the cases name and that are not here."""
    names = dict.fromkeys(name for case in cases for name in case.model_names())
    files = [Path(name) for name in names if Path(name).suffix == ".safetensors"]
    return [file for file in files if not file.exists()]


def needed(files: Sequence[Path], share: float) -> list[Needed]:
    """The trainings that make the files, for a share of their configs' steps; files that no
    config makes are left out."""
    found = []
    for config in sorted((EXPERIMENTS / "train").rglob("*.toml")):
        for recipe in recipes.load(config):
            made = tuple(file for file in files if file.parent == Path(recipe.out))
            if made and isinstance(recipe, VARRecipe) and recipe.steps:
                found.append(Needed(shortened(recipe, share), made))
    return found


def shortened(recipe: VARRecipe, share: float) -> VARRecipe:
    """For a share of the steps, from shipped models where the config's own are not here."""
    changes: dict[str, Any] = {"steps": max(1, round(share * (recipe.steps or 0)))}
    for key in ("vqvae", "init", "teacher"):
        path = Path(getattr(recipe, key, ""))
        if not path.exists() and (shipped := f"mini_{path.parent.name}") in SHIPPED:
            changes[key] = shipped
    return recipe.model_copy(update=changes)


def check(files: Sequence[Path], experiments: Sequence[str]) -> None:
    """Raises UsageError, with the command, where there is a training that makes a missing file."""
    if folders := [Path(one.recipe.out).name for one in needed(files, 1.0)]:
        raise UsageError(
            f"models that do not ship are missing ({', '.join(folders)}): `bench.py reproduce "
            f"{' '.join(experiments)} --train 0.2` trains them and says first how long that takes"
        )


def train(files: Sequence[Path], share: float, device: str, progress: Progress) -> None:
    """Trains what is missing; says beforehand what that is and how long it takes here.  What was
    begun goes on from its checkpoint.

    Raises UsageError for a file that no config makes, and for what stops a training.
    """
    todo = needed(files, share)
    lost = [file for file in files if not any(file in one.files for one in todo)]
    if lost:
        raise UsageError(f"{lost[0]}: no such file, and no config in experiments/train makes it")
    try:
        announce(todo, device, progress)
        for one in todo:
            out = Path(one.recipe.out)
            loop.train(one.recipe, out, device=device, resume=True, progress=progress)
    except (TrainError, CheckpointError) as e:
        raise UsageError(str(e)) from None
    if still := [file for file in files if not file.exists()]:
        raise UsageError(
            f"{still[0]}: its training is finished and did not keep it; delete {still[0].parent} "
            "to train anew, or train for more steps"
        )


def announce(todo: Sequence[Needed], device: str, progress: Progress) -> None:
    """Says which models are trained and, from a few steps of each here, how long that takes."""
    progress.say(
        f"{len(todo)} trainings for what does not ship; {TRIAL_STEPS} steps of each timed:"
    )
    seconds: dict[Path, float] = {}  # by what is written
    for recipe in (one.recipe for one in todo):
        begun = checkpoint.about(Path(recipe.out))
        left = (recipe.steps or 0) - (begun["step"] if begun else 0)
        trial = timed(recipe, device)
        if not trial.tokens.exists() and trial.tokens not in seconds:
            seconds[trial.tokens] = trial.tokens_s
            progress.say(f"  {trial.tokens}: token maps, {told(trial.tokens_s)}")
        seconds[Path(recipe.out)] = left * trial.step_s
        progress.say(
            f"  {recipe.out}: {left} steps of {recipe.batch_size} images from {recipe.init}, "
            f"{told(left * trial.step_s)}"
        )
    progress.say(
        f"{told(sum(seconds.values()))} in all.  Steps were timed uncompiled: compiling takes "
        "minutes at first and makes them faster.  After a stop the same command goes on."
    )


@dataclass(frozen=True)
class Trial:
    """step_s: seconds a step.  tokens, tokens_s: file of the token maps, seconds to make it."""

    step_s: float
    tokens: Path
    tokens_s: float


def timed(recipe: VARRecipe, device: str) -> Trial:
    """A few uncompiled steps over a few images, in a folder that is then deleted."""
    with tempfile.TemporaryDirectory() as folder:
        images = max(TRIAL_IMAGES, recipe.batch_size)
        few = recipe.data.model_copy(update={"images": images, "tokens": folder})
        update = {"out": folder, "steps": TRIAL_STEPS, "log_every": 1, "compile": False}
        update |= {"keep": (), "measure_every": 0, "data": few}
        group = parallel.join(device)
        vqvae = codevar.load_vqvae(recipe.vqvae, device=group.device)
        started = time.perf_counter()
        open_tokens(few, vqvae, group, lambda line: None)
        tokens_s = (time.perf_counter() - started) / images * recipe.data.images
        quiet = Progress(quiet=True)
        loop.train(recipe.model_copy(update=update), Path(folder), device=device, progress=quiet)
        lines = (Path(folder) / loop.METRICS).read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines[1:]]
    file = tokens_file(recipe.data, open_images(recipe.data, group.device), vqvae)
    return Trial(sum(seconds) / len(seconds), file, tokens_s)


def told(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
