"""A set against a baseline: differences, images side by side, tokens of two stacks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torchvision.models.vgg import cfgs, make_layers
from typer.testing import CliRunner

from bench.cli import app
from bench.measure import machine
from bench.quality import against, features, lpips, sampling, token_agreement
from bench.quality.evaluate import Protocol, evaluate
from bench.quality.features import Extractor
from bench.quality.images import open_images
from bench.quality.reference import open_reference
from bench.quality.vision_features import DINO_COLOURS
from bench.quality.wanted import Wanted
from bench.study import evaluations
from bench.study.errors import UsageError
from codevar import PRESETS
from codevar.progress import Progress
from tests import tiny
from tests.quality.tiny_sets import ENV, PER_CLASS, N, case_of, make_small, tiny_loaded


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


@pytest.fixture
def set_of(tmp_path):
    def make(name="", seed=0, per_class=PER_CLASS, **changes):
        case = case_of(**changes)
        folder = tmp_path / (name or f"{case.stack}-{case.precision}")
        wanted = Wanted(case, seed, per_class, "png")
        return sampling.sample(wanted, folder, ENV, Progress(quiet=True))

    return make


def agree(a, b, **options):
    return token_agreement.agreement(a, b, "cpu", **({"images": 12, "batch_size": 5} | options))


def test_a_set_is_like_itself(set_of):
    one = set_of()
    found = agree(one, one)
    assert found["teacher_forced"] == found["free_running"] == [1.0] * 4
    assert found["images_of_same_tokens"]["max_level"]["mean"] == 0
    assert found["images"] == 12


def test_stacks_in_float32_agree(set_of):
    found = agree(set_of(), set_of(stack="modern"), images=1000)
    assert found["images"] == N
    assert found["teacher_forced"] == found["free_running"] == [1.0] * 4
    assert found["images_of_same_tokens"]["max_level"]["quantiles"][-1] <= 1


def test_half_precision_differs_and_says_where(set_of):
    found = agree(set_of(), set_of(stack="modern", precision="bf16"), images=N)
    assert all(0.8 < share <= 1 for share in found["teacher_forced"])
    assert min(found["teacher_forced"]) < 1
    assert found["free_running"][-1] < found["teacher_forced"][-1]  # what differs is carried along
    assert found["images_of_same_tokens"]["psnr_db"]["mean"] < against.IDENTICAL_DB


@torch.no_grad()
def test_teacher_forced_tokens_are_those_of_a_forward_over_all_scales(set_of):
    """Without cache, loop or sampling of ours: the model's forward as in training."""
    samples, numbers = set_of(), range(6)
    leader = torch.randint(tiny.CODES["vocab"], (6, 30), generator=torch.Generator().manual_seed(0))
    scales, found = token_agreement.tokens(samples, "cpu", numbers, 4, False, leader)
    loaded = tiny_loaded(case_of(), False)
    model, inputs = loaded.plan.models[0], loaded.vqvae.teacher_forcing_input(leader)
    labels = torch.tensor(numbers)
    cond, uncond = (model(rows, inputs) for rows in (labels, torch.full_like(labels, 10)))
    for k, where in enumerate(scales.slices):
        t = PRESETS["var"].at(k, scales).guidance
        best = ((1 + t) * cond[:, where] - t * uncond[:, where]).argmax(-1)
        assert torch.equal(found.best[:, where], best)
    assert not torch.equal(found.best, leader)


def test_distances_of_images():
    one = np.full((4, 16, 16, 3), 100, np.uint8)
    other = one.copy()
    other[2] += 1
    other[3] -= 100
    found = against.image_distances([(one[:3], other[:3]), (one[3:], other[3:])])
    assert found["max_level"].tolist() == [0, 0, 1, 100]
    psnr = [against.IDENTICAL_DB] * 2 + [20 * math.log10(255), 20 * math.log10(2.55)]
    assert found["psnr_db"].tolist() == pytest.approx(psnr)
    c1 = (0.01 * 255) ** 2
    flat = (2 * 100 * 101 + c1) / (100**2 + 101**2 + c1)
    assert found["ssim"].tolist() == pytest.approx([1, 1, flat, c1 / (100**2 + c1)])


def test_ssim_is_that_of_its_paper():
    """Window by window, in NumPy: sigma 1.5, 11 x 11, inside the image."""
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (14, 13)).astype(float)
    other = np.clip(one + rng.normal(0, 30, one.shape), 0, 255)
    window = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(window, window) / window.sum() ** 2
    c1, c2, found = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for i, j in itertools.product(range(4), range(3)):
        x, y = (a[i : i + 11, j : j + 11] for a in (one, other))
        mu, nu = (x * window).sum(), (y * window).sum()
        vx, vy = ((x - mu) ** 2 * window).sum(), ((y - nu) ** 2 * window).sum()
        cov = ((x - mu) * (y - nu) * window).sum()
        contrast = (2 * cov + c2) / (vx + vy + c2)
        found.append((2 * mu * nu + c1) / (mu**2 + nu**2 + c1) * contrast)
    x, y = (torch.from_numpy(a)[None, None] for a in (one, other))
    assert float(against.structural_similarity(x, y)) == pytest.approx(np.mean(found))


def test_lpips_is_that_of_its_paper_by_files_of_tensors(tmp_path):
    """Of VGG16 after ReLU, each pixel to length 1: squared differences, weighted by channel."""
    torch.manual_seed(0)
    vgg = make_layers(cfgs["D"], batch_norm=False)
    weights = [torch.rand(1, c, 1, 1) for c in (64, 128, 256, 512, 512)]
    torch.save({f"features.{k}": v for k, v in vgg.state_dict().items()}, tmp_path / lpips.VGG)
    of_layers = {f"lin{i}.model.1.weight": weight for i, weight in enumerate(weights)}
    torch.save(of_layers, tmp_path / lpips.LAYERS)
    one, other = torch.randint(0, 256, (2, 2, 3, 32, 32)).double()
    x, y = (
        (image.float() / 255 - torch.tensor(DINO_COLOURS[0])[:, None, None])
        / torch.tensor(DINO_COLOURS[1])[:, None, None]
        for image in (one, other)
    )
    wanted, taps = torch.zeros(2), iter(weights)
    with torch.no_grad():
        for number, layer in enumerate(vgg):
            x, y = layer(x), layer(y)
            if number in (3, 8, 15, 22, 29):
                apart = torch.nn.functional.normalize(x) - torch.nn.functional.normalize(y)
                wanted += (apart.square() * next(taps)).sum(1).mean((1, 2))
    distance = lpips.load(tmp_path, torch.device("cpu"))
    assert distance(one, other).tolist() == pytest.approx(wanted.tolist(), rel=0.01)
    assert distance(one, one).tolist() == [0, 0]
    pairs = [(image.byte().permute(0, 2, 3, 1).numpy() for image in (one, other))]
    assert against.image_distances([tuple(pairs[0])], distance)["lpips"].tolist() == pytest.approx(
        wanted.tolist(), rel=0.01
    )
    (tmp_path / lpips.LAYERS).unlink()
    with tiny.refused(f"{lpips.LAYERS}: no such file", error=UsageError):
        lpips.load(tmp_path, torch.device("cpu"))


@pytest.fixture
def network():
    """Four features: the mean of each colour, and how much the brightness varies."""

    def layers(images_B3HW):
        x = images_B3HW.double()
        return {"pool": torch.cat([x.mean((2, 3)), x.std((1, 2, 3))[:, None]], dim=1).float()}

    return Extractor("four", "0" * 64, False, {"pool": 4}, layers, torch.device("cpu"))


def images_of(samples):
    return open_images(samples.folder)


def protocol(network, tmp_path, reference, **changes):
    held = open_reference(str(reference), (8, 8))
    return Protocol(held, network, tmp_path / "cache", wanted=["fid", "recall"], **changes)


@pytest.fixture
def reference(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "reference.npz", arr_0=array)
    return tmp_path / "reference.npz"


def test_differences_are_of_the_figures_and_narrow_where_images_are_paired(
    set_of, network, tmp_path, reference
):
    a, b = set_of(per_class=20), set_of(stack="modern", precision="bf16", per_class=20)
    how = protocol(network, tmp_path, reference)
    record, _ = evaluate(images_of(b), how, images_of(a))
    (one, _), (other, _) = (evaluate(images_of(samples), how) for samples in (a, b))
    found = record.against
    for name in ("fid", "recall"):
        assert record.metrics[name] == pytest.approx(other.metrics[name])
        assert found["metrics"][name] == pytest.approx(one.metrics[name])
        apart = other.metrics[name] - one.metrics[name]
        assert found["differences"][name] == pytest.approx(apart)
        low, high = found["difference_intervals"][name]
        assert low <= apart <= high
    low, high = found["difference_intervals"]["fid"]
    assert high - low < 0.5 * np.ptp(one.intervals["fid"])
    assert found["paired"]
    assert found["distances"]["feature_distance"]["mean"] > 0
    assert found["distances"]["psnr_db"]["quantiles"][0] < against.IDENTICAL_DB
    same, _ = evaluate(images_of(a), how, images_of(a))
    assert same.against["difference_intervals"]["fid"] == (0, 0)
    assert same.against["distances"]["identical"] == 1
    other_seed, notes = evaluate(images_of(set_of("c", seed=1, per_class=20)), how, images_of(a))
    assert other_seed.against["distances"] is None
    assert any("do not share seeds" in note for note in notes)


def test_a_difference_is_told_only_where_its_interval_leaves_0_out():
    found = {"difference_intervals": {"fid": (0.1, 0.5), "recall": (0.1, 0.5), "sfid": (-1, 0.1)}}
    assert against.told_apart(found, "fid") == "worse"
    assert against.told_apart(found, "recall") == "better"
    assert against.told_apart(found, "sfid") == "cannot be told"


def test_sets_that_cannot_be_compared_are_refused(set_of, network, tmp_path, reference):
    a, few = (images_of(set_of(str(n), per_class=n)) for n in (20, 3))
    with tiny.refused("differ in count, 30 and 200", error=UsageError):
        evaluate(few, protocol(network, tmp_path, reference), a)
    with tiny.refused("--against: No intervals: 30 images are too few", error=UsageError):
        evaluate(few, protocol(network, tmp_path, reference), few)
    with tiny.refused("--against: needs --intervals", error=UsageError):
        evaluate(a, protocol(network, tmp_path, reference, intervals=False), a)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depth": 3}, "depth is 2 and 3"),
        ({"seed": 1}, "seed is 0 and 1"),
        ({"per_class": 1}, "images is 30 and 10"),
        ({"method": "variant", "subnet_depth": 2, "bridge_scales": 1}, "method is var and variant"),
    ],
)
def test_sets_that_differ_in_more_than_how_they_ran_are_refused(set_of, changes, said):
    with tiny.refused("differ in more than stack and precision", said, error=UsageError):
        agree(set_of("a"), set_of("b", **changes))


def test_weights_that_changed_since_are_refused(set_of, monkeypatch):
    monkeypatch.setattr(sampling, "weights_sha256", lambda source: "aa")
    one = set_of()
    with tiny.refused("no longer the weights", error=UsageError):
        agree(one, one)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "environment", lambda: ENV)

    def call(samples, *words):
        always = ["--out", tmp_path / "out", "--cache", tmp_path / "cache", "--device", "cpu"]
        return CliRunner().invoke(app.app, ["eval", *map(str, [samples, *words, *always])])

    return call


def test_two_stacks_are_compared_by_tokens_and_images_alone(set_of, tmp_path, bench):
    a, b = set_of(), set_of(precision="bf16")
    result = bench(b.folder, "--against", a.folder, "--tokens", 4)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "Image by image: PSNR" in said
    assert "teacher-forced" in said
    (record,), _ = evaluations.read(tmp_path / "out" / evaluations.FILE)
    assert record.case["precision"] == "bf16"
    assert record.against["case"] == a.manifest["case"]
    assert len(record.against["tokens"]["free_running"]) == 4


def test_the_command_with_a_reference_tells_the_difference(
    set_of, tmp_path, monkeypatch, network, reference, bench
):
    monkeypatch.setattr(features, "extractor_of", lambda *_: network)
    a, b = set_of(per_class=20), set_of(precision="bf16", per_class=20)
    result = bench(b.folder, "--against", a.folder, "--reference", reference, "--metrics", "fid")
    assert result.exit_code == 0, result.output
    assert "95 % of it" in result.stdout
    (record,), _ = evaluations.read(tmp_path / "out" / evaluations.FILE)
    assert record.against["differences"].keys() == {"fid"}
    refused = bench(b.folder, "--against", a.folder, "--reference", "nowhere")
    assert refused.exit_code == 2
    assert "nowhere: No such file or directory" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_tokens_of_what_is_no_sample_set_are_refused_in_one_line(set_of, tmp_path, bench):
    one = set_of()
    for other, said in ((["--against", tmp_path], "sample set"), ([], "--against")):
        result = bench(one.folder, "--tokens", 4, "--extractor", "none", *other)
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
