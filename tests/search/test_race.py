"""The race on a made-up world, where what a plan loses is known."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress

import pytest

from bench.search.race import FILE, Race, Seen
from bench.search.target import Target
from bench.study import storage
from codevar.progress import Progress
from codevar.spans import read_spans

LOSSES = {"layers": 3.0, "guided": 1.0, "tokens": 2.0, "cache": 0.2, "skip": 9.0, "model": 5.0}
BUDGET = {"flops": 2.1e9}


def loss(steps):
    """Of a plan, by what it leaves out at how many scales."""
    return sum(LOSSES.get(k, 0.0) * len(read_spans(step["scales"])) for step in steps for k in step)


class World:
    """Notes what it was asked for; stops as a kill would, after so many."""

    def __init__(self, most=10_000):
        self.asked, self.most = Counter(), most

    def __call__(self, steps, numbers):
        if self.asked.total() >= self.most:
            raise KeyboardInterrupt
        self.asked[json.dumps(steps), numbers] += 1
        return [1.0] * len(numbers), loss(steps) + 1 / numbers.stop


@pytest.fixture(scope="module")
def target():
    return Target("mini,1,modern", BUDGET, "cpu", "float32")


def race(target, folder, world, plans=60):
    return Race(target, folder, world, 0, plans, 4, Progress(quiet=True)).run()


def test_a_killed_search_goes_on_and_evaluates_nothing_twice(target, tmp_path):
    whole, asked = World(), Counter()
    expected = race(target, tmp_path / "whole", whole)
    for most in (7, 25, 13, 10_000):
        world = World(most)
        with suppress(KeyboardInterrupt):
            found = race(target, tmp_path / "killed", world)
        asked += world.asked
    assert found == expected
    assert asked == whole.asked  # as often, which is once
    assert set(asked.values()) == {1}
    again = World(0)
    assert race(target, tmp_path / "killed", again) == expected
    assert not again.asked


def test_weak_plans_are_dropped_early_and_all_fit(target, tmp_path):
    found = race(target, tmp_path, World())
    lines, complaints = storage.read_lines(tmp_path / FILE, Seen)
    assert not complaints
    images = Counter()
    for line in lines:
        images[json.dumps(line.plan)] += len(line.distances)
    assert len(images) == 60
    drawn = {json.dumps(line.plan) for line in lines if line.ask is not None}
    rungs = Counter(images[plan] for plan in drawn)
    assert set(rungs) == {4, 12, 36}
    assert rungs[4] > rungs[36]
    assert all(target.within(target.exact(json.loads(plan))) for plan in drawn)
    best = min(loss(json.loads(plan)) for plan in drawn)
    assert loss(found[0].plan) == best
    assert best < 2 * LOSSES["model"]  # CoDe N=8, which costs 2.04e9
