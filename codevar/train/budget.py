"""Trainings one after the other in a given time: each has a share of it and ends with a model.

Rates fall to their end within the share, whatever number of steps that is, so that each model is
a finished one.  What a stage leaves over, or takes too much, the later ones share.

A second call goes on: first with what has no model yet; when all have one, with those that no
other was begun from, since tokens and weights that another was trained on must stay.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import codevar
from codevar.progress import Progress
from codevar.train import checkpoint, loop, parallel
from codevar.train.data import MiniImages, open_tokens
from codevar.train.errors import TrainError
from codevar.train.recipes import Recipe, VARRecipe
from codevar.train.time_limit import TimeLimit

#: Parts of the time for all runs of a recipe, which share them by their steps; about what they
#: took when the shipped models were trained, with more for a VQVAE, which all others rest on.
PARTS = {"vqvae": 10, "classifier": 2, "factor-reader": 2, "var": 48, "code-drafter": 10}
PARTS |= {"code-refiner": 12, "variant": 8, "perturb": 5}
TOKEN_MAPS = 10  # the part that token maps may take, once
COMPILING_PAYS_S = 300  # compiling takes a minute or two
TIMED_BATCH = 64  # images that are encoded to see how many token maps the time allows


def train_all(
    runs: Sequence[Recipe],
    seconds: float,
    *,
    device: str = "auto",
    resume: bool = False,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Path]:
    """Trains all runs, or goes on with them, in about so many seconds; gives each one's model.

    runs: in an order in which each finds what it starts from.
    resume: goes on with what earlier calls left.
    Raises TrainError or CheckpointError for what stops one; the models before it are there.
    """
    begun = [run.out for run in runs if checkpoint.read_header(Path(run.out))]
    if begun and not resume:
        raise TrainError(f"{begun[0]} has a run: --resume goes on with it")
    end = clock() + seconds
    group = parallel.join(device)
    progress = (progress or Progress()) if group.first else Progress(quiet=True)
    waiting = to_train(runs)
    parts = [part_of(run, waiting) for run in waiting]
    images = _recorded_images(runs)
    maps = TOKEN_MAPS if images is None and any(map(_encodes_mini_world, waiting)) else 0
    announce(waiting, parts, maps, seconds, progress)
    for n, run in enumerate(waiting):
        update: dict[str, Any] = {}
        if _encodes_mini_world(run):
            if images is None:
                left = (end - clock()) * maps / (maps + sum(parts[n:]))
                images, maps = make_token_maps(run, left, group, progress, clock), 0
            update["data"] = run.data.model_copy(update={"images": images})
        share = max(0.0, end - clock()) * parts[n] / (maps + sum(parts[n:]))
        update["compile"] = run.compile and share >= COMPILING_PAYS_S
        run = run.model_copy(update=update)
        limit = TimeLimit(share, clock)
        out = Path(run.out)
        yield loop.train(run, out, device=device, resume=True, progress=progress, limit=limit)


def to_train(runs: Sequence[Recipe]) -> list[Recipe]:
    """The runs that a call goes on with (see the top of this file)."""
    cards = {run.out: checkpoint.read_card(Path(run.out)) for run in runs}
    if missing := [run for run in runs if cards[run.out] is None]:
        return missing
    used = {
        Path(source).parent
        for run in runs
        if isinstance(run, VARRecipe)
        for source in (run.vqvae, run.init, getattr(run, "teacher", ""))
    }
    return [
        run
        for run in runs
        if Path(run.out) not in used and (cards[run.out] or {})["steps"] != run.steps
    ]


def part_of(run: Recipe, runs: Sequence[Recipe]) -> float:
    """The run's part of the time, relative to the others'."""
    alike = [other for other in runs if other.recipe == run.recipe]
    steps = [other.length(other.data.images) for other in alike]
    return PARTS[run.recipe] * run.length(run.data.images) / sum(steps)


def announce(
    runs: Sequence[Recipe],
    parts: Sequence[float],
    maps: float,
    seconds: float,
    progress: Progress,
) -> None:
    """Says how the time is shared."""
    if not runs:
        progress.say("every model is finished: there is nothing to go on with")
        return
    whole = maps + sum(parts)
    progress.say(f"{seconds / 60:.3g} min for {len(runs)} models, each finished in its share:")
    if maps:
        progress.say(f"{seconds / 60 * maps / whole:8.2f} min  token maps")
    for run, part in zip(runs, parts, strict=True):
        progress.say(f"{seconds / 60 * part / whole:8.2f} min  {run.out}")


def make_token_maps(
    run: Recipe,
    seconds: float,
    group: parallel.Group,
    progress: Progress,
    clock: Callable[[], float],
) -> int:
    """Makes token maps of as many images as a time allows, for all runs of a VQVAE; gives their
    number: that of the config at most, a batch at least."""
    assert isinstance(run, VARRecipe)
    end = clock() + seconds
    vqvae = codevar.load_vqvae(run.vqvae, device=group.device)
    began = clock()
    for batch in islice(MiniImages(run.data, group.device).all(TIMED_BATCH), 2):
        began = clock()  # of the second, as the first warms up
        vqvae.encode(batch["images"].flatten(0, 1)).cpu()
    image_s = (clock() - began) / TIMED_BATCH
    fitting = int((end - clock()) / image_s) if image_s > 0 else run.data.images
    images = group.agree(max(run.batch_size, min(run.data.images, fitting)))
    data = run.data.model_copy(update={"images": images})
    open_tokens(data, vqvae, group, progress.say)
    return images


def _encodes_mini_world(run: Recipe) -> bool:
    return isinstance(run, VARRecipe) and run.data.source == "mini" and run.data.tokens != ""


def _recorded_images(runs: Sequence[Recipe]) -> int | None:
    """Images of an epoch that an earlier call chose."""
    for run in filter(_encodes_mini_world, runs):
        if before := checkpoint.read_header(Path(run.out)):
            return before["config"]["data"]["images"]
    return None
