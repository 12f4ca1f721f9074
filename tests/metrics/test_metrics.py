"""FID, IS, precision and recall against independent float64 NumPy, SciPy and torch-fidelity."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_part

from bench.metrics import classes, coverage, frechet, inception_score
from bench.metrics.frechet import Gaussian
from bench.metrics.halves import Halves, interval


def normal(count: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0):
    """(count, width) float32 with a covariance that falls off, as features' does."""
    rng = np.random.default_rng(seed)
    spread = scale * np.linspace(1, 0.05, width) ** 2
    mixed = rng.standard_normal((count, width)) * spread
    mixed[:, 1:] += 0.3 * mixed[:, :-1]
    return torch.from_numpy((mixed + shift).astype(np.float32))


def fid(one: torch.Tensor, other: torch.Tensor) -> float:
    return frechet.frechet_distance(Gaussian.of(one), Gaussian.of(other))


def sqrtm_trace(product: np.ndarray) -> float:
    """As OpenAI's evaluator has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of singular products
        return np.trace(scipy.linalg.sqrtm(product)).real


def eigenvalue_trace(product: np.ndarray) -> float:
    """The same; a third of the time."""
    return np.sqrt(np.linalg.eigvals(product).astype(complex)).sum().real


def fid_by_hand(one: torch.Tensor, other: torch.Tensor, trace_of_root) -> float:
    (mu, sigma), (nu, tau) = (
        (x.double().numpy().mean(0), np.cov(x.double().numpy(), rowvar=False)) for x in (one, other)
    )
    root = trace_of_root(sigma @ tau)
    return ((mu - nu) ** 2).sum() + np.trace(sigma) + np.trace(tau) - 2 * root


# FID


@pytest.mark.parametrize(
    ("width", "trace_of_root"),
    [
        (400, sqrtm_trace),
        (2048, eigenvalue_trace),
        pytest.param(2048, sqrtm_trace, marks=pytest.mark.slow),
    ],
)
def test_fid_is_numpys_and_scipys(width, trace_of_root):
    one, other = normal(2600, width, 0, shift=0.4), normal(2500, width, 1, 1.05, 0.41)
    assert fid(one, other) == pytest.approx(fid_by_hand(one, other, trace_of_root), rel=1e-6)


def test_fid_is_torch_fidelitys():
    one, other = normal(900, 128, 0), normal(800, 128, 1, 1.1)
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(x.double()) for x in (one, other)), verbose=False
    )
    assert fid(one, other) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


def test_fid_of_commuting_covariances_is_known():
    """Tr (S T)^1/2 is then the sum of roots of products of eigenvalues; half of them are 0."""
    width = 300
    axes = torch.linalg.qr(normal(width, width, 0).double()).Q
    a, b = (torch.linspace(low, 2, width, dtype=torch.float64) for low in (0.5, 0.1))
    a[::2] = 0
    b[1::3] = 0
    one, other = (Gaussian(torch.zeros(width), axes @ torch.diag(v) @ axes.T) for v in (a, b))
    expected = (a + b - 2 * (a * b).sqrt()).sum()
    assert frechet.frechet_distance(one, other) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(normal(40, 200, 0), normal(60, 200, 1), id="fewer images than features"),
        pytest.param(normal(40, 200, 0), normal(900, 200, 1), id="one of them singular"),
        pytest.param(
            normal(500, 20, 0) @ normal(20, 200, 3),
            normal(500, 30, 1) @ normal(30, 200, 4),
            id="rank-deficient",
        ),
    ],
)
def test_fid_of_singular_covariances(one, other):
    """Tr (S T)^1/2 is the nuclear norm of X Y^T, X and Y the centred features, whatever the
    rank: no root of a singular matrix in it."""
    x, y = ((m - m.mean(0)) / (len(m) - 1) ** 0.5 for m in (one.double(), other.double()))
    cross = torch.linalg.svdvals(x @ y.T).sum()
    apart = (one.double().mean(0) - other.double().mean(0)).square().sum()
    expected = float(apart + x.square().sum() + y.square().sum() - 2 * cross)
    assert fid(one, other) == pytest.approx(expected, rel=1e-6)


def test_fid_of_identical_sets_is_nothing():
    full, thin = normal(400, 64, 0, shift=0.4), normal(30, 64, 0)
    assert 0 <= fid(full, full.clone()) < 1e-9
    assert 0 <= fid(thin, thin.clone()) < 1e-9
    assert fid(torch.ones(50, 8), torch.ones(50, 8)) == 0
    assert fid(torch.ones(50, 8), torch.zeros(50, 8)) == 8


def test_fid_of_features_far_from_zero_loses_nothing():
    one, other = normal(900, 32, 0, 0.01), normal(900, 32, 1, 0.012)
    near = fid(one, other)
    far = fid(one.double() + 1000, other.double() + 1000)
    assert far == pytest.approx(near, rel=1e-6)


# IS


def logits(count: int, classes: int = 12, seed: int = 0):
    return 3 * torch.from_numpy(np.random.default_rng(seed).standard_normal((count, classes)))


def test_inception_score_is_over_splits_in_order():
    found = logits(230)
    p = scipy.special.softmax(found.numpy(), axis=1)
    scores = []
    for part in (p[:100], p[100:200], p[200:]):
        kl = part * (np.log(part) - np.log(part.mean(0)))
        scores.append(np.exp(kl.sum(1).mean()))
    assert inception_score.inception_scores(found, 100) == pytest.approx(scores)
    assert inception_score.inception_score(found, 100) == pytest.approx(np.mean(scores))


def test_inception_score_is_torch_fidelitys():
    found = logits(400, 1008)
    theirs = isc_features_to_metric(found, splits=4, shuffle=False)["inception_score_mean"]
    assert inception_score.inception_score(found, 100) == pytest.approx(theirs)


def test_inception_score_of_certain_predictions_is_the_number_of_classes():
    certain = 1e4 * torch.eye(10).repeat(7, 1)
    assert inception_score.inception_score(certain) == pytest.approx(10)
    assert inception_score.inception_score(torch.zeros(70, 10)) == pytest.approx(1)


# Precision and recall


def coverage_by_hand(samples: torch.Tensor, references: torch.Tensor) -> tuple[float, float]:
    def share_within(points, centres):
        between = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        radii = np.sort(between, axis=1)[:, 3]
        ways = np.linalg.norm(points[:, None] - centres[None], axis=-1)
        return float((ways <= radii).any(1).mean())

    s, r = samples.double().numpy(), references.double().numpy()
    return share_within(s, r), share_within(r, s)


@pytest.mark.parametrize("block", [2**26, 1000], ids=["one block", "many blocks"])
def test_precision_and_recall_are_as_defined(block, monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK", block)
    samples, references = normal(220, 16, 0, 0.8), normal(180, 16, 1)
    found = coverage.precision_recall(samples, references)
    assert (found.precision, found.recall) == coverage_by_hand(samples, references)
    assert 0 < found.recall < found.precision < 1


def test_precision_and_recall_are_torch_fidelitys():
    samples, references = normal(500, 2048, 0, 0.7), normal(300, 2048, 1)
    found = coverage.precision_recall(samples, references)
    theirs = calculate_precision_recall_part(samples.double(), references.double(), 3, 100)
    assert (found.precision, found.recall) == pytest.approx(theirs, abs=0.5 / 500)


def test_precision_and_recall_where_images_repeat():
    images = normal(200, 2048, 0, shift=3)
    same = coverage.precision_recall(images, images.clone())
    assert (same.precision, same.recall) == (1, 1)
    collapsed = coverage.precision_recall(images[:1].repeat(100, 1), images)
    assert collapsed.precision == 1
    assert collapsed.recall == 1 / 200  # balls of no width: only the image itself
    apart = coverage.precision_recall(images, images + 100)
    assert (apart.precision, apart.recall) == (0, 0)


# Intervals


def test_halves_are_halves_of_the_images_and_the_same_for_a_seed():
    masks = torch.stack(list(Halves.draw(333, 40).masks()))
    assert masks.shape == (40, 333)
    assert (masks.sum(1) - 166.5).abs().max() <= 16
    assert masks.float().mean(0).min() > 0.1
    assert len({tuple(mask.tolist()) for mask in masks}) == 40
    assert torch.equal(masks, torch.stack(list(Halves.draw(333, 40).masks())))


def test_figures_of_halves_are_the_figures_of_these_images():
    samples, references = normal(320, 12, 0, 0.9), normal(200, 12, 1)
    halves = Halves.draw(320, 3)
    whole, of_halves = frechet.frechet_of_halves(samples, Gaussian.of(references), halves)
    assert whole == pytest.approx(fid(samples, references))
    covered = coverage.precision_recall(samples, references, halves)
    assert covered.precision == coverage.precision_recall(samples, references).precision
    for i, mask in enumerate(halves.masks()):
        assert of_halves[i] == pytest.approx(fid(samples[mask], references))
        alone = coverage.precision_recall(samples[mask], references)
        assert covered.precision_of_halves[i] == alone.precision
        assert covered.recall_of_halves[i] == alone.recall


def test_an_interval_is_as_wide_as_figures_of_other_samples_are_apart():
    """Against the truth: the spread of the figures over many independent sets of samples."""
    width, count, references = 8, 600, normal(600, 8, 99)
    sets = [normal(count, width, seed, 1.15, 0.03) for seed in range(50)]
    fids, recalls = [], []
    for one in sets:
        fids.append(fid(one, references))
        recalls.append(coverage.precision_recall(one, references).recall)
    estimated: dict[str, list[float]] = {"fid": [], "recall": []}
    for one in sets[:4]:
        halves = Halves.draw(count, 50)
        value, of_halves = frechet.frechet_of_halves(one, Gaussian.of(references), halves)
        low, high = interval(value, of_halves)
        estimated["fid"].append(high - low)
        covered = coverage.precision_recall(one, references, halves)
        low, high = interval(covered.recall, covered.recall_of_halves)
        estimated["recall"].append(high - low)
    for name, values in (("fid", fids), ("recall", recalls)):
        true = 2 * 2.04 * np.std(values)
        assert 0.6 * true < np.mean(estimated[name]) < 1.7 * true, name


def test_halves_of_a_balanced_set_are_balanced_and_their_interval_is_as_wide_as_it_should_be():
    """Classes that lie far apart, as many images of each: by luck with classes alone halves
    would differ far more than such sets do."""
    labels = np.arange(640) % 4
    for mask in Halves.draw(640, 20, labels).masks():
        assert np.ptp(np.bincount(labels[mask.numpy()])) == 0
    centres = 3 * torch.eye(6)[labels]
    references = Gaussian.of(normal(640, 6, 999, 1.2) + centres)
    sets = [normal(640, 6, seed) + centres for seed in range(40)]
    spread = np.std([frechet.frechet_distance(Gaussian.of(one), references) for one in sets])

    def half_width(one: torch.Tensor, classes: np.ndarray | None) -> float:
        halves = Halves.draw(640, 60, classes)
        value, of_halves = frechet.frechet_of_halves(one, references, halves)
        return interval(value, of_halves)[1] - value

    balanced, blind = (np.mean([half_width(one, c) for one in sets[:5]]) for c in (labels, None))
    assert 0.7 < balanced / (2.04 * spread) < 1.5
    assert blind > 1.5 * balanced


def test_an_interval_holds_the_figure_which_one_of_resampled_images_would_not():
    """Why not a bootstrap: images that are drawn again and again add FID's bias once more."""
    samples, references = normal(300, 64, 0), normal(2000, 64, 1)
    halves = Halves.draw(300, 50)
    value, of_halves = frechet.frechet_of_halves(samples, Gaussian.of(references), halves)
    low, high = interval(value, of_halves, low=0)
    assert low < value < high
    rng = np.random.default_rng(0)
    drawn = [fid(samples[rng.integers(0, 300, 300)], references) for _ in range(30)]
    assert min(drawn) > value


def test_intervals_stay_within_what_a_figure_can_be():
    assert interval(0.99, [0.9, 0.95, 1.0], 0, 1)[1] == 1
    assert interval(0.01, [0.5, 0.1, 0.3], 0)[0] == 0


# Memory and classes


def test_no_block_of_distances_is_larger_than_it_may_be(monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK", 5000)
    blocks = list(coverage.distances(normal(333, 4, 0), normal(100, 4, 1)))
    assert {block.numel() <= 5000 for block in blocks} == {True}
    assert sum(len(block) for block in blocks) == 333


@pytest.mark.slow
def test_precision_and_recall_of_full_size_fit_into_8_gib():
    """50,000 samples and 10,000 references of 2048 features; in a process of its own."""
    program = """
import resource, torch
from bench.metrics.coverage import precision_recall
found = precision_recall(torch.rand(50_000, 2048), torch.rand(10_000, 2048))
assert 0 < found.recall < 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 2**20 < 8


def test_class_accuracy_is_by_class():
    found = torch.eye(4)[[0, 1, 1, 2, 2, 2, 0, 3]]
    labels = torch.tensor([0, 1, 0, 2, 2, 1, 0, 3])
    assert classes.class_accuracy(found, labels) == pytest.approx([2 / 3, 1 / 2, 1, 1])


def test_distances_are_of_pairs():
    one, other = normal(30, 8, 0), normal(20, 8, 1)
    (found,) = coverage.distances(one, other)
    for i, j in itertools.product((0, 13, 29), (0, 19)):
        assert found[i, j] == pytest.approx(float((one[i] - other[j]).square().sum()), rel=1e-4)
