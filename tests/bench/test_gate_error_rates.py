"""How often the gate cries wolf, and what it overlooks: simulated, not claimed.

    python tests/bench/test_gate_error_rates.py       # the table of docs/gate.md

A table has 30 cases with 13 figures each: total latency, ten scales, the VQVAE, and the speed-up
over the first case.  What happens to the machine (clock, drift, process) happens to all figures
of a case at once.  Noise is in logarithms: 0.01 is 1 %.
"""

from __future__ import annotations

import itertools
import math
import platform
import sys
from unittest import mock

import numpy as np
import pytest

from bench import stats

CASES, TIMED = 30, 12  # figures with samples of their own
FIGURES = CASES * TIMED + CASES - 1
THRESHOLD, ALPHA, SLOWER, SEED = 0.03, 0.01, 0.05, 20261120


def clocks(rng, shape, stay):
    """1 where the clock is slow, 30 % of the time, for `stay` samples on average (1: no memory)."""
    slow = np.empty(shape)
    slow[..., 0] = rng.random(shape[:-1]) < 0.3
    leave, enter = (1 / stay, 0.3 / 0.7 / stay) if stay > 1 else (0.7, 0.3)
    for i in range(1, shape[-1]):
        u = rng.random(shape[:-1])
        slow[..., i] = np.where(slow[..., i - 1] > 0, u >= leave, u < enter)
    return slow


def drift(rng, shape):
    """A slope, up to 1 % either way from the middle of the run to its end, and a slow wander."""
    wander = np.empty(shape)
    wander[..., 0] = rng.standard_normal(shape[:-1])
    for i in range(1, shape[-1]):
        wander[..., i] = 0.8 * wander[..., i - 1] + 0.6 * rng.standard_normal(shape[:-1])
    slope = rng.uniform(-0.01, 0.01, (*shape[:-1], 1)) * np.linspace(-1, 1, shape[-1])
    return 0.005 * wander + slope


def outliers(rng, shape):
    """One sample in twenty is late, by 20 % on average."""
    return (rng.random(shape) < 0.05) * rng.exponential(0.2, shape)


def offset(percent):
    """Processes of the same code differ: one normal figure for all samples of a process."""
    return lambda rng, shape: percent / 100 * rng.standard_normal((*shape[:-1], 1))


# name: a figure's own noise (standard deviation, degrees of freedom of Student's t, 0: normal)
# and what all figures of a case share
MODELS = {
    "quiet: normal, 0.5 %": (0.005, 0, None),
    "noisy: normal, 2 %": (0.02, 0, None),
    "heavy tails: t3 of 0.6 %, outliers": (0.006, 3, outliers),
    "drift of up to 1 %, wander of 0.5 %": (0.005, 0, drift),
    "bimodal clock: 4 % slower in 30 %": (0.005, 0, lambda r, s: 0.04 * clocks(r, s, 1)),
}
HARD = {
    "processes differ by 0.5 %": (0.007, 0, offset(0.5)),
    "processes differ by 1 %": (0.007, 0, offset(1)),
    "slow phases: 4 %, 3 samples": (0.005, 0, lambda r, s: 0.04 * clocks(r, s, 3)),
    "slow phases: 4 %, 10 samples": (0.005, 0, lambda r, s: 0.04 * clocks(r, s, 10)),
    "a process in 10 is throttled by 4 %": (
        0.005,
        0,
        lambda r, s: 0.04 * (r.random((*s[:-1], 1)) < 0.1),
    ),
}


def noise(model, rng, tables, cases, timed, n):
    """Logarithms of samples: (tables, cases, timed, n)."""
    scale, freedom, shared = model
    shape = tables, cases, timed, n
    own = rng.standard_t(freedom, shape) if freedom else rng.standard_normal(shape)
    return scale * own + (shared(rng, (tables, cases, 1, n)) if shared else 0)


def table(model, rng, tables, n):
    """All figures of a table: (tables, FIGURES, n); the last 29 are speed-ups."""
    samples = noise(model, rng, tables, CASES, TIMED, n)
    speedups = samples[:, 1:, 0] - samples[:, :1, 0]
    return np.concatenate([samples.reshape(tables, -1, n), speedups], 1)


def weigh(base, new, ratios=0):
    """Evidence and margins as `bench.compare` asks for them; the last `ratios` are speed-ups."""
    margin = math.log1p(THRESHOLD)
    split = base.shape[-2] - ratios
    margins = np.where(np.arange(base.shape[-2]) < split, margin, math.sqrt(2) * margin)
    parts = [stats.weigh(base[..., :split, :], new[..., :split, :], margin)]
    if ratios:
        some = base[..., split:, :], new[..., split:, :]
        parts.append(stats.weigh(*some, math.sqrt(2) * margin))
    joined = [
        np.concatenate([getattr(p, k) for p in parts], -1) for k in ("shift", "changed", "same")
    ]
    return stats.Evidence(*joined), margins


def alarms(model, n, tables, seed=SEED):
    """Share of tables in which nothing changed and something was found; share of `same`."""
    rng, wrong, same = np.random.default_rng(seed), 0, 0.0
    for _ in range(tables // 20):
        evidence, margins = weigh(*(table(model, rng, 20, n) for _ in "ab"), ratios=CASES - 1)
        verdicts = stats.decide(evidence, margins, ALPHA)
        wrong += int(np.isin(verdicts, ["slower", "faster"]).any(-1).sum())
        same += float((verdicts == "same").mean(-1).sum())
    return wrong / tables, same / tables


def power(model, n, tables, slower=SLOWER, seed=SEED):
    """Share of cases, slower by that much, whose latency is found slower; share found `same`.

    One case of the table is slower, and Holm's first step is asked of it: the hardest.
    """
    rng = np.random.default_rng(seed + 1)
    base = noise(model, rng, tables, 1, 1, n).reshape(tables, 1, n)
    new = noise(model, rng, tables, 1, 1, n).reshape(tables, 1, n) + math.log1p(slower)
    evidence, margins = weigh(base, new)
    verdicts = stats.decide(evidence, margins, ALPHA / FIGURES)
    return float((verdicts == "slower").mean()), float((verdicts == "same").mean())


def quick_alarms(model, n, tables, seed=SEED):
    """As `alarms`, for the thirty total latencies, at the level they have in the whole table."""
    rng = np.random.default_rng(seed)
    base, new = (noise(model, rng, tables, CASES, 1, n)[:, :, 0] for _ in "ab")
    verdicts = stats.decide(*weigh(base, new), ALPHA * CASES / FIGURES)
    return float(np.isin(verdicts, ["slower", "faster"]).any(-1).mean())


@pytest.mark.parametrize("name", MODELS)
def test_thirty_latencies_cry_no_wolf_and_a_slow_down_is_seen(name):
    assert quick_alarms(MODELS[name], stats.SAMPLES, 1000) < 0.01
    assert power(MODELS[name], stats.SAMPLES, 1000)[0] > 0.95


@pytest.mark.parametrize("name", MODELS)
def test_a_slow_down_is_never_called_same(name):
    assert power(MODELS[name], stats.SAMPLES, 1000)[1] == 0


def test_five_samples_decide_nothing_in_such_a_table():
    assert stats.fewest(FIGURES, ALPHA) == 10
    assert power(MODELS["quiet: normal, 0.5 %"], 5, 1000) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_whole_tables_cry_no_wolf(name):
    assert alarms(MODELS[name], stats.SAMPLES, 1000)[0] < 0.01


def main(tables=1000, sizes=(5, 10, 20, stats.SAMPLES)):
    """Prints error rates by model and samples, then what the allowance of the test is worth."""
    print(f"python {platform.python_version()}, numpy {np.__version__}, seed {SEED}: ", end="")
    print(f"{tables} tables of {CASES} cases ({FIGURES} figures), {10 * tables} slower cases\n")
    print("| noise | n | false alarms, whole table | power at 5 % | same, nothing changed |")
    print("|---|---|---|---|---|")
    for name, model in {**MODELS, **HARD}.items():
        for n in sizes if name in MODELS else sizes[-1:]:
            wrong, same = alarms(model, n, tables)
            found = power(model, n, 10 * tables)[0]
            print(f"| {name} | {n} | {wrong:.1%} | {found:.1%} | {same:.0%} |", flush=True)
    print("\n| noise | allowance, of the threshold | false alarms | power at 5 % |")
    print("|---|---|---|---|")
    names = list(MODELS)[1:] + list(HARD)[2:3]
    for name, allowance in itertools.product(names, (0, 1 / 3, 2 / 3, 1)):
        model = {**MODELS, **HARD}[name]
        with mock.patch.object(stats, "ALLOWANCE", allowance):
            wrong, _ = alarms(model, sizes[-1], tables // 5)
            found = power(model, sizes[-1], 10 * tables)[0]
        print(f"| {name} | {allowance:.2f} | {wrong:.1%} | {found:.1%} |", flush=True)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))
