"""Image quality without a reference: NIQE's arithmetic, weights that are not there, records."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import Image
from scipy.io import loadmat
from scipy.ndimage import correlate
from scipy.special import gamma
from scipy.stats import t as student
from typer.testing import CliRunner

from bench.cli import app, pictures
from bench.quality import features, iqa
from bench.quality.images import open_images
from bench.study.errors import UsageError

pyiqa = pytest.importorskip("pyiqa", reason="pip install -e '.[iqa]'")
CPU = torch.device("cpu")

# NIQE after Mittal, Soundararajan and Bovik (2013), in float64, without pyiqa.

ALPHA = np.arange(0.2, 10.0005, 0.001)
RATIO = gamma(2 / ALPHA) ** 2 / (gamma(1 / ALPHA) * gamma(3 / ALPHA))


def asymmetric(x):
    """Shape, left and right scale of a generalised Gaussian (their Eq. 4 to 7)."""
    left, right = np.sqrt(np.mean(x[x < 0] ** 2)), np.sqrt(np.mean(x[x > 0] ** 2))
    g = left / right
    r = np.mean(np.abs(x)) ** 2 / np.mean(x**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alpha = ALPHA[np.argmin((RATIO - r) ** 2)]
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, left * scale, right * scale


def features_of(block):
    """(18,)"""
    alpha, left, right = asymmetric(block)
    found = [alpha, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        alpha, left, right = asymmetric(block * np.roll(block, shift, (0, 1)))
        mean = (right - left) * gamma(2 / alpha) / gamma(1 / alpha)
        found += [alpha, mean, left, right]
    return found


def halved(image):
    """By a bicubic that is twice as wide, as MATLAB's imresize does it."""

    def along(rows):
        n = len(rows)
        places = 2 * np.arange(n // 2)[:, None] + np.arange(-3, 5)
        t = np.abs(places - (2 * np.arange(n // 2)[:, None] + 0.5)) / 2
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        weight = np.where(t <= 1, near, np.where(t <= 2, far, 0))
        weight /= weight.sum(1, keepdims=True)
        places = np.where(places < 0, -places - 1, places)
        places = np.where(places >= n, 2 * n - 1 - places, places)
        return np.einsum("op,opw->ow", weight, rows[places])

    return along(along(image).T).T


def niqe(image):
    """Of (H, W, 3) uint8."""
    grey = np.round(image @ np.array([0.299, 0.587, 0.114]))
    rows, columns = (n // 96 for n in grey.shape)
    grey = grey[: rows * 96, : columns * 96]
    window = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(window, window) / window.sum() ** 2
    scales = []
    for side in (96, 48):
        mean = correlate(grey, window, mode="nearest")
        spread = np.sqrt(np.abs(correlate(grey**2, window, mode="nearest") - mean**2))
        whitened = (grey - mean) / (spread + 1)
        blocks = whitened.reshape(rows, side, columns, side).swapaxes(1, 2)
        scales.append([features_of(block) for block in blocks.reshape(-1, side, side)])
        grey = halved(grey)
    found = np.hstack(scales)
    parameters = loadmat(iqa.NIQE_PARAMETERS)
    away = parameters["mu_prisparam"][0] - found.mean(0)
    spread = (parameters["cov_prisparam"] + np.cov(found, rowvar=False)) / 2
    return float(np.sqrt(away @ np.linalg.pinv(spread) @ away))


@pytest.fixture(scope="module")
def photo():
    """(H, W, 3) uint8: matplotlib's photograph."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.array(Image.open(file).convert("RGB"))


def of_pyiqa(*images):
    network, _ = iqa.extractor_of(["niqe"], images[0].shape[:2], None, False, CPU)
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return network.layers(batch)["niqe"].flatten().tolist()


def test_niqe_is_the_papers_arithmetic(photo):
    square = photo[100:356, 100:356]
    blurred = np.array(Image.fromarray(square).resize((64, 64)).resize((256, 256)))
    wanted = [niqe(square), niqe(blurred)]
    assert wanted[1] > 2 * wanted[0]
    assert of_pyiqa(square, blurred) == pytest.approx(wanted, rel=0.005)


def test_niqe_of_a_picture_does_not_depend_on_its_batch(photo):
    one, other = photo[:192, :256], photo[300:492, 200:456]
    assert of_pyiqa(one, other) == pytest.approx([*of_pyiqa(one), *of_pyiqa(other)], rel=1e-9)


# What LIVE's MATLAB code gives for the pictures that come with pyiqa, as pyiqa's authors measured
# it (ResultsCalibra/results_official.csv of IQA-PyTorch).
MATLAB = {"I03": 15.7536, "I04": 3.65492, "I06": 3.23548, "I08": 3.18403, "I19": 8.63520}
PICTURES = Path(pyiqa.__file__).parents[1] / "ResultsCalibra" / "dist_dir"


@pytest.mark.skipif(not PICTURES.is_dir(), reason="this pyiqa comes without its pictures")
@pytest.mark.parametrize("name", MATLAB)
def test_niqe_is_what_live_published(name):
    image = np.array(Image.open(PICTURES / f"{name}.bmp").convert("RGB"))
    noisy = name == "I19"
    assert of_pyiqa(image) == pytest.approx([MATLAB[name]], rel=0.06 if noisy else 0.01)


# The command


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Without a cache of weights, and without a network."""
    monkeypatch.setattr(pictures, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(features, "default_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", forbidden)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return CliRunner().invoke(app.app, [str(word) for word in words])

    return call


def forbidden(*_, **__):
    raise AssertionError("nothing may be fetched")


@pytest.fixture
def squares(photo, tmp_path):
    """A folder of three pictures."""
    folder = tmp_path / "squares"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(photo[80 * i : 80 * i + 200, :200]).save(folder / f"{i}.png")
    return folder


def test_iqa_writes_means_and_says_what_it_lacks(bench, squares, tmp_path):
    result = bench("iqa", squares, "--out", "kept", "--device", "cpu", "--format", "md")
    assert result.exit_code == 0, result.stderr
    (line,) = [json.loads(text) for text in (tmp_path / "kept/evaluations.jsonl").open()]
    each = [of_pyiqa(np.array(Image.open(file)))[0] for file in sorted(squares.iterdir())]
    mean, half = np.mean(each), student.ppf(0.975, 2) * np.std(each, ddof=1) / math.sqrt(3)
    assert line["metrics"] == {"niqe": pytest.approx(mean)}
    assert line["intervals"]["niqe"] == pytest.approx([mean - half, mean + half])
    assert line["images"] == 3
    assert line["published"]
    assert f"{mean:.4f}" in result.stdout
    for name in ("musiq", "clipiqa"):
        assert f"Without {name}" in result.stdout


def test_a_sample_sets_case_goes_into_the_record(bench, photo, tmp_path):
    case = {"method": "var", "depth": 16, "weights": "published"}
    here = {"machine": "a", "torch": None, "commit": None, "dirty": None}
    what = {"schema": 1, "case": case, "label": "VAR-d16", "preset": "var", "seed": 0}
    what |= {"per_class": 1, "classes": 2, "images": 2, "side": 192, "format": "png"}
    sampling = {name: [] for name in ("cfg", "top_k", "top_p", "temperature")}
    what |= {"sampling": {**sampling, "more_smooth": False}, "sources": ["var_d16"], "runs": []}
    what |= {"weights_sha256": {"var_d16": "0a"}, "finished": True, "images_per_s": None}
    shard = tmp_path / "set" / "shard-00000"
    shard.mkdir(parents=True)
    for i in range(2):
        Image.fromarray(photo[:192, 192 * i : 192 * (i + 1)]).save(shard / f"{i:08d}.png")
    manifest = json.dumps({**what, **here, "waited_for_writing_s": None})
    (tmp_path / "set" / "samples.json").write_text(manifest)
    result = bench("iqa", "set", "--metrics", "niqe", "--out", "kept", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    line = json.loads((tmp_path / "kept/evaluations.jsonl").read_text())
    assert line["case"] == case
    assert line["weights_sha256"] == {"var_d16": "0a"}
    assert "VAR-d16" in result.stdout


def test_an_npz_scores_as_its_pictures_do(squares, tmp_path):
    images = np.stack([np.array(Image.open(file)) for file in sorted(squares.iterdir())])
    np.savez(tmp_path / "a.npz", arr_0=images)
    network, _ = iqa.extractor_of(["niqe"], (200, 200), None, False, CPU)
    one, other = (
        features.extract(open_images(path), network, ["niqe"], tmp_path / "cache", 2).layers["niqe"]
        for path in (squares, tmp_path / "a.npz")
    )
    assert sorted(one.flatten().tolist()) == pytest.approx(sorted(other.flatten().tolist()))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("squares --metrics musiq", "musiq: musiq_koniq_ckpt-e95806b9.pth"),
        ("squares --metrics clipiqa", "name its folder with --weights, or fetch it"),
        ("squares --metrics niqe,nope", "--metrics nope: no such metric; there are niqe, musiq"),
        ("squares --metrics musiq --weights w", "w/musiq_koniq_ckpt-e95806b9.pth does not hold"),
        ("squares --metrics clipiqa --weights w", "w/RN50.pt does not hold OpenAI's CLIP RN50"),
        ("small --metrics niqe", "pictures of 191 x 191 have fewer than two"),
        ("small", "Without niqe: "),
        ("flat --metrics niqe", "flat: the niqe features of image 0 are not finite"),
        ("mixed --metrics niqe", "images of one set must be of one size"),
        ("empty --metrics niqe", "no picture in this folder"),
        ("nowhere --metrics niqe", "No such file or directory"),
        ("bad.npz --metrics niqe", "bad.npz: damaged or no .npz"),
        ("float.npz --metrics niqe", "arr_0 must be uint8 (N, H, W, 3)"),
        ("cut --metrics niqe", "300.png: no readable image"),
        ("squares --metrics niqe --out /proc/x", "/proc/x: cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_no_record(bench, squares, tmp_path, words, line):
    for name, sizes in (("small", [191]), ("flat", [200]), ("mixed", [200, 210]), ("cut", [300])):
        (tmp_path / name).mkdir()
        for size in sizes:
            Image.new("RGB", (size, size), "red").save(tmp_path / name / f"{size}.png")
    whole = (squares / "0.png").read_bytes()
    (tmp_path / "cut" / "300.png").write_bytes(whole[:2000])
    (tmp_path / "empty").mkdir()
    (tmp_path / "w").mkdir()
    for weights in ("musiq_koniq_ckpt-e95806b9.pth", "RN50.pt"):
        (tmp_path / "w" / weights).write_bytes(b"no weights")
    (tmp_path / "bad.npz").write_bytes(b"PK")
    np.savez(tmp_path / "float.npz", arr_0=np.zeros((2, 200, 200, 3)))
    result = bench("iqa", *words.split(), "--device", "cpu")
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("evaluations.jsonl"))


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_there_are_used_and_told_from_the_published(bench, squares, tmp_path):
    """Random weights in the published forms: a state dict, and a TorchScript archive."""
    from pyiqa.archs.clip_model import CLIP
    from pyiqa.archs.musiq_arch import MUSIQ

    torch.manual_seed(0)
    folder = tmp_path / "w"
    folder.mkdir()
    torch.save(MUSIQ(pretrained=False).state_dict(), folder / "musiq_koniq_ckpt-e95806b9.pth")
    clip = CLIP(64, 32, (1, 1, 1, 1), 8, None, 77, 49408, 64, 1, 1).eval()
    words = torch.zeros(1, 77, dtype=torch.long)
    torch.jit.trace(clip, (torch.rand(1, 3, 32, 32), words)).save(str(folder / "RN50.pt"))
    result = bench("iqa", squares, "--weights", folder, "--out", "kept", "--format", "md")
    assert result.exit_code == 0, result.stderr
    line = json.loads((tmp_path / "kept/evaluations.jsonl").read_text())
    assert set(line["metrics"]) == {"niqe", "musiq", "clipiqa"}
    assert 0 <= line["metrics"]["clipiqa"] <= 1
    assert not line["published"]
    assert "not the published ones" in result.stdout


def test_without_pyiqa_it_says_what_to_install(bench, squares, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    result = bench("iqa", squares, "--metrics", "niqe")
    assert result.exit_code == 2
    assert result.stderr == ("bench.py: image-quality scores need pyiqa: pip install -e '.[iqa]'\n")


def test_nothing_is_unpickled(bench, squares, tmp_path):
    """pyiqa's own loading would run what a file says."""

    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    folder = tmp_path / "w"
    folder.mkdir()
    for file in ("musiq_koniq_ckpt-e95806b9.pth", "RN50.pt"):
        torch.save({"a": Harm()}, folder / file)
    for name in ("musiq", "clipiqa"):
        result = bench("iqa", squares, "--metrics", name, "--weights", folder)
        assert result.exit_code == 2
        assert "does not hold" in result.stderr
    assert not (tmp_path / "harm").exists()


def test_an_unknown_metric_is_refused_before_pictures_are_read():
    with pytest.raises(UsageError, match="no such metric"):
        iqa.extractor_of(["fid"], (256, 256), None, False, CPU)
