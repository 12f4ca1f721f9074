"""Levels of latency over time: steady series say nothing, a step is found where it is."""

from __future__ import annotations

import numpy as np
import pytest

from bench.tables.level_changes import level_changes

SERIES = 150


def steady(rng, kind, n, sd):
    """Latencies around one second, n of them."""
    if kind == "normal":
        logs = rng.normal(0, sd, n)
    elif kind == "heavy tails":
        logs = rng.standard_t(3, n) * sd / np.sqrt(3)
    else:  # what is slow now is slow in the next run too
        logs = rng.normal(0, sd * np.sqrt(1 - 0.3**2), n)
        for i in range(1, n):
            logs[i] += 0.3 * logs[i - 1]
    return np.exp(logs)


@pytest.mark.parametrize("sd", [0.01, 0.03])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "correlated"])
def test_of_steady_series_few_are_told_to_change(kind, sd):
    rng = np.random.default_rng(0)
    told = [bool(level_changes(steady(rng, kind, 30, sd))) for _ in range(SERIES)]
    assert np.mean(told) <= 0.05


@pytest.mark.parametrize("sd", [0.01, 0.03])
def test_a_step_of_a_tenth_is_found_where_it_is(sd):
    rng, found = np.random.default_rng(1), 0
    for _ in range(SERIES):
        latencies = steady(rng, "normal", 30, sd)
        latencies[18:] *= 1.1
        found += any(abs(one.at - 18) <= 1 and one.change > 0 for one in level_changes(latencies))
    assert found / SERIES >= 0.9


def test_one_slow_run_is_no_level_and_few_runs_say_nothing():
    steady_12 = [1.0, 1.01, 0.99, 1.0, 1.02, 1.0, 0.98, 1.0, 1.01, 1.0, 0.99, 1.0]
    assert level_changes([*steady_12[:6], 1.5, *steady_12[6:]]) == []
    assert level_changes([1.0] * 4 + [1.5] * 4) == []
