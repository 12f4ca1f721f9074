"""`bench.py edit` and `inpaint`: where a mask comes to lie, what is shown, what is measured."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import codevar
from bench.cli import app, pictures
from bench.quality import chosen, crops, edits, inpainting, sampling
from bench.quality.features import Extractor
from bench.study.errors import UsageError
from codevar import PRESETS
from codevar.mini.classifier import Classifier
from codevar.mini.world import World
from tests import ten_scales
from tests.ten_scales import SIDE

MIDDLE = (8, 8, 24, 24)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return ten_scales.write(tmp_path_factory.mktemp("weights"))


def loaded_of(weights):
    sets = [s.format(folder=weights) for s in ten_scales.SETTINGS]
    (case,) = chosen.cases_of(["var"], sets, "cpu", download=False)
    return sampling.load(case, download=False)


@pytest.fixture(scope="module")
def loaded(weights):
    return loaded_of(weights)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return CliRunner().invoke(app.app, [str(word) for word in words])

    return call


def picture(width, height, box=None):
    """Black, white inside the box."""
    pixels = np.zeros((height, width, 3), np.uint8)
    if box:
        pixels[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(pixels)


# Crops


@pytest.mark.parametrize("size", [(32, 32), (100, 40), (61, 200), (640, 480), (20, 17)])
def test_a_mask_lies_on_the_crop_where_its_box_lay_on_the_picture(size):
    width, height = size
    box = (width // 4, height // 3, 3 * width // 4, 2 * height // 3)
    crop = crops.Crop(width, height, SIDE)
    white = crop.image(picture(width, height, box)).mean(0)
    mask = crop.mask(crops.box_mask(box, width, height))
    assert mask.shape == white.shape == (SIDE, SIDE)
    differs = (white > 0.5) != mask.bool()
    edge = 2 * (SIDE + SIDE)  # a pixel's width along the box's outline, rounding of the scaling
    assert differs.sum() < edge / 2
    assert mask.any()


def test_the_crop_is_the_middle_square_and_keeps_a_picture_of_the_right_size():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    kept = crops.Crop(SIDE, SIDE, SIDE).image(noise) * 255
    assert torch.equal(kept.permute(1, 2, 0).to(torch.uint8), torch.from_numpy(np.array(noise)))
    bars = picture(300, 100, (100, 0, 200, 100))
    assert crops.Crop(300, 100, SIDE).image(bars).min() > 0.9


def test_a_mask_in_a_file_is_light_where_new_content_is_wanted(tmp_path):
    picture(20, 10, (5, 0, 20, 10)).save(tmp_path / "mask.png")
    mask = crops.file_mask(tmp_path / "mask.png", 20, 10)
    assert torch.equal(mask, crops.box_mask((5, 0, 20, 10), 20, 10))


# Edits


def asked(**values):
    usual = {"image": "mini:5", "label": 3, "own_class": True, "box": MIDDLE, "mask": None}
    return edits.Asked(**({**usual, "seed": 0} | values))


def test_before_mask_inpainted_and_edited_stand_side_by_side(loaded):
    what = edits.opened(asked())
    images, heads = edits.done(asked(), what, loaded)
    before, covered, inpainted, edited = images
    (wanted,), labels = World(SIDE).images("test", 5, 1)
    assert [head.words for head in heads] == ["before", "mask", "inpainted: heart", "edited: star"]
    assert int(labels) == 7
    assert torch.equal(before, wanted)
    x0, y0, x1, y1 = MIDDLE
    assert (covered[:, y0:y1, x0:x1] == edits.COVER).all()
    assert torch.equal(covered[:, :y0], before[:, :y0])
    mask = crops.box_mask(MIDDLE, SIDE, SIDE)
    for made, label in ((inpainted, 7), (edited, 3)):
        plain = codevar.edit(
            loaded.plan, loaded.vqvae, before[None], [label], mask, PRESETS["var"], [0], loaded.how
        )
        assert torch.equal(made, plain.images[0])


@pytest.mark.parametrize(
    ("values", "after"),
    [
        ({"own_class": False}, ["edited: star"]),
        ({"label": None}, ["inpainted: heart"]),
        ({"label": 7, "own_class": False}, ["inpainted: heart"]),
        ({"label": 7}, ["inpainted: heart"]),
    ],
)
def test_a_picture_of_known_class_is_inpainted_with_that_and_edited_with_others(values, after):
    wanted = edits.wanted_classes(asked(**values), 7)
    assert [f"{task}: {chosen.class_name(label, 10)}" for label, task in wanted] == after


def test_edit_writes_a_page_for_a_picture_of_any_size(bench, weights, tmp_path):
    picture(90, 50, (30, 10, 60, 40)).save(tmp_path / "photo.png")
    words = ["edit", "photo.png", "--class", 3, "--box", 30, 10, 60, 40, "--plan", "var"]
    words += ["--plan", "code", *ten_scales.words(weights), "--set", "refiner_depth=2"]
    result = bench(*words, "--set", "draft_steps=8", "--device", "cpu", "-o", "a.png")
    assert result.exit_code == 0, result.stderr
    assert Image.open(tmp_path / "a.png").width > 900
    assert (tmp_path / "a.pdf").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("photo.png --class 1", "with --box, or with --mask"),
        ("photo.png --class 1 --box 0 0 9 9 --mask photo.png", "with --box, or with --mask"),
        ("photo.png --class 1 --box 0 0 91 9", "inside the picture, 0 <= x0 < x1 <= 90"),
        ("photo.png --class 1 --box 9 9 9 20", "--box 9 9 9 20: must be x0 y0 x1 y1"),
        ("photo.png --class 1 --box 0 0 9 50", "no pixel of the middle square, 32 x 32"),
        ("mini:1 --class 1 --box 9 9 10 10", "covers none of the 16 x 16 cells of 2 pixels"),
        ("photo.png --class 1 --box 0 0 90 50", "covers all of the 16 x 16 cells"),
        ("photo.png --class 1 --mask small.png", "a mask must be of its picture's size, 90 x 50"),
        ("photo.png --class 10 --box 30 9 60 40", "--class 10: the classes of VAR-d3 are 0..9"),
        ("photo.png --box 30 9 60 40", "--class, or --own-class"),
        ("photo.png --own-class --box 30 9 60 40", "nothing says which class photo.png is"),
        (
            "none.png --class 1 --box 0 0 9 9",
            "none.png: no readable image (No such file or directory)",
        ),
        ("text.png --class 1 --box 0 0 9 9", "text.png: no readable image"),
        ("cut.png --class 1 --box 0 0 9 9", "cut.png: no readable image"),
        ("mini:1 --class 1 --box 0 0 9 33", "0 <= y0 < y1 <= 32"),
    ],
)
def test_a_mistake_of_edit_is_one_line(bench, weights, tmp_path, words, line):
    noise = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    Image.fromarray(noise).save("photo.png")
    picture(9, 9).save("small.png")
    (tmp_path / "text.png").write_text("no picture")
    whole = (tmp_path / "photo.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    options = [*ten_scales.words(weights), "--plan", "var", "--device", "cpu", "-o", "a.png"]
    result = bench("edit", *words.split(), *options)
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


# Inpainting, measured


def judge_that_says(label: int, shown: list[torch.Tensor]) -> Extractor:
    """A classifier that takes everything for one class, and keeps what it is shown."""

    def layers(images: torch.Tensor) -> dict[str, torch.Tensor]:
        shown.extend(images / 255)
        return {"logits": torch.eye(10)[[label] * len(images)]}

    return Extractor("one class", "0", False, {"logits": 10}, layers, torch.device("cpu"))


def test_the_distance_outside_is_to_the_original_and_the_floor_is_the_vqvaes(loaded):
    mask = crops.box_mask(MIDDLE, SIDE, SIDE)
    found = inpainting.measure(loaded, inpainting.MINI_WORLD, 5, mask, None, batch_size=2)
    images, labels = World(SIDE).images("test", 0, 5)
    seeds = [inpainting.image_seed(0, i) for i in range(5)]
    made = inpainting.edited(loaded, images, labels, mask, seeds)
    restored = loaded.vqvae.decode(loaded.vqvae.encode(images))
    kept = mask == 0
    for key, shown in (("psnr_outside_db", made), ("psnr_outside_vqvae_db", restored)):
        mse = np.square((shown - images)[:, :, kept].double().numpy()).mean()
        assert found[key] == pytest.approx(-10 * math.log10(mse), abs=1e-4)
    gap = found["psnr_outside_vqvae_db"] - found["psnr_outside_db"]
    assert found["outside_error_of_vqvae"] == pytest.approx(10 ** (-gap / 10))
    assert (found["images"], found["cells"], found["box"]) == (5, 64, [*MIDDLE])
    assert "class_accuracy" not in found


def test_class_accuracy_is_of_the_class_that_was_wanted(loaded):
    mask = crops.box_mask(MIDDLE, SIDE, SIDE)
    _, labels = World(SIDE).images("test", 0, 12)
    for another in (False, True):
        wanted = (labels + 1) % 10 if another else labels
        judge = judge_that_says(int(wanted[0]), [])
        found = inpainting.measure(loaded, inpainting.MINI_WORLD, 12, mask, judge, another)
        share = float((wanted == wanted[0]).double().mean())
        assert found["class_accuracy"] == found["class_accuracy_inside"] == share
        assert found["class_accuracy_original"] == float((labels == wanted[0]).double().mean())
        low, high = found["class_accuracy_interval"]
        assert 0 <= low < share < high <= 1


def test_the_inside_is_all_that_the_classifier_is_shown_of_it(loaded):
    seen = []
    judge = judge_that_says(0, seen)
    mask = torch.zeros(SIDE, SIDE)
    mask[4:12, 8:28] = 1
    mask[4:8, 8:12] = 0
    found = inpainting.measure(loaded, inpainting.MINI_WORLD, 1, mask, judge)
    assert found["box"] == [8, 4, 28, 12]
    made, original, _, made_inside, original_inside = seen
    new = mask.bool()
    for shown, whole in ((made_inside, made), (original_inside, original)):
        torch.testing.assert_close(shown[:, new], whole[:, new])
        colours = shown[:, ~new]
        torch.testing.assert_close(colours, colours[:, :1].expand_as(colours))
        torch.testing.assert_close(colours[:, 0], whole[:, ~new].mean(1))


def test_classes_of_a_folder_take_turns(tmp_path):
    for label, count in (("a", 3), ("b", 1), ("c", 2)):
        (tmp_path / label).mkdir()
        for i in range(count):
            picture(40, 30).save(tmp_path / label / f"{i}.png")
    folder = inpainting.folder(tmp_path)
    batches = list(folder.batches(SIDE, 6, 4))
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 0], [2, 0]]
    assert batches[0][0].shape == (4, 3, SIDE, SIDE)
    with pytest.raises(UsageError, match="6 pictures, not 7"):
        list(folder.batches(SIDE, 7, 4))


def test_inpaint_adds_a_record_for_each_method(bench, weights, tmp_path):
    save_file(Classifier().state_dict(), "judge.safetensors")
    words = ["inpaint", "var", "code", *ten_scales.words(weights), "--set", "refiner_depth=2"]
    words += ["--set", "draft_steps=6,8", "--count", 3, "--device", "cpu", "--format", "json"]
    result = bench(*words, "--classifier", "judge.safetensors", "--out", "kept")
    assert result.exit_code == 0, result.stderr
    lines = [json.loads(line) for line in (tmp_path / "kept/inpainting.jsonl").open()]
    assert [line["label"] for line in lines] == [
        "VAR-d3",
        "CoDe N=6 (d3+d2)",
        "CoDe N=8 (d3+d2)",
    ]
    assert [row["label"] for row in json.loads(result.stdout)] == [x["label"] for x in lines]
    for line in lines:
        assert line["case"]["weights"] == str(weights)
        assert line["source"] == "mini:test"
        assert line["images"] == 3
        assert len(line["classifier_sha256"]) == 64
    assert len({line["psnr_outside_vqvae_db"] for line in lines}) == 1
    assert len({line["psnr_outside_db"] for line in lines}) == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("var --images nowhere", "--images nowhere: neither mini:test nor a folder"),
        ("var --images folder", "folder has 1 classes, VAR-d3 10"),
        ("var --images empty", "empty"),
        ("var --box 0 0 40 9", "inside the picture, 0 <= x0 < x1 <= 32"),
        ("var --classifier nothing", "nothing: no such classifier"),
        ("var --classifier text", "text: no classifier's weights"),
        ("var --out /proc/x", "/proc/x: cannot be written"),
    ],
)
def test_a_mistake_of_inpaint_is_one_line_and_no_record(bench, weights, tmp_path, words, line):
    (tmp_path / "folder" / "one").mkdir(parents=True)
    picture(9, 9).save("folder/one/a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no classifier")
    options = [*ten_scales.words(weights), "--count", 2, "--device", "cpu"]
    result = bench("inpaint", *words.split(), *options)
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("inpainting.jsonl"))
