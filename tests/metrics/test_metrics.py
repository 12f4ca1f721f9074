"""Metrics against independent float64 NumPy, SciPy and torch-fidelity; intervals against truth."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_part

from bench.metrics import METRICS, Estimate, Given, classes, coverage, frechet, inception_score
from bench.metrics.frechet import Gaussian
from bench.metrics.jackknife import GROUPS, Groups, interval, standard_error
from bench.metrics.kernel_distance import cubic, gaussian, mean_discrepancy
from bench.metrics.metric import of_features


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


def test_fid_of_hardly_more_images_than_features_loses_nothing():
    """Covariances with eigenvalues near their rounding; in 40 digits."""
    one, other = normal(26, 24, 0).double(), normal(27, 24, 1, 1.05).double()
    one[:, ::2] *= 1e-4
    other[:, ::2] *= 1e-4
    with mpmath.workdps(40):
        sigma, tau = (mpmath.matrix(np.cov(x.numpy(), rowvar=False).tolist()) for x in (one, other))
        values = mpmath.eig(sigma * tau, left=False, right=False)
        cross = mpmath.fsum(mpmath.sqrt(mpmath.re(v)) for v in values)
        apart = (one.mean(0) - other.mean(0)).square().sum()
        trace = sum(float(m[i, i]) for m in (sigma, tau) for i in range(24))
        expected = float(apart) + trace - 2 * float(cross)
    assert fid(one, other) == pytest.approx(expected, rel=1e-11)


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
    ours = inception_score.inception_scores(found, split=100)[:, 0]
    assert ours.tolist() == pytest.approx(scores)


def test_inception_score_is_torch_fidelitys():
    found = logits(400, 1008)
    theirs = isc_features_to_metric(found, splits=4, shuffle=False)["inception_score_mean"]
    ours = inception_score.inception_scores(found, split=100)
    assert float(ours.mean()) == pytest.approx(theirs)


def test_inception_score_of_certain_predictions_is_the_number_of_classes():
    certain = 1e4 * torch.eye(10).repeat(7, 1)
    assert float(inception_score.inception_scores(certain)) == pytest.approx(10)
    assert float(inception_score.inception_scores(torch.zeros(70, 10))) == pytest.approx(1)


# Precision and recall


def coverages(samples: torch.Tensor, references: torch.Tensor, **how) -> dict[str, float]:
    found = coverage.coverages(samples, references, **how)
    return {name: one.value for name, one in found.items()}


def coverage_by_hand(samples: torch.Tensor, references: torch.Tensor) -> dict[str, float]:
    def within(points, centres, k):
        between = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        radii = np.sort(between, axis=1)[:, k]
        return np.linalg.norm(points[:, None] - centres[None], axis=-1) <= radii

    s, r = samples.double().numpy(), references.double().numpy()
    near = within(s, r, 5)
    return {
        "precision": within(s, r, 3).any(1).mean(),
        "recall": within(r, s, 3).any(1).mean(),
        "density": near.sum() / (5 * len(s)),
        "coverage": near.any(0).mean(),
    }


@pytest.mark.parametrize("block", [2**26, 1000], ids=["one block", "many blocks"])
def test_precision_recall_density_and_coverage_are_as_defined(block, monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK", block)
    samples, references = normal(220, 16, 0, 0.8), normal(180, 16, 1)
    found = coverages(samples, references)
    assert found == pytest.approx(coverage_by_hand(samples, references))
    assert 0 < found["recall"] < found["precision"] < 1


def test_precision_and_recall_are_torch_fidelitys():
    samples, references = normal(500, 2048, 0, 0.7), normal(300, 2048, 1)
    found = coverages(samples, references)
    theirs = calculate_precision_recall_part(samples.double(), references.double(), 3, 100)
    assert (found["precision"], found["recall"]) == pytest.approx(theirs, abs=0.5 / 500)


def test_precision_and_recall_where_images_repeat():
    images = normal(200, 2048, 0, shift=3)
    same = coverages(images, images.clone())
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    collapsed = coverages(images[:1].repeat(100, 1), images)
    assert collapsed["precision"] == 1
    assert collapsed["recall"] == 1 / 200  # balls of no width: only the image itself
    apart = coverages(images, images + 100)
    assert set(apart.values()) == {0}


def test_published_distances_are_rounded_to_float16_unless_that_overflows():
    """NumPy's float16, step by step as the evaluator has it."""
    one, other = normal(60, 64, 0, 3, 1), normal(50, 64, 1, 3, 1)
    a, b = (x.half().numpy() for x in (one, other))
    norms = [(x**2).astype(np.float32).sum(1).astype(np.float16) for x in (a, b)]
    product = (a.astype(np.float32) @ b.astype(np.float32).T).astype(np.float16)
    expected = np.maximum(norms[0][:, None] - 2 * product + norms[1], 0)
    (found,) = coverage.distances(one, other, as_published=True)
    assert found.numpy() == pytest.approx(expected.astype(np.float32))
    (exact,) = coverage.distances(one, other)
    assert 0 < (found - exact).abs().max() < 1
    (large,) = coverage.distances(one * 300, other * 300, as_published=True)
    assert large.isfinite().all()


# Kernels


def test_kid_is_torch_fidelitys():
    samples, references = normal(200, 64, 0, 1.2, 0.1), normal(200, 64, 1)
    theirs = kid_features_to_metric(
        samples.double(),
        references.double(),
        kid_subsets=1,
        kid_subset_size=200,
        verbose=False,
    )["kernel_inception_distance_mean"]
    ours = mean_discrepancy(samples.double(), references.double(), cubic).value
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_the_discrepancy_of_directions_is_as_defined_and_without_bias():
    def by_hand(x, y):
        x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x.numpy(), y.numpy()))

        def mean(a, b, same):
            k = np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 200)
            return (k.sum() - len(a) * same) / (len(a) * (len(b) - same))

        return 1000 * (mean(x, x, 1) + mean(y, y, 1) - 2 * mean(x, y, 0))

    one, other = normal(90, 6, 0, 1.0, 0.3).double(), normal(80, 6, 1).double()
    found = mean_discrepancy(one, other, gaussian, scale=1000)
    assert found.value == pytest.approx(by_hand(one, other))
    same = [
        mean_discrepancy(normal(60, 6, seed), normal(60, 6, 99 + seed), gaussian, scale=1000).value
        for seed in range(60)
    ]
    assert abs(np.mean(same)) < 3 * np.std(same) / 60**0.5


def test_the_discrepancy_of_sets_with_as_many_of_each_class_has_no_bias():
    """Classes that lie far apart; the references' classes are drawn, the samples' are equal."""
    centres = 2 * torch.eye(8)
    references = normal(600, 8, 999) + centres[torch.arange(600) % 4]
    truth = mean_discrepancy(
        normal(4000, 8, 998) + centres[torch.arange(4000) % 4], references, cubic
    ).value
    labels = torch.arange(40) % 4
    sets = [normal(40, 8, seed) + centres[labels] for seed in range(200)]
    plain, apart = (
        [mean_discrepancy(one, references, cubic, labels_N=known).value for one in sets]
        for known in (None, labels)
    )
    error = np.std(apart) / 200**0.5
    assert abs(np.mean(apart) - truth) < 3 * error
    assert np.mean(plain) < truth - 5 * error


# Intervals


def test_groups_hold_every_image_and_are_the_same_for_a_seed():
    groups = Groups.deal(333)
    assert np.ptp(np.bincount(groups.group_N, minlength=GROUPS)) == 1
    assert torch.equal(groups.group_N, Groups.deal(333).group_N)
    assert groups.kept()[:, groups.group_N].shape == (2 * GROUPS, 333)


def test_replicates_are_the_figures_of_the_images_they_keep(monkeypatch):
    samples, references = normal(400, 12, 0, 0.9), normal(200, 12, 1)
    labels = torch.arange(400) % 4
    groups = Groups.deal(400, labels.numpy())
    monkeypatch.setattr(inception_score, "SPLIT", 400)
    given = Given(
        {"pool": samples, "logits": logits(400)},
        {"pool": references},
        {"pool": Gaussian.of(references)},
        labels,
        groups,
    )
    kinds = [METRICS[n] for n in of_features() if METRICS[n].layer != "spatial"]
    whole = {kind.name: kind.compute(given) for kind in kinds}
    assert whole["fid"].value == pytest.approx(fid(samples, references))
    for i in (0, 7, GROUPS + 3, 2 * GROUPS - 1):
        mask = groups.kept()[i, groups.group_N]
        some = {layer: features[mask] for layer, features in given.samples.items()}
        alone = Given(some, given.references, given.gaussians, labels[mask], None)
        for kind in kinds:
            if kind.groups_needed:
                continue
            value = kind.compute(alone).value
            assert whole[kind.name].replicates[i] == pytest.approx(value, rel=1e-5), kind.name


def test_intervals_are_as_wide_as_figures_of_other_samples_are_apart():
    """Against the truth: the spread of the figures over 80 disjoint sets, at the floor of FID
    (samples like the references) and away from it."""
    references = normal(400, 8, 99)
    gaussian = Gaussian.of(references)
    found: dict[str, list[Estimate]] = {}
    for where, scale, shift in (("floor", 1.0, 0.0), ("away", 1.15, 0.03)):
        sets = normal(80 * 250, 8, 0, scale, shift).split(250)
        of_sets = logits(80 * 250, 6).split(250)
        for pool, scores in zip(sets, of_sets, strict=True):
            given = Given(
                {"pool": pool, "logits": scores},
                {"pool": references},
                {"pool": gaussian},
                torch.arange(250) % 6,
                Groups.deal(250),
            )
            for name in of_features():
                if METRICS[name].layer != "spatial":
                    found.setdefault(f"{name}, {where}", []).append(METRICS[name].compute(given))
    for name, estimates in found.items():
        true = np.std([one.value for one in estimates])
        told = [standard_error(one.value, one.replicates) for one in estimates]
        ratio = np.sqrt(np.mean(np.square(told))) / true
        assert 0.75 < ratio < 1.4, (name, ratio)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["like the references", "classes far apart", "heavy tails"])
def test_intervals_of_differences_hold_the_truth(kind):
    """200 pairs of sets of 500 images and 32 features, which have each image's chance in common.

    In full, with 128 features and 1,000 pairs: benchmarks/quality_intervals.py."""
    width, images, found = 32, 500, {}
    labels = torch.arange(images) % 10
    centres = 4 * torch.randn(10, width, generator=torch.Generator().manual_seed(1))
    groups = Groups.deal(images, labels.numpy())

    def features(rng: torch.Generator, count: int, classes: torch.Tensor) -> torch.Tensor:
        x = torch.randn(count, width, generator=rng)
        if kind == "heavy tails":
            x = x * torch.rand(count, 1, generator=rng).clamp(min=0.05) ** -0.4
        return x + centres[classes] if kind == "classes far apart" else x

    many = torch.arange(20_000) % 10
    reference = Gaussian.of(features(torch.Generator().manual_seed(2), 20_000, many))
    for number in range(200):
        rng = torch.Generator().manual_seed(100 + number)
        one = features(rng, images, labels)
        other = 1.03 * one + 0.2 * torch.randn(one.shape, generator=rng)
        a, b = (
            {"pool": pool, "logits": pool[:, :10] + 3 * torch.eye(10)[labels]}
            for pool in (other, one)
        )
        for name in ("fid", "inception_score", "class_accuracy"):
            pair = (
                METRICS[name].compute(Given(x, {}, {"pool": reference}, labels, groups))
                for x in (a, b)
            )
            found.setdefault(name, []).append(next(pair).less(next(pair)))
    for name, pairs in found.items():
        truth = np.mean([apart for apart, _ in pairs])
        held = np.mean([low <= truth <= high for _, (low, high) in pairs])
        assert held > 0.91, (name, held)
        if name == "fid":
            assert held < 0.99, (name, held)


def test_the_spread_of_a_mean_and_of_pairs_is_known():
    """By arithmetic: s2 / n of a mean, and of a mean over pairs that have no linear part."""
    rng = np.random.default_rng(0)
    groups = Groups.deal(500)
    kept = groups.kept().double()
    means, pairs = [], []
    for _ in range(300):
        z_ND = torch.from_numpy(rng.standard_normal((500, 50)))
        means.append(standard_error(float(z_ND[:, 0].mean()), groups.means(z_ND[:, 0])) ** 2)
        of_kept = kept @ groups.sums(z_ND) / (kept.sum(1, keepdim=True) * 20)
        squares = of_kept.square().sum(1)
        pairs.append(standard_error(float(z_ND.mean(0).square().sum()), squares.tolist()) ** 2)
    assert np.mean(means) == pytest.approx(1 / 500, rel=0.05)
    assert np.mean(pairs) == pytest.approx(50 * 2 / 500**2, rel=0.15)


def test_the_interval_of_is_rests_on_splits_as_whole_as_those_of_the_figure():
    """10,050 images: a last split of 50 counts as much as one of 5000, in every replicate."""
    found = logits(10_050, 6)
    given = Given({"logits": found}, {}, {}, None, Groups.deal(10_050))
    estimate = inception_score.estimate(given)
    of_splits = inception_score.inception_scores(found)[:, 0]
    assert estimate.value == pytest.approx(float(of_splits.mean()))
    assert standard_error(estimate.value, estimate.replicates) < 0.1 * (estimate.value - 1)
    whole = Given({"logits": found[:10_000]}, {}, {}, None, Groups.deal(10_000))
    estimate = inception_score.estimate(whole)
    spread = [
        float(inception_score.inception_scores(logits(10_000, 6, s)).mean()) for s in range(20)
    ]
    assert 0.6 < standard_error(estimate.value, estimate.replicates) / np.std(spread) < 1.7


def test_groups_of_a_balanced_set_are_balanced_and_their_interval_is_as_wide_as_it_should_be():
    """Classes that lie far apart, as many images of each: by luck with classes alone groups
    would differ far more than such sets do."""
    labels = np.arange(400) % 4
    groups = Groups.deal(400, labels).group_N
    assert {tuple(np.bincount(labels[groups == g])) for g in range(GROUPS)} == {(4, 4, 4, 4)}
    centres = 3 * torch.eye(6)[labels]
    references = Gaussian.of(normal(400, 6, 999, 1.2) + centres)
    sets = [normal(400, 6, seed) + centres for seed in range(60)]
    spread = np.std([frechet.frechet_distance(Gaussian.of(one), references) for one in sets])

    def error(one: torch.Tensor, classes: np.ndarray | None) -> float:
        return standard_error(
            *frechet.frechet_with_replicates(one, references, Groups.deal(400, classes))
        )

    balanced, blind = (np.mean([error(one, c) for one in sets[:9]]) for c in (labels, None))
    assert 0.7 < balanced / spread < 1.4
    assert blind > balanced


def test_fid_at_infinity_is_that_of_the_distributions():
    """Known: both Gaussian, the reference by its own moments."""
    width = 16
    sigma = torch.diag(torch.linspace(1, 2, width, dtype=torch.float64))
    reference = Gaussian(torch.full((width,), 0.1, dtype=torch.float64), sigma)
    truth = width * 0.01 + float((sigma.diag().sqrt() - 1).square().sum())
    found: dict[str, list[float]] = {"fid": [], "fid_infinity": []}
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        samples = torch.randn(640, width, generator=generator)
        given = Given({"pool": samples}, {}, {"pool": reference}, None, Groups.deal(640))
        for name, values in found.items():
            values.append(METRICS[name].compute(given).value)
    error = np.std(found["fid"]) / 30**0.5
    assert np.mean(found["fid"]) - truth > 5 * error
    assert abs(np.mean(found["fid_infinity"]) - truth) < 3 * error


def test_intervals_stay_within_what_a_figure_can_be():
    replicates = [0.99 - 0.05 * (i % 3) for i in range(2 * GROUPS)]
    assert interval(0.99, replicates, 0, 1)[1] == 1
    assert interval(0.01, replicates, 0)[0] == 0


def test_a_share_without_a_miss_has_an_interval_and_so_has_its_difference():
    """Clopper and Pearson's; of 500 images of two sets that are all recognised nothing more is
    known than that neither misses 1 %."""
    labels = torch.arange(500) % 5
    logits_NC = 9 * torch.eye(5)[labels]
    groups = Groups.deal(500, labels.numpy())
    perfect = METRICS["class_accuracy"].compute(
        Given({"logits": logits_NC}, {}, {}, labels, groups)
    )
    assert perfect.value == 1
    assert perfect.within() == pytest.approx((0.025 ** (1 / 500), 1))
    apart, (low, high) = perfect.less(perfect)
    assert apart == 0
    assert low == -high == pytest.approx(perfect.within()[0] - 1)
    score = METRICS["inception_score"].compute(Given({"logits": logits_NC}, {}, {}, labels, groups))
    assert score.within()[0] < score.value - 3 / 500 * 5 * np.log(4.9)


def test_intervals_of_shares_hold_the_truth_near_one():
    """300 pairs of sets whose misses are rare and mostly shared."""
    rng, groups = np.random.default_rng(0), Groups.deal(500)
    held = []
    for _ in range(300):
        hard = rng.random(500)
        one, other = (
            Given({}, {}, {}, None, groups).share(
                torch.from_numpy((hard > rate) & (rng.random(500) > 0.002))
            )
            for rate in (0.004, 0.010)
        )
        truth = 0.006 * 0.998
        low, high = one.less(other)[1]
        held.append((low <= truth <= high, one.within()[0] <= 0.996 * 0.998 <= one.within()[1]))
    assert np.mean(held, axis=0).min() > 0.93


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
from bench.metrics.coverage import coverages
found = coverages(torch.rand(50_000, 2048), torch.rand(10_000, 2048))
assert 0 < found["recall"].value < 1
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
