"""`bench.py eval`: from images to a record, by whatever road; and what it refuses.

Nothing here downloads: weights are random, Inception's too.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image
from safetensors.torch import load_file, save_file
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_clip import CLIPVisual
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x,
)
from torch_fidelity.registry import register_feature_extractor
from typer.testing import CliRunner

from bench.cli import app
from bench.measure import machine
from bench.metrics.frechet import Gaussian, frechet_distance
from bench.quality import features, images, vision_features
from bench.quality.features import extract, inception, mini
from bench.study import evaluations
from bench.study.errors import UsageError
from codevar.mini.classifier import Classifier, load_classifier
from codevar.mini.world import World
from tests import tiny

CPU = torch.device("cpu")
SIDE, COUNT = 16, 320


def pixels(count: int = COUNT, first: int = 0, side: int = SIDE) -> np.ndarray:
    found, _ = World(side=side).images("train", first, count)
    return found.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def write_folder(path: Path, array: np.ndarray) -> Path:
    path.mkdir(parents=True)
    for i, image in enumerate(array):
        Image.fromarray(image).save(path / f"{i:08d}.png")
    return path


def write_sample_set(path: Path, array: np.ndarray, form: str = "png", **changes) -> Path:
    """As `bench.py sample` leaves it."""
    path.mkdir(parents=True)
    if form == "png":
        for first in range(0, len(array), 1000):
            shard = write_folder(path / f"shard-{first // 1000:05d}", array[first : first + 1000])
            assert shard.is_dir()
    else:
        np.savez(path / "samples.npz", arr_0=array)
    manifest = {
        "schema": 1,
        "case": {"method": "var", "depth": 12, "weights": "mini", "sampling": "var"},
        "label": "VAR-d12",
        "preset": "var",
        "sampling": {"cfg": [], "top_k": [], "top_p": [], "temperature": [], "more_smooth": False},
        "seed": 5,
        "per_class": len(array) // 10,
        "classes": 10,
        "images": len(array),
        "side": array.shape[1],
        "format": form,
        "sources": ["mini_large"],
        "weights_sha256": {"mini_large": "0" * 64},
        "finished": True,
        "machine": "l20",
        "torch": "2.9.0",
        "commit": "0" * 40,
        "dirty": False,
        "images_per_s": None,
        "waited_for_writing_s": None,
        "runs": [],
    }
    (path / "samples.json").write_text(json.dumps(manifest | changes))
    return path


@pytest.fixture(scope="session")
def classifier(tmp_path_factory) -> Path:
    """Weights of no training, such that predictions differ."""
    torch.manual_seed(0)
    tensors = Classifier().state_dict()
    tensors["head.weight"] *= 300
    path = tmp_path_factory.mktemp("weights") / "classifier.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory) -> Path:
    """Weights of no training, scaled so that something is left after 48 layers."""
    library = "torch_fidelity.feature_extractor_inceptionv3"
    with (
        mock.patch(f"{library}.load_state_dict_from_url", return_value={}),
        mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for name, tensor in network.state_dict().items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu")
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def sets(tmp_path_factory) -> Path:
    """The same images as a folder, an archive and sample sets."""
    path = tmp_path_factory.mktemp("sets")
    write_folder(path / "folder", pixels())
    np.savez(path / "images.npz", arr_0=pixels())
    np.savez(path / "columns.npz", arr_0=np.asfortranarray(pixels()))
    (path / "columns.npz").rename(path / "columns.NPZ")
    (path / "linked").mkdir()
    (path / "linked" / "class.png").symlink_to(path / "folder")
    write_sample_set(path / "png", pixels())
    write_sample_set(path / "npz", pixels(), "npz")
    return path


@pytest.fixture
def run(tmp_path, classifier, monkeypatch):
    """`bench.py eval` with the classifier against the mini world, on the CPU; words come last
    and win."""
    monkeypatch.setattr(
        machine,
        "environment",
        lambda: {"machine": "l20", "packages": {}, "commit": None, "dirty": None},
    )

    def eval_(samples: Path, *words: object, reference: object = "mini:test:200"):
        always = ["--device", "cpu", "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
        if not {"--extractor", "--weights"} & {*words}:
            always += ["--extractor", "mini", "--weights", classifier]
        if reference is not None:
            always += ["--reference", reference]
        return CliRunner().invoke(app.app, ["eval", str(samples), *map(str, [*always, *words])])

    return eval_


def record(tmp_path: Path) -> evaluations.Evaluation:
    """The last one written."""
    found, complaints = evaluations.read(tmp_path / "out" / evaluations.FILE)
    assert not complaints
    return found[-1]


def computed(path: Path, extractor, layers=("pool",), cache: Path | None = None):
    found = extract(images.open_images(path), extractor, layers, cache or path.parent / "cache", 7)
    return found.layers


# From images to figures


class Tensors(torch.utils.data.Dataset):
    def __init__(self, array: np.ndarray) -> None:
        self.array = torch.from_numpy(array).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.array[i]


class MiniFeatures(FeatureExtractorBase):
    """The classifier as torch-fidelity takes it."""

    def __init__(self, name, features_list, feature_extractor_weights_path, **_):
        super().__init__(name, list(features_list))
        self.classifier = load_classifier(feature_extractor_weights_path)

    @staticmethod
    def get_provided_features_list():
        return "128", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "logits" if metric == "isc" else "128"

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, images):
        pool = self.classifier.features(images.float() / 255)
        found = {"128": pool, "logits": self.classifier.head(pool)}
        return tuple(found[name] for name in self.features_list)


register_feature_extractor("codevar-mini", MiniFeatures)


def test_figures_are_torch_fidelitys_with_the_same_extractor(run, sets, classifier, tmp_path):
    """Its own functions, with the classifier registered there."""
    result = run(sets / "npz", reference=write_folder(tmp_path / "other", pixels(150, 500)))
    assert result.exit_code == 0, result.output
    theirs = torch_fidelity.calculate_metrics(
        input1=Tensors(pixels()),
        input2=Tensors(pixels(150, 500)),
        feature_extractor="codevar-mini",
        feature_extractor_weights_path=str(classifier),
        fid=True,
        isc=True,
        prc=True,
        isc_splits=1,
        samples_shuffle=False,
        save_cpu_ram=True,
        cuda=False,
        cache=False,
        verbose=False,
    )
    ours = record(tmp_path).metrics
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert ours["precision"] == pytest.approx(theirs["precision"], abs=1 / COUNT)
    assert ours["recall"] == pytest.approx(theirs["recall"], abs=1 / 150)
    assert ours["fid"] > 0
    assert 1 < ours["inception_score"] < 10


@pytest.mark.parametrize("form", ["folder", "linked", "images.npz", "columns.NPZ", "png", "npz"])
def test_the_same_images_have_the_same_fid_in_any_form(form, run, sets, tmp_path):
    assert run(sets / form, "--metrics", "fid,precision,recall").exit_code == 0
    first = record(tmp_path).metrics
    assert run(sets / "npz", "--metrics", "fid,precision,recall").exit_code == 0
    assert first == pytest.approx(record(tmp_path).metrics, rel=1e-6)


def test_a_record_says_what_was_sampled_and_how_well_classes_are_recognised(run, sets, tmp_path):
    result = run(sets / "png", "--format", "json")
    (printed,) = json.loads(result.stdout)
    found = record(tmp_path)
    assert found.case["depth"] == 12
    assert (found.label, found.preset, found.seed) == ("VAR-d12", "var", 5)
    assert found.weights_sha256 == {"mini_large": "0" * 64}
    assert (found.reference, found.reference_images) == ("mini:test", 200)
    assert found.images == COUNT
    by_class = found.class_accuracy_by_class
    assert len(by_class) == 10
    assert found.metrics["class_accuracy"] == pytest.approx(np.mean(by_class))
    for name in ("fid", "inception_score", "precision", "recall", "class_accuracy"):
        low, high = found.intervals[name]
        assert low <= found.metrics[name] <= high
    assert printed["metrics"] == found.metrics


def test_factors_tell_what_a_set_lost(run, tmp_path):
    """Its hues, here: image by image beside the baseline's, and beside what real images have."""
    array = pixels(60, side=48)
    base = write_sample_set(tmp_path / "base", array)
    lost = write_sample_set(tmp_path / "lost", array[..., ::-1].copy())
    result = run(lost, "--extractor", "factors", "--against", base)
    assert result.exit_code == 0, result.output
    found = record(tmp_path)
    assert found.extractor == "codevar-factors"
    assert found.against["differences"]["hue_distance"] > 0
    assert found.metrics["hue_agreement"] < 0.6 < found.metrics["texture_agreement"]
    assert "hue as base" in result.output
    assert "nan" not in result.output
    alone = run(lost, "--extractor", "factors")
    assert "Without shape_agreement" in " ".join(alone.output.split())
    real = record(tmp_path).floor
    assert real["hue_distance"] < 0.8 * found.metrics["hue_distance"]
    refused(run(lost, "--extractor", "factors", "--metrics", "fid"), "fid", "no such metric")
    small = write_sample_set(tmp_path / "small", pixels(60))
    refused(run(small, "--extractor", "factors"), "reads images of 48 pixels a side", "16 x 16")


def test_identical_sets_have_no_distance(run, sets, tmp_path):
    assert run(sets / "folder", reference=sets / "images.npz").exit_code == 0
    found = record(tmp_path).metrics
    assert found["fid"] == pytest.approx(0, abs=1e-6)
    assert (found["precision"], found["recall"]) == (1, 1)


def test_a_second_metric_computes_no_features(run, sets, monkeypatch):
    assert run(sets / "png", "--metrics", "fid").exit_code == 0
    monkeypatch.setattr(features, "_computed", lambda *_: pytest.fail("computed again"))
    assert run(sets / "png", "--metrics", "precision,inception_score").exit_code == 0


def test_a_set_that_grew_computes_the_new_images_alone(tmp_path, classifier, monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 40)
    extractor, seen = mini(classifier, CPU), []
    compute = features._computed
    monkeypatch.setattr(
        features, "_computed", lambda found, *rest: seen.append(len(found)) or compute(found, *rest)
    )
    small = computed(write_sample_set(tmp_path / "a", pixels(80)), extractor)["pool"]
    large = computed(write_sample_set(tmp_path / "b", pixels(130)), extractor)["pool"]
    assert seen == [40, 40, 40, 10]
    assert torch.equal(large[:80], small)


def test_weights_of_another_file_are_another_extractor(tmp_path, classifier, sets):
    tensors = load_file(classifier)
    tensors["mix.weight"] *= 1.5
    save_file(tensors, tmp_path / "other.safetensors")
    one, other = (
        computed(sets / "folder", mini(file, CPU), cache=tmp_path)["pool"]
        for file in (classifier, tmp_path / "other.safetensors")
    )
    assert not torch.allclose(one, other)


def test_a_damaged_cache_is_made_again(run, sets, tmp_path):
    assert run(sets / "png").exit_code == 0
    first = record(tmp_path).metrics
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    assert run(sets / "png").exit_code == 0
    assert record(tmp_path).metrics == first


# References


def test_saved_statistics_stand_for_the_images(run, sets, tmp_path, classifier):
    other = write_folder(tmp_path / "other", pixels(150, 500))
    saved = tmp_path / "new" / "folder" / "other.npz"
    assert run(other, "--save-statistics", saved, reference=None).exit_code == 0
    assert run(sets / "npz", "--metrics", "fid", reference=other).exit_code == 0
    expected = record(tmp_path).metrics["fid"]
    result = run(sets / "npz", reference=saved)
    assert record(tmp_path).metrics["fid"] == pytest.approx(expected, rel=1e-9)
    assert "recall" not in record(tmp_path).metrics
    assert "other.npz has statistics but no images." in " ".join(result.stdout.split())
    refused(run(sets / "npz", "--metrics", "recall", reference=saved), "statistics but no images")
    tensors = load_file(classifier)
    tensors["mix.weight"] *= 1.5
    save_file(tensors, tmp_path / "changed.safetensors")
    result = run(sets / "npz", "--extractor", tmp_path / "changed.safetensors", reference=saved)
    refused(result, "other.npz was made by codevar-mini-", "not by codevar-mini-")


def virtual(path: Path, leave_out: str = "", **changes) -> Path:
    """Like VIRTUAL_imagenet256_labeled.npz: statistics of more images than it holds."""
    rng = np.random.default_rng(0)
    some = rng.standard_normal((400, 128))
    arrays = {
        "arr_0": pixels(30, 900),
        "mu": some.mean(0).astype(np.float32),
        "sigma": np.cov(some, rowvar=False),
        "mu_s": np.zeros(2023, np.float32),
        "sigma_s": np.eye(2023),
    } | changes
    np.savez(path, **{name: a for name, a in arrays.items() if name != leave_out})
    return path


def test_openais_reference_has_fid_by_its_statistics_and_recall_by_its_images(
    run, sets, tmp_path, classifier
):
    file = virtual(tmp_path / "virtual.npz")
    assert run(sets / "npz", reference=file).exit_code == 0
    found = record(tmp_path).metrics
    with np.load(file) as arrays:
        theirs = Gaussian(*(torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma")))
    pool = computed(sets / "npz", mini(classifier, CPU))["pool"]
    assert found["fid"] == pytest.approx(frechet_distance(Gaussian.of(pool), theirs))
    folder = write_folder(tmp_path / "theirs", pixels(30, 900))
    assert run(sets / "npz", "--metrics", "precision,recall", reference=folder).exit_code == 0
    alone = record(tmp_path).metrics
    assert {name: found[name] for name in alone} == alone


# Inception


def test_the_layer_of_sfid_is_the_one_that_tensorflow_calls_mixed_6_conv(inception_file):
    """TensorFlow's blocks are mixed, mixed_1, ... mixed_10; this is the seventh, and its first
    branch, the only 1 x 1 convolution that starts and ends one."""
    network = FeatureExtractorInceptionV3(
        "x", ["2048"], feature_extractor_weights_path=inception_file
    )
    blocks = [name for name, _ in network.named_children() if name.startswith("Mixed_")]
    assert len(blocks) == 11
    layer = features.spatial_layer(network)
    assert layer is getattr(network, blocks[6]).branch1x1
    assert next(iter(layer.modules())).conv.kernel_size == (1, 1)
    # Blocks 4 to 7 differ in the width of their 7 x 7 branches: 128, 160, 160, 192.
    widths = [getattr(network, name).branch7x7_1.conv.out_channels for name in blocks[4:8]]
    assert widths == [128, 160, 160, 192]


def test_inceptions_features_are_pool_spatial_and_logits_without_biases(tmp_path, inception_file):
    """Against the network itself, taken step by step."""
    array = pixels(3, side=32)
    array[1] = 255 - array[1]
    np.savez(tmp_path / "three.npz", arr_0=array)
    found = computed(
        tmp_path / "three.npz", inception(inception_file, CPU), ("pool", "spatial", "logits")
    )
    network = FeatureExtractorInceptionV3(
        "x", ["2048", "logits"], feature_extractor_weights_path=inception_file
    )
    seen = {}
    network.Mixed_6d.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    pool, logits = network(torch.from_numpy(array).permute(0, 3, 1, 2))
    with torch.no_grad():
        branch = network.Mixed_6d.branch1x1
        spatial = torch.relu(branch.bn(branch.conv(seen["x"])))[:, :7]
    assert spatial.shape == (3, 7, 17, 17)
    places = [(y, x) for y in range(17) for x in range(17)]
    in_their_order = [image[:, y, x].tolist() for image in spatial for y, x in places]
    expected = torch.tensor(in_their_order).reshape(3, 2023)
    assert torch.allclose(found["spatial"], expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found["pool"], pool, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found["logits"], logits - network.fc.bias, rtol=1e-3, atol=1e-3)
    assert found["pool"].std(0).mean() > 1e-3


def test_from_png_to_figures_with_inception(run, tmp_path, inception_file):
    samples = write_folder(tmp_path / "samples", pixels(6, side=32))
    references = write_folder(tmp_path / "references", pixels(6, 50, side=32))
    words = ["--extractor", "inception", "--weights", inception_file]
    result = run(
        samples,
        *words,
        "--metrics",
        "inception_score,precision,recall",
        reference=references,
    )
    assert result.exit_code == 0, result.output
    found = record(tmp_path)
    assert found.extractor == "inception-v3-compat"
    assert not found.published
    assert "not the published ones" in result.stdout
    assert found.metrics["inception_score"] >= 1
    assert {"precision", "recall"} <= found.metrics.keys()
    line = "samples: 6 images are too few for a FID over 2048 pool features"
    refused(
        run(samples, *words, reference=references), line, "or --metrics kid,cmmd,inception_score"
    )


def test_clips_and_dinos_features_are_those_of_their_networks(sets, tmp_path):
    """Random weights of their shapes, as files of tensors."""
    images = torch.from_numpy(pixels(2)).permute(0, 3, 1, 2)
    torch.manual_seed(0)
    visual = CLIPVisual(12, 32, 2, 64, 16)
    for parameter in visual.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tensors = {**visual.state_dict(), "text_projection": torch.ones(5, 12)}
    save_file({name: t.clone() for name, t in tensors.items()}, tmp_path / "clip.safetensors")
    network = features.extractor_of("clip", tmp_path / "clip.safetensors", False, CPU)
    assert (network.widths, network.published) == ({"pool": 12}, False)
    x = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (32, 32), align_corners=False)
    mean, std = (torch.tensor(c)[:, None, None] for c in vision_features.CLIP_COLOURS)
    with torch.no_grad():
        expected = visual.visual((x / 255 - mean) / std)
        assert torch.allclose(network.layers(images)["pool"], expected, rtol=1e-3, atol=1e-4)

    timm = pytest.importorskip("timm")
    dino = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=224, depth=12)
    torch.save(dino.state_dict(), tmp_path / "dino.pth")
    network = features.extractor_of("dinov2", tmp_path / "dino.pth", False, CPU)
    x = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (224, 224), align_corners=False)
    mean, std = (torch.tensor(c)[:, None, None] for c in vision_features.DINO_COLOURS)
    with torch.no_grad():
        expected = dino.eval()((x / 255 - mean) / std)
        assert torch.allclose(network.layers(images)["pool"], expected, rtol=1e-3, atol=1e-4)
    for which, said in (("clip", "no state dict of CLIP"), ("dinov2", "no state dict of DINOv2")):
        save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
        with tiny.refused(said, error=UsageError):
            features.extractor_of(which, tmp_path / "a.safetensors", False, CPU)
        with tiny.refused("name a file of its tensors", error=UsageError):
            features.extractor_of(which, None, False, CPU)


def test_inceptions_weights_are_never_fetched_unless_asked(run, sets, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *words: fetched.append(words))
    result = run(sets / "png", "--extractor", "inception")
    refused(result, "are not cached here: --download fetches them", "--weights names a file")
    assert not fetched

    def offline(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    refused(run(sets / "png", "--extractor", "inception", "--download"), "cannot be fetched")


# What is refused


def refused(result, *parts: str) -> None:
    """One line on standard error, exit code 2, nothing printed."""
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(part in result.stderr for part in parts), result.stderr
    assert result.stdout == ""


def bad_folder(path: Path, name: str, data: bytes) -> Path:
    folder = write_folder(path / "bad", pixels())
    (folder / name).write_bytes(data)
    return folder


def png(array: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(1)[0] if array is None else array).save(file, "PNG")
    return file.getvalue()


SAMPLES = {
    "a folder that is not there": (lambda p: p / "none", "No such file or directory"),
    "a folder without images": (lambda p: p, "no picture in this folder"),
    "a file of another kind": (lambda p: text(p / "a.txt"), "neither a folder nor an .npz"),
    "a corrupt PNG": (lambda p: bad_folder(p, "x.png", b"no image"), "x.png: no readable image"),
    "a truncated PNG": (lambda p: bad_folder(p, "x.png", png()[:-60]), "x.png: no readable image"),
    "16 bits a channel": (
        lambda p: bad_folder(p, "x.png", png(pixels(1)[0, ..., 0].astype(np.uint16) << 8)),
        "x.png: no readable image (more than 8 bits a channel)",
    ),
    "transparency": (
        lambda p: bad_folder(p, "x.png", png(np.zeros((SIDE, SIDE, 4), np.uint8))),
        "x.png: no readable image (it has an alpha channel; save it without)",
    ),
    "a few images over and over": (
        lambda p: write_folder(p / "bad", np.tile(pixels(60), (5, 1, 1, 1))),
        "bad without copies: 60 images are too few for a FID over 128 pool features",
    ),
    "fewer classes than images": (
        lambda p: npz(p / "a.npz", arr_0=pixels(), arr_1=np.arange(5)),
        "arr_1 must be the class of each of its 320 images, not int64 (5,)",
    ),
    "another size in the folder": (
        lambda p: (
            Image.fromarray(pixels(1, side=24)[0]).save(write_folder(p / "bad", pixels()) / "x.png")
            or p / "bad"
        ),
        "images of one set must be of one size",
    ),
    "another size than the reference": (
        lambda p: write_folder(p / "bad", pixels(side=24)),
        "the samples are 24 x 24 pixels, folder is 16 x 16",
    ),
    "too few images": (
        lambda p: write_folder(p / "bad", pixels(128)),
        "bad: 128 images are too few for a FID over 128 pool features",
    ),
    "a truncated npz": (
        lambda p: cut(npz(p / "a.npz", arr_0=pixels())),
        "a.npz: damaged or no .npz",
    ),
    "an npz of floats": (
        lambda p: npz(p / "a.npz", arr_0=pixels() / 255),
        "arr_0 must be uint8 (N, H, W, 3), not float64",
    ),
    "an npz of grey images": (
        lambda p: npz(p / "a.npz", arr_0=pixels()[..., 0]),
        "arr_0 must be uint8 (N, H, W, 3)",
    ),
    "an npz without images": (lambda p: npz(p / "a.npz", x=np.ones(3)), "no array arr_0"),
    "a pickle by the name of an npz": (
        lambda p: text(p / "a.npz", pickle.dumps({"arr_0": 1})),
        "a.npz: damaged or no .npz",
    ),
    "a sample set that is not finished": (
        lambda p: write_sample_set(p / "set", pixels(), finished=False),
        "not finished; `bench.py sample ... --resume` goes on",
    ),
    "a sample set without an image": (
        lambda p: (
            (write_sample_set(p / "set", pixels()) / "shard-00000" / "00000007.png").unlink()
            or p / "set"
        ),
        "00000007.png: missing",
    ),
    "a sample set with a damaged manifest": (
        lambda p: text(write_sample_set(p / "set", pixels()) / "samples.json", b"{").parent,
        "samples.json: damaged",
    ),
}


def text(path: Path, data: bytes = b"text") -> Path:
    path.write_bytes(data)
    return path


def npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:5000])
    return path


@pytest.mark.parametrize("which", SAMPLES)
def test_samples_that_say_nothing_are_one_line(which, run, sets, tmp_path):
    make, line = SAMPLES[which]
    inside = tmp_path / "made"
    inside.mkdir()
    refused(run(make(inside), reference=sets / "folder"), line)
    assert not (tmp_path / "out").exists()


NAN = np.full((128, 128), np.nan)
REFERENCES = {
    "no sigma": (lambda p: virtual(p, "sigma"), "has mu but no sigma: no statistics for a FID"),
    "no mu": (lambda p: virtual(p, "mu"), "has sigma but no mu"),
    "no spatial sigma": (lambda p: virtual(p, "sigma_s"), "has mu_s but no sigma_s"),
    "NaN in it": (lambda p: virtual(p, sigma=NAN), "mu or sigma is not finite"),
    "no symmetric sigma": (
        lambda p: virtual(p, sigma=np.eye(128) + np.eye(128, k=1)),
        "sigma is not symmetric",
    ),
    "negative eigenvalues": (
        lambda p: virtual(p, sigma=np.diag([-1.0, *[1.0] * 127])),
        "reference.npz: sigma is no covariance: it has negative eigenvalues",
    ),
    "words": (lambda p: virtual(p, sigma=np.full((128, 128), "x")), "no mean and covariance"),
    "another shape": (lambda p: virtual(p, sigma=np.eye(5)), "no mean and covariance"),
    "another network": (
        lambda p: virtual(p, mu=np.zeros(2048), sigma=np.eye(2048)),
        "is of 2048 features, codevar-mini has 128",
    ),
    "another size": (
        lambda p: virtual(p, arr_0=pixels(30, side=32)),
        "the samples are 16 x 16 pixels, reference.npz is 32 x 32",
    ),
    "cut short": (lambda p: cut(virtual(p)), "reference.npz: damaged or no .npz"),
}


@pytest.mark.parametrize("which", REFERENCES)
def test_references_that_say_nothing_are_one_line(which, run, sets, tmp_path):
    make, line = REFERENCES[which]
    refused(run(sets / "npz", reference=make(tmp_path / "reference.npz")), line)
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_finite_are_one_line(run, sets, tmp_path, classifier):
    tensors = load_file(classifier)
    tensors["mix.bias"][3] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    line = "the pool features of image 0 are not finite"
    refused(run(sets / "npz", "--extractor", tmp_path / "nan.safetensors"), line)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("ran code of a weights file",))


def test_weights_that_are_none_are_one_line(run, sets, tmp_path, classifier):
    def with_weights(path: Path, extractor: str):
        return run(sets / "npz", "--extractor", extractor, "--weights", path)

    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pth")
    refused(with_weights(tmp_path / "evil.pth", "inception"), "no state dict of plain tensors")
    refused(with_weights(classifier, "inception"), "not Inception's weights")
    refused(with_weights(tmp_path / "none.pth", "inception"), "none.pth: No such file")
    refused(with_weights(tmp_path / "none", "mini"), "none: No such file")
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    refused(with_weights(tmp_path / "a.safetensors", "mini"), "no classifier's weights")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--metrics fid,lpips", "--metrics lpips: no such metric; there are fid, sfid"),
        ("--metrics sfid", "--metrics sfid: codevar-mini has no spatial features"),
        ("--reference mini:train:x", "write mini:test"),
        ("--reference mini:test:1-99999999999", "its last number is 1,000,000"),
        ("--reference mini:train:20-10", "mini:test:10000-20000 for a block of them"),
        ("--reference mini:valid", "the mini world has train, test"),
        ("--reference mini:test:50", "mini:test: 50 images are too few for a FID"),
        ("--save-statistics a.txt", "name a file that ends in .npz"),
        ("--device cuda:99", "device cuda"),
    ],
)
def test_a_mistake_is_one_line(words, line, run, sets, tmp_path):
    refused(run(sets / "folder", *words.split()), line)
    assert not (tmp_path / "out").exists()


def test_whatever_its_numbers_are_a_reference_is_read(run, sets, tmp_path):
    found = set()
    for file, kind, order in (("a", "f8", "C"), ("b", "longdouble", "C"), ("c", ">f8", "F")):
        mu, sigma = np.zeros(128, kind), np.asarray(np.eye(128), kind, order)
        reference = npz(tmp_path / f"{file}.npz", mu=mu, sigma=sigma)
        result = run(sets / "npz", "--metrics", "fid", reference=reference)
        assert result.exit_code == 0, result.stderr
        found.add(record(tmp_path).metrics["fid"])
    assert len(found) == 1


def test_what_lies_beside_images_and_copies_of_them_are_told(run, tmp_path):
    samples = write_folder(tmp_path / "some", pixels(180))
    (samples / "notes.txt").write_text("")
    checkpoints = samples / ".ipynb_checkpoints"
    checkpoints.mkdir()
    (checkpoints / "0.png").write_bytes(b"no image")
    Image.fromarray(pixels(1)[0]).save(samples / "copy.png", compress_level=0)
    Image.fromarray(pixels(1, 200)[0]).save(samples / "b.jpg")
    result = run(samples, "--metrics", "fid", "--format", "md")
    assert result.exit_code == 0, result.stderr
    assert record(tmp_path).images == 182
    told = " ".join(result.stdout.split())
    assert "some: no pictures and left out: .ipynb_checkpoints, notes.txt." in told
    assert "some: 1 of 182 images are JPEG" in told
    assert "some: 1 of 182 images are copies of others." in told
    assert record(tmp_path).intervals["fid"]


def test_too_few_images_for_intervals_have_figures_without(run, tmp_path):
    samples = write_folder(tmp_path / "some", pixels(132))
    result = run(samples, "--format", "md")
    assert result.exit_code == 0, result.stderr
    assert "No intervals: 132 images are too few; they need 141." in " ".join(result.stdout.split())
    assert record(tmp_path).intervals == {}
    assert "fid_infinity" not in record(tmp_path).metrics


def test_a_block_of_the_mini_worlds_images_is_another_reference(run, sets, tmp_path):
    assert run(sets / "npz", "--metrics", "fid", reference="mini:test:200").exit_code == 0
    first = record(tmp_path)
    assert run(sets / "npz", "--metrics", "fid", reference="mini:test:200-400").exit_code == 0
    other = record(tmp_path)
    assert (first.reference_images, other.reference_images) == (200, 200)
    assert first.reference_sha256 != other.reference_sha256
    assert first.metrics["fid"] != other.metrics["fid"]
    assert 0.5 < first.floor["fid"] / first.metrics["fid"] < 2  # the samples are real images too


def test_without_a_home_a_cache_is_asked_for(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(UsageError, match="name a folder with --cache"):
        features.default_cache()


def test_without_a_reference_there_are_the_figures_that_need_none(run, sets, tmp_path):
    result = run(sets / "npz", "--format", "md", reference=None)
    assert result.exit_code == 0, result.stderr
    assert set(record(tmp_path).metrics) == {"inception_score", "class_accuracy"}
    assert record(tmp_path).reference == "none"
    assert "it needs a --reference." in result.stdout
    refused(run(sets / "npz", "--metrics", "fid", reference=None), "fid: it needs a --reference")


def test_a_record_that_cannot_be_written_is_one_line(run, sets, tmp_path):
    (tmp_path / "out").write_text("")
    result = run(sets / "npz", "--metrics", "fid")
    refused(result, "cannot be written")
