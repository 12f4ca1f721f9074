"""The search: which plan of a budget keeps most, by images of the same seeds on the mini world.

First each saving is tried alone, on few images: what does it lose for what it saves?  Savings in
the order of that, until the budget is met, are the first plan.  Optuna then varies the order, by a
number for each kind of saving and one for each scale, and the plans race (asynchronous successive
halving): each is seen on few images, the best third so far on three times as many, and so on.

Everything follows from the seed and from what `plans.jsonl` holds, so a search that was killed goes
on where it was: what is in the file is not evaluated again.
"""

from __future__ import annotations

import json
import math
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from bench.search.space import Saving, Steps, plan_of
from bench.search.target import Target, said
from bench.study import storage
from bench.study.errors import NotInstalledError
from bench.tables.pareto import pareto_front
from codevar.progress import Progress

FILE = "plans.jsonl"
SHARE = 3  # one of so many goes on to the next rung, which has so many times the images
RUNGS = 3
REACH = 2.0  # a draw moves a saving by a factor of e**REACH at most, for its kind and its scale
WIDER = 0.5  # a draw after one that gave no new plan is so much more by chance
LAST = 100.0  # below any that a draw can give
SEEN = 0.01  # of the largest loss of a saving: what few images can tell from none
GIVE_UP = 50  # draws in a row that give no new plan

#: (plan, numbers of images) -> how far each of these images is from the whole model's of the same
#: seed, and what the plan loses by all of its images so far.
Evaluate = Callable[[Steps, range], tuple[list[float], float]]


class Seen(storage.Line):
    """A plan on one rung's images.  A draw that gave a plan of before has no images of its own.

    saving: that is alone in the plan; else ask, draw: which draw of the sampler it is, and what.
    first: number of the first image.  distances: of these, image by image.  loss: of all so far.
    """

    plan: Steps
    costs: dict[str, float]
    saving: str | None = None
    ask: int | None = None
    draw: dict[str, float] | None = None
    first: int = 0
    distances: list[float] = Field(default_factory=list)
    loss: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Raced:
    """A plan that went through all rungs.  costs: predicted.  loss: KID from the whole model."""

    plan: Steps
    costs: dict[str, float]
    loss: float


@dataclass
class Race:
    """images: of the first rung.  plans: the budget of evaluations, lone savings included."""

    target: Target
    folder: Path
    evaluate: Evaluate
    seed: int
    plans: int
    images: int
    progress: Progress
    _seen: dict[str, dict[int, float]] = field(default_factory=dict)  # losses by images
    _draws: dict[int, Seen] = field(default_factory=dict)
    _rungs: list[list[float]] = field(default_factory=lambda: [[] for _ in range(RUNGS)])
    _raced: set[str] = field(default_factory=set)
    _done: set[str] = field(default_factory=set)  # with the lone savings
    _best: float = math.inf

    def run(self) -> list[Raced]:
        """The front of cost and loss, the one that loses least first."""
        for line in storage.read_lines(self.folder / FILE, Seen)[0]:
            if line.loss is not None:
                losses = self._seen.setdefault(json.dumps(line.plan), {})
                losses[line.first + len(line.distances)] = line.loss
            if line.ask is not None:
                self._draws.setdefault(line.ask, line)
        with self.progress:
            worth = self.worth()
            found = self.search(worth)
        figures = lambda one: (self.target.cost(one.costs), one.loss)  # noqa: E731
        return sorted(pareto_front(found, figures), key=lambda one: one.loss)

    def worth(self) -> dict[Saving, float]:
        """Logarithm of what a saving saves over what it changes; those that save most first."""
        gains = {saving: self.target.gain(saving) for saving in self.target.savings}
        most_first = sorted(gains, key=lambda saving: -gains[saving])
        losses = {}
        for saving in most_first[: self.plans // 2]:
            steps = plan_of([saving], self.target.scales)
            about = Seen(plan=steps, costs=self.target.costs(steps), saving=saving.name)
            losses[saving] = self.loss(about, self.images)
        most = max(*losses.values(), 1e-9)
        least = SEEN * most
        return {  # what saves more than is asked for is taken when nothing else is left
            saving: math.log(max(gain, 1e-6))
            - math.log(max(losses.get(saving, most), least))
            - LAST * self.target.overshoots(saving)
            for saving, gain in gains.items()
        }

    def search(self, worth: dict[Saving, float]) -> list[Raced]:
        """Plans that went through all rungs."""
        optuna = library()
        axes = sorted({s.kind for s in worth} | {scale_of(s) for s in worth})
        ranges = dict.fromkeys(axes, optuna.distributions.FloatDistribution(-REACH, REACH))
        study, found, ask, idle = optuna.create_study(), dict[str, Raced](), 0, 0
        while len(self._done) < self.plans and idle < GIVE_UP:
            drawn, trial = self._draws.get(ask), None
            if drawn is None:
                chance = random.Random(f"{self.seed} {ask}")  # of this draw, however often stopped
                study.sampler = sampler(optuna, chance.getrandbits(32))
                trial = study.ask(ranges) if ask else None
                draw = trial.params if trial else dict.fromkeys(ranges, 0.0)
                ranked = {  # the longer nothing is new, the more by chance
                    s: alone + draw[s.kind] + draw[scale_of(s)] + chance.gauss(0, WIDER * idle)
                    for s, alone in worth.items()
                }
                steps = self.target.fitted(sorted(worth, key=lambda s: -ranked[s]))
                drawn = Seen(plan=steps, costs=self.target.exact(steps), ask=ask, draw=draw)
            key = json.dumps(drawn.plan)
            idle = idle + 1 if key in self._raced else 0
            if self._seen.get(key) and ask not in self._draws:
                storage.append_record(self.folder / FILE, drawn)
            reached, loss = self.raced(drawn)
            if reached == RUNGS:
                found[key] = Raced(drawn.plan, drawn.costs, loss)
            if trial:
                study.tell(trial, loss)
            else:
                study.add_trial(
                    optuna.trial.create_trial(params=drawn.draw, distributions=ranges, value=loss)
                )
            ask += 1
        if idle >= GIVE_UP:
            self.progress.say(f"search: {GIVE_UP} draws in a row gave no new plan; it ends here")
        return list(found.values())

    def raced(self, drawn: Seen) -> tuple[int, float]:
        """How many rungs the plan came up, and its loss there."""
        key, loss = json.dumps(drawn.plan), 0.0
        again = key in self._raced
        self._raced.add(key)
        for rung, others in enumerate(self._rungs):
            loss = self.loss(drawn, self.images * SHARE**rung)
            if not again:
                others.append(loss)
            if loss > sorted(others)[math.ceil(len(others) / SHARE) - 1]:
                return rung + 1, loss
        if loss < self._best:
            self._best = loss
            self.progress.say(
                f"best so far: KID {loss:.3g} from the whole model, {said(drawn.costs)}"
            )
        return RUNGS, loss

    def loss(self, plan: Seen, images: int) -> float:
        """The plan's by so many images; those that the file has not are made."""
        key = json.dumps(plan.plan)
        have = self._seen.setdefault(key, {})
        if images not in have:
            began, first = time.perf_counter(), max(have, default=0)
            distances, have[images] = self.evaluate(plan.plan, range(first, images))
            update: dict[str, Any] = {
                "first": first,
                "distances": [round(d, 6) for d in distances],
                "loss": have[images],
                "seconds": round(time.perf_counter() - began, 3),
            }
            line = Seen.model_validate({**plan.to_json(), **update})
            storage.append_record(self.folder / FILE, line)
        self._done.add(key)
        self.progress.count("search", len(self._done), self.plans, "plans")
        return have[images]


def scale_of(saving: Saving) -> str:
    """What draws call the scale that it begins at."""
    return f"scale {saving.scales[0]}"


def library() -> Any:
    """Optuna, without its own lines.  Raises UsageError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise NotInstalledError("search needs Optuna: pip install -e '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def sampler(optuna: Any, seed: int) -> Any:
    """Of one draw."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # multivariate is called experimental
        return optuna.samplers.TPESampler(seed=seed, multivariate=True)
