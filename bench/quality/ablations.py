"""Models that an experiment names and that do not ship: which trainings make them, and those
trainings themselves.

A missing file is matched with the configs in `experiments/train` by the folder that they write to.
Where a config starts from a model of the mini world that is not here either, the shipped one takes
its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.study.cases import Case
from bench.study.errors import UsageError
from bench.study.folders import EXPERIMENTS
from codevar.files import SHIPPED, CheckpointError
from codevar.progress import Progress
from codevar.train import TrainError, checkpoint, loop, recipes
from codevar.train.recipes import VARRecipe


@dataclass(frozen=True)
class Needed:
    """A training that is still to be done, and the files of it that are missing."""

    recipe: VARRecipe
    files: tuple[Path, ...]


def missing(cases: Sequence[Case]) -> list[Path]:
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
            f"{' '.join(experiments)} --train 0.2` trains them and says first which they are"
        )


def train(files: Sequence[Path], share: float, device: str, progress: Progress) -> None:
    """Trains what is missing; says beforehand what that is.  What was begun goes on from its
    checkpoint.

    Raises UsageError for a file that no config makes, and for what stops a training.
    """
    todo = needed(files, share)
    lost = [file for file in files if not any(file in one.files for one in todo)]
    if lost:
        raise UsageError(f"{lost[0]}: no such file, and no config in experiments/train makes it")
    try:
        announce(todo, progress)
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


def announce(todo: Sequence[Needed], progress: Progress) -> None:
    """Says which models are trained, and for how many steps; each says its time left meanwhile."""
    progress.say(f"{len(todo)} trainings for what does not ship:")
    for recipe in (one.recipe for one in todo):
        begun = checkpoint.read_header(Path(recipe.out))
        left = (recipe.steps or 0) - (begun["step"] if begun else 0)
        progress.say(
            f"  {recipe.out}: {left} steps of {recipe.batch_size} images from {recipe.init}"
        )
    progress.say("Each says how long it takes.  After a stop the same command goes on.")
