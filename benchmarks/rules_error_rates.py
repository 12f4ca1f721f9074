"""How often the rules let a loss pass, and refuse what loses nothing: simulated, not claimed.

    python -m benchmarks.rules_error_rates 1000      # the table of docs/notes/rules-error-rates.md

A submission is 10,000 images of 32 skewed features beside its baseline's of the same seeds, and
three rounds of speed.  `likeness` is the correlation of a feature with that of the baseline's image
of its seed.  A loss is planted exactly: the means, spreads and shares that make the expected FID so
much larger than the baseline's.  Each is judged by `bench.tables.rules` alone.

Shapes: N images, D features.
"""

from __future__ import annotations

import math
import sys
from collections import Counter

import numpy as np
import torch
from scipy.optimize import brentq

from bench.metrics import Estimate
from bench.metrics.frechet import Gaussian, frechet_with_replicates
from bench.metrics.jackknife import Groups, interval_of_mean
from bench.tables import rules, summary

N, D, SEED = rules.IMAGES, 32, 20261129
SKEW, FAILED = 0.3, 0.02  # of features, and the share of images that fail
OFFSET = 1.0  # squared, of the baseline's mean from the reference's
LIKENESS, APART = (0.95, 0.8, 0.0), (0.95, 0.0)  # of what loses nothing, and of what does
BLOCK = 200  # submissions of one seed
TRUE, NOISE = (1.0, 1.2, 2.0), 0.02  # speed-ups, and the spread of a round's

#: What is planted (a kind, the loss of FID, the likeness): nothing, and as much as a gate allows.
KINDS = ("shifted", "narrow", "failures")
NOTHING = [("shifted", 0.0, like) for like in LIKENESS]
PLANTS = NOTHING + [
    (kind, most, like) for most in rules.LOSSES.values() for kind in KINDS for like in APART
]


def features(z_ND: torch.Tensor) -> torch.Tensor:
    """(N, D) skewed, of mean 0 and variance 1."""
    return (z_ND + SKEW * (z_ND.square() - 1)) / math.sqrt(1 + 2 * SKEW**2)


def planted(kind: str, lost: float, x_ND: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """The features with an expected FID that is larger by `lost`.

    shifted: all images are a little off.  narrow: they are too much alike.  failures: a few of them
    are far off.  The FID of such populations is known, from their means and covariances.
    """
    offset_D = torch.zeros(x_ND.shape[1], dtype=torch.float64)
    offset_D[0] = math.sqrt(OFFSET + (lost if kind == "shifted" else 0))
    if kind == "narrow" and lost:
        fewer = lambda s: narrowed(s, x_ND.shape[1]) - narrowed(1, x_ND.shape[1])  # noqa: E731
        x_ND = x_ND * brentq(lambda s: fewer(s) - lost, 0.5, 0.999)
    if kind == "failures" and lost:
        p = FAILED
        fid = lambda v: (p * v) ** 2 + (math.sqrt(1 + p * (1 - p) * v * v) - 1) ** 2  # noqa: E731
        far = brentq(lambda v: fid(v) - lost, 0, 1000)
        fails_N = torch.rand(len(x_ND), generator=rng) < p
        x_ND = x_ND.clone()
        x_ND[:, 1] += far * fails_N
    return x_ND + offset_D


def narrowed(spread: float, width: int) -> float:
    """The expected FID of N images with that standard deviation, where it should be 1: of the
    population, and what the sample's mean and covariance add."""
    added = spread**2 * width + spread * width * (width + 1) / 4
    return width * (1 - spread) ** 2 + added / N


def estimate(x_ND: torch.Tensor, groups: Groups | None) -> Estimate:
    """FID against features of mean 0 and variance 1."""
    width = x_ND.shape[1]
    eye = torch.eye(width, dtype=torch.float64)
    return Estimate(*frechet_with_replicates(x_ND, Gaussian(eye.new_zeros(width), eye), groups))


def against(own: Estimate, baseline: Estimate, psnr_N: torch.Tensor) -> dict:
    """As `bench.quality.against` has it."""
    apart, span = own.less(baseline)
    return {
        "paired": True,
        "metrics": {"fid": baseline.value},
        "differences": {"fid": apart},
        "difference_intervals": {"fid": span},
        "distances": {"psnr_db": {"interval": interval_of_mean(psnr_N)}},
    }


def submissions(plants, times, width=D, seed=SEED):
    """Counts of passes by (kind, loss, likeness, gate), and sums of FIDs by the first three."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(N, width, dtype=torch.float64, generator=rng)  # noqa: E731
    plain = lambda z_ND: planted("", 0, features(z_ND), rng)  # noqa: E731
    base_fid = np.mean([estimate(plain(draw()), None).value for _ in range(40)])
    groups, dark_N = Groups.deal(N), torch.full((N,), 20.0)
    passed, fids = Counter(), Counter()
    for _ in range(times):
        z_ND, other_ND = draw(), draw()
        baseline = estimate(plain(z_ND), groups)
        fids["baseline"] += baseline.value
        for plant in plants:
            kind, lost, like = plant
            own_ND = features(like * z_ND + math.sqrt(1 - like**2) * other_ND)
            own = estimate(planted(kind, lost * base_fid, own_ND, rng), groups)
            fids[plant] += own.value
            for gate in rules.gates(against(own, baseline, dark_N), N):
                passed[*plant, gate] += 1
    return passed, fids


def speeds(true: float, rounds: int, times: int, seed: int = SEED) -> float:
    """The share of submissions whose speed-up is shown, of so much faster ones."""
    rng, shown = np.random.default_rng(seed), 0
    for ratios in true * np.exp(NOISE * rng.standard_normal((times, rounds))):
        low, high = summary.interval(ratios)
        row = {"speedup_by": "paired", "rounds": rounds, "speedup_low": low, "speedup_high": high}
        shown += rules.speedup_interval(row)[0] > 1
    return shown / times


def distances(mean_db: float, times: int, seed: int = SEED) -> float:
    """The share that passes as the same images, of sets with such a mean PSNR, 4 dB apart."""
    rng, passed = torch.Generator().manual_seed(seed), 0
    for _ in range(times):
        psnr_N = mean_db + 4 * torch.randn(N, generator=rng)
        found = against(Estimate(1.0, [1.0] * 50), Estimate(1.0, [1.0] * 50), psnr_N)
        passed += rules.SAME_SEED in rules.gates(found, N)
    return passed / times


def main(times: int = 1000) -> None:
    """Prints the tables, of whole blocks."""
    blocks = range(max(1, times // BLOCK))
    found = [submissions(PLANTS, BLOCK, seed=SEED + block) for block in blocks]
    show(*(sum(parts, Counter()) for parts in zip(*found, strict=True)), BLOCK * len(blocks))
    for true in TRUE:
        shown = [f"{speeds(true, rounds, 20_000):.2%} ({rounds} rounds)" for rounds in (3, 5)]
        print(f"speed-up {true:g}, rounds {NOISE:.0%} apart: shown in {', '.join(shown)}")
    for mean_db in (29.9, 30.0, 30.2):
        print(f"mean PSNR {mean_db:g} dB: {distances(mean_db, times):.2%}")


def show(passed: Counter, fids: Counter, times: int) -> None:
    """A row for each plant."""
    print(f"torch {torch.__version__}, seed {SEED}: {times:,} submissions a row, {N:,} images\n")
    print("| planted loss | likeness | loss found |", " | ".join(rules.LOSSES), "|")
    print("|---" * (3 + len(rules.LOSSES)) + "|")
    for plant in PLANTS:
        kind, lost, like = plant
        name = f"{lost:.0%} ({kind})" if lost else "none"
        shares = [f"{passed[*plant, gate] / times:.2%}" for gate in rules.LOSSES]
        apart = f"{fids[plant] / fids['baseline'] - 1:+.2%}"
        print(f"| {name} | {like} | {apart} |", " | ".join(shares), "|")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))
