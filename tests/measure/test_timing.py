"""When measuring ends, and what a sample is."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
import torch

from bench.measure import timing
from bench.measure.card import Card
from bench.measure.timing import Budget, Effort, is_warm, median_interval, stop_reason

CPU = torch.device("cpu")
NO_CARD = Card(CPU)


class Clock:
    """A clock that a fake decode moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    return clock


def measure(clock, latencies, card=NO_CARD, stands_for=(), **effort):
    """Samples of a decode of two scales that takes the given seconds, one after the other."""
    times = iter(latencies)

    def decode(on_scale):
        seconds = next(times)
        on_scale(0)
        clock.now += seconds / 4
        on_scale(1)
        clock.now += 3 * seconds / 4
        on_scale(2)

    def images():
        clock.now += 0.5

    defaults = {"warmup": 1, "samples": 6, "target": 0.01, "max_seconds": 100}
    return timing.take_samples(decode, images, CPU, Effort(**(defaults | effort)), card, stands_for)


def test_a_sample_is_the_sum_of_its_scales(clock):
    taken = measure(clock, itertools.repeat(1.0))
    assert taken.scale_latency_s == [[0.25, 0.75]] * len(taken.latency_s)
    assert taken.latency_s == [1.0] * 6
    assert set(taken.vqvae_latency_s) == {0.5}


def test_steady_samples_end_at_the_target(clock):
    taken = measure(clock, itertools.repeat(1.0))
    assert (taken.stopped_by, len(taken.latency_s)) == ("target", 6)


def test_noise_that_no_longer_shrinks_ends_it(clock):
    two_clocks = itertools.cycle([1.0, 1.5])
    taken = measure(clock, two_clocks, max_seconds=1e6)
    assert taken.stopped_by == "noise"
    assert len(taken.latency_s) < 100


def test_the_budget_ends_it_with_what_there_is(clock):
    taken = measure(clock, itertools.repeat(30.0), max_seconds=50)
    assert (taken.stopped_by, taken.latency_s) == ("time", [30.0, 30.0])


def test_one_sample_is_taken_whatever_the_budget(clock):
    taken = measure(clock, itertools.repeat(30.0), max_seconds=0.001)
    assert len(taken.latency_s) == len(taken.vqvae_latency_s) == 1


def test_warm_up_goes_on_until_it_is_steady_and_is_not_sampled(clock):
    taken = measure(clock, itertools.chain([9.0, 5.0, 2.0, 1.0, 1.0], itertools.repeat(1.0)))
    assert taken.warmup_latency_s == [9.0, 5.0, 2.0, 1.0, 1.0]
    assert set(taken.latency_s) == {1.0}


def test_a_warm_up_that_never_settles_is_told(clock):
    halving = (2.0**-i for i in itertools.count())
    taken = measure(clock, halving, max_seconds=1.9)
    assert not taken.steady
    assert measure(clock, itertools.repeat(1.0)).steady


class HotCard:
    """A GPU that throttles in some samples."""

    def __init__(self, throttled):
        self._throttled = iter(throttled)
        self.energy = 0.0

    def throttled(self):
        return next(self._throttled)

    def energy_j(self):
        self.energy += 100
        return self.energy


def test_samples_of_a_throttled_gpu_are_counted_and_left_out(clock):
    hot = ["hw_thermal_slowdown"]
    card = HotCard(itertools.chain([hot, [], hot, [], hot], itertools.repeat([])))
    latencies = itertools.chain([1.0, 1.0], [1.0, 9.0, 1.0, 9.0], itertools.repeat(1.0))
    taken = measure(clock, latencies, card=card)
    assert set(taken.latency_s) == {1.0}
    assert len(taken.latency_s) == len(taken.scale_latency_s) == 6
    assert (taken.discarded_latency_s, taken.discarded_for) == ([9.0, 9.0], hot)
    assert taken.energy_j == 100


def test_steps_stand_for_others_in_every_latency_the_discarded_too(clock):
    card = HotCard(itertools.chain([[], ["hw_slowdown"]], itertools.repeat([])))
    taken = measure(clock, itertools.repeat(4.0), card, stands_for=(5, 10))
    assert taken.scale_latency_s == [[1.0, 3.0]] * 6
    latencies = taken.warmup_latency_s, taken.discarded_latency_s, taken.latency_s
    assert [set(seconds) for seconds in latencies] == [{35.0}] * 3


def test_a_gpu_that_always_throttles_ends_with_no_sample(clock):
    card = HotCard(itertools.repeat(["hw_slowdown"]))
    taken = measure(clock, itertools.repeat(1.0), card=card, max_seconds=5)
    assert (taken.latency_s, taken.vqvae_latency_s, taken.stopped_by) == ([], [], "time")
    assert len(taken.discarded_latency_s) == 5


def sleeper(clock, seconds):
    """A decode of one scale on a machine whose speed `clock` may change as it goes."""

    def decode(on_scale):
        on_scale(0)
        clock.now += seconds * (1 + 0.5 * clock.now)  # ever slower
        on_scale(1)

    return decode


def test_a_drifting_machine_cancels_out_of_pairs(clock):
    effort = Effort(warmup=1, samples=20, target=1e-9, max_seconds=10)
    taken = timing.take_pairs(sleeper(clock, 0.02), sleeper(clock, 0.01), CPU, effort, Card(CPU))
    assert taken.latency_s[-1] > 1.1 * taken.latency_s[0]
    ratios = [b / a for a, b in zip(taken.latency_s, taken.baseline_latency_s, strict=True)]
    assert statistics.median(ratios) == pytest.approx(2, rel=0.005)


def test_turns_end_as_often_after_one_as_after_the_other(clock):
    """Of A B alone a machine that slows down makes a speed-up."""
    effort = Effort(warmup=0, samples=1, target=1, max_seconds=0)
    taken = timing.take_pairs(sleeper(clock, 1.0), sleeper(clock, 1.0), CPU, effort, Card(CPU))
    (first, second) = zip(taken.latency_s, taken.baseline_latency_s, strict=True)
    assert first[0] > first[1]
    assert second[0] < second[1]


def test_pairs_of_a_throttled_gpu_are_counted_and_left_out(clock):
    card = HotCard(itertools.chain([[], ["hw_slowdown"]] * 3, itertools.repeat([])))
    effort = Effort(warmup=0, samples=8, target=1, max_seconds=10)
    taken = timing.take_pairs(sleeper(clock, 0.02), sleeper(clock, 0.01), CPU, effort, card)
    assert (len(taken.latency_s), len(taken.baseline_latency_s), taken.discarded) == (8, 8, 3)


def test_a_stream_takes_other_labels_in_each_batch_until_the_time_is_over(clock):
    asked = []

    def batch(i):
        asked.append(i)
        clock.now += 1.0

    taken = timing.time_stream(batch, CPU, 3.5)
    assert asked == [0, 1, 2, 3]
    assert taken.batch_s == [1.0, 1.0, 1.0]


def test_warm_up_can_be_left_out():
    assert is_warm([], least=0)
    assert not is_warm([], least=1)
    assert not is_warm([5.0], least=2)


def test_noisy_samples_need_more_than_steady_ones(clock):
    rng = random.Random(0)
    noisy = (rng.gauss(1, 0.02) for _ in itertools.count())
    taken = measure(clock, noisy, max_seconds=1e6, target=0.01)
    assert len(taken.latency_s) > 12
    low, high = median_interval(taken.latency_s)
    assert (high - low) / statistics.median(taken.latency_s) < 0.03


@pytest.mark.parametrize("n", [6, 7, 10, 25, 100])
def test_the_interval_holds_the_median_as_often_as_it_says(n):
    rng = random.Random(n)
    held = 0
    for _ in range(2000):
        low, high = median_interval([rng.expovariate(1) for _ in range(n)])
        held += low <= math.log(2) <= high
    assert 0.94 < held / 2000 < 0.995


def test_few_samples_have_no_interval():
    assert median_interval([1.0] * 5) == (-math.inf, math.inf)
    assert stop_reason([math.inf] * 5, Effort(1, 1, 0.01, 1e9), Budget(1e9)) == ""
