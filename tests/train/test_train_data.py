"""Folders of images, token maps on disk, augmentation."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import codevar
from codevar.train import checkpoint, parallel
from codevar.train.data import Tokens, open_images, open_tokens
from codevar.train.recipes import DataConfig
from codevar.train.step import Step
from tests.train.small import config, files, refused, same, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    files(path)
    return path


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Twelve pictures of two classes, of all sizes."""
    draw = np.random.default_rng(0)
    for n in range(12):
        place = tmp_path / "pictures" / f"class_{n % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 255, (10 + n, 20 - n, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{n:02}.png")
    return tmp_path / "pictures"


def on_pictures(folder: Path, tmp_path: Path, recipe: str = "var", **changes) -> dict:
    data = {"source": "folder", "folder": str(tmp_path / "pictures"), "side": 8, "workers": 0}
    values = config(folder, recipe, data=data | {"tokens": str(tmp_path / "tokens")}, **changes)
    return values | {"batch_size": 4}


def tokens_of(config: DataConfig, vqvae):
    told: list[str] = []
    source = open_tokens(config, vqvae, parallel.join("cpu"), told.append)
    return source, told


def test_a_folder_trains_and_goes_on_with_workers_as_without(folder, tmp_path, pictures):
    values = on_pictures(folder, tmp_path, mixup=0.2)
    values["data"] |= {"flip": True, "randaugment": True}
    alone = train(values | {"out": str(tmp_path / "alone")})
    values["data"] |= {"workers": 2}
    assert same(train(values | {"out": str(tmp_path / "workers")}), alone)


def test_token_maps_are_computed_once(folder, tmp_path, pictures):
    vqvae = codevar.load_vqvae(folder / "vqvae.safetensors", device="cpu")
    data = on_pictures(folder, tmp_path)["data"]
    once, told = tokens_of(DataConfig(**data), vqvae)
    assert told
    again, told = tokens_of(DataConfig(**data), vqvae)
    assert not told
    assert torch.equal(once.tokens, again.tokens)
    assert once.tokens.shape == (12, 1, 30)
    flipped, told = tokens_of(DataConfig(**data | {"flip": True}), vqvae)
    assert told
    assert torch.equal(flipped.tokens[:, :1], once.tokens)
    vqvae.quantize.embedding.weight.data += 1
    _, told = tokens_of(DataConfig(**data), vqvae)
    assert told


def test_token_maps_are_those_of_the_images(folder, tmp_path):
    vqvae = codevar.load_vqvae(folder / "vqvae.safetensors", device="cpu")
    data = DataConfig(source="mini", side=8, images=5, tokens=str(tmp_path))
    source, _ = tokens_of(data, vqvae)
    step = Step(3, 9, 7, 5, range(5))
    ((_, batch),) = source.stream(iter([step]))
    images, labels = open_images(data, CPU).world.images("train", 0, 5)
    wanted = {tuple(row) for row in torch.cat((labels[:, None], vqvae.encode(images)), 1).tolist()}
    rows = torch.cat((batch["labels"][:, None], batch["tokens"]), 1).tolist()
    assert {tuple(row) for row in rows} == wanted  # an epoch is every image once
    source, _ = tokens_of(data.model_copy(update={"tokens": ""}), vqvae)  # none are kept
    ((_, batch),) = source.stream(iter([step]))
    images, labels = open_images(data, CPU).world.images("train", 15, 5)  # nor does one come twice
    assert torch.equal(batch["tokens"], vqvae.encode(images))
    assert torch.equal(batch["labels"], labels)


def test_two_runs_that_need_the_same_token_maps_make_them_once(folder, tmp_path):
    """The second comes while the first is at it."""
    vqvae = codevar.load_vqvae(folder / "vqvae.safetensors", device="cpu")
    data = DataConfig(source="mini", side=8, images=5, tokens=str(tmp_path))
    second: list[Tokens] = []
    second_told = threading.Event()

    def come(tell) -> None:
        second.append(open_tokens(data, vqvae, parallel.join("cpu"), tell))

    thread = threading.Thread(target=come, args=[lambda line: second_told.set()])

    def tell(line: str) -> None:
        thread.start()
        second_told.wait(timeout=1)  # in vain: the second has to wait for the first

    first = open_tokens(data, vqvae, parallel.join("cpu"), tell)
    thread.join()
    assert not second_told.is_set()
    assert torch.equal(second[0].tokens, first.tokens)


def test_damaged_token_maps(folder, tmp_path):
    values = config(folder, "var", out=str(tmp_path / "o"))
    values["data"]["tokens"] = str(tmp_path / "tokens")
    train(values)
    (path,) = (tmp_path / "tokens").glob("*.safetensors")
    kept = load_file(path)
    kept["tokens"][0, 0, 0] += 1
    save_file(kept, path, {"sha256": "0" * 64})
    with refused(str(path), "damaged token maps; delete the file"):
        train(values | {"out": str(tmp_path / "p")})


@pytest.mark.parametrize("randaugment", [False, True])
def test_unreadable_images_are_named(folder, tmp_path, pictures, randaugment):
    for name in ("class_0/00.png", "class_1/05.png"):
        (pictures / name).write_bytes(b"no picture")
    values = on_pictures(folder, tmp_path)
    values["data"] |= {"randaugment": randaugment}
    with refused("unreadable images", *(["00.png", "05.png"] if not randaugment else [".png"])):
        train(values | {"batch_size": 12, "out": str(tmp_path / "o")})


def test_classes_that_do_not_match(folder, tmp_path, pictures):
    with refused("init has 10 classes, the data 2"):
        train(on_pictures(folder, tmp_path, "perturb") | {"out": str(tmp_path / "o")})


def test_a_folder_without_classes(folder, tmp_path):
    (tmp_path / "pictures").mkdir()
    with refused("data:", "pictures"):
        train(on_pictures(folder, tmp_path) | {"out": str(tmp_path / "o")})


def test_what_was_found_is_said_before_training(folder, tmp_path, pictures):
    (pictures / "readme.txt").write_text("")
    (tmp_path / "more").mkdir()
    (pictures / "class_0").rename(tmp_path / "more" / "class_0")
    (pictures / "class_0").symlink_to(tmp_path / "more" / "class_0")
    source = open_images(DataConfig(**on_pictures(folder, tmp_path)["data"]), CPU)
    found = "12 images of 2 classes, in this order: class_0, class_1; no pictures and left out"
    assert source.told() == f"data: {pictures}: {found}: readme.txt"
    (pictures / "class_0" / "again").symlink_to(pictures)
    with refused("again/class_0: a link back to a folder that it lies in"):
        open_images(source.config, CPU)


def test_each_row_draws_the_same_however_the_batch_is_split():
    whole = Step(3, 9, 7, 8, range(8))
    parts = [replace(whole, rows=range(n, n + 2)) for n in range(0, 8, 2)]
    joined = np.concatenate([part.uniform("label dropout") for part in parts])
    assert np.array_equal(joined, whole.uniform("label dropout"))
    assert whole.draw("subnet").random() == parts[2].draw("subnet").random()
    assert whole.draw("subnet").random() != whole.draw("mixup").random()


def test_class_folders_are_labelled_by_value_and_the_card_lists_them(folder, tmp_path, pictures):
    for name in ("10", "9", "2", ".ipynb_checkpoints", "__MACOSX"):
        (pictures / name).mkdir()
        (pictures / name / "a.png").write_bytes((pictures / "class_0" / "00.png").read_bytes())
    (pictures / "2" / "._a.png").write_bytes(b"no picture")
    source = open_images(DataConfig(**on_pictures(folder, tmp_path)["data"]), CPU)
    assert list(source.classes) == ["2", "9", "10", "class_0", "class_1"]
    assert [label for path, label in source.samples if Path(path).parent.name == "10"] == [2]
    assert len(source) == 15
    path = train(on_pictures(folder, tmp_path, out=str(tmp_path / "o"), steps=2))
    card = json.loads(path.with_name(checkpoint.CARD).read_text())
    assert card["classes"] == list(source.classes)
