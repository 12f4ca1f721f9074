"""The image set by program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import read_image

from codevar.mini.world import CLASSES, World, main, picture

DOCS = Path(__file__).parents[2] / "docs"


def test_any_stretch_can_be_made_without_the_rest():
    world = World()
    images, labels = world.images("train", 0, 40)
    part, part_labels = world.images("train", 13, 9)
    assert torch.equal(part, images[13:22])
    assert torch.equal(part_labels, labels[13:22])


def test_seeds_and_splits_are_apart():
    images = World().images("train", 0, 30)[0]
    assert torch.equal(images, World().images("train", 0, 30)[0])
    for other in (World().images("test", 0, 30)[0], World(seed=1).images("train", 0, 30)[0]):
        assert (images - other).abs().amax(dim=(1, 2, 3)).min() > 0.1


def test_images_are_in_range_and_of_all_classes():
    for side in (48, 64):
        images, labels = World(side).images("train", 0, 300)
        assert images.shape == (300, 3, side, side)
        assert images.min() >= 0
        assert images.max() <= 1
        share = labels.bincount(minlength=len(CLASSES)) / 300
        assert len(share) == len(CLASSES)
        assert share.min() > 0.04


def test_a_draw_just_below_one_is_still_the_last_of_its_kind(monkeypatch):
    """As a float32 it would be 1: a hue and a class past the last."""

    class Highest:
        def __init__(self, stream):
            pass

        def random(self, shape):
            return np.full(shape, 1 - 2.0**-53)

    monkeypatch.setattr(np.random, "Generator", Highest)
    images, labels = World(16).images("train", 0, 2)
    assert labels.tolist() == [len(CLASSES) - 1] * 2
    assert images.isfinite().all()


def test_every_class_has_its_own_silhouette():
    world = World()
    one_place = {"x": 32.0, "y": 32.0, "radius": 64 * 0.35, "tilt": 0.0}
    factors = {name: torch.full((len(CLASSES),), value) for name, value in one_place.items()}
    cover = world._coverage(factors | {"shape": torch.arange(len(CLASSES))})
    for one in range(len(CLASSES)):
        for other in range(one):
            apart = (cover[one] - cover[other]).abs().mean()
            assert apart > 0.02, (CLASSES[one], CLASSES[other])


def test_the_picture_of_the_docs_is_this_world():
    shown = read_image(str(DOCS / "pictures" / "mini-world.png")) / 255
    assert (shown - picture()).abs().max() < 0.01


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: "),
        (["a.png", "b.png"], "usage: "),
        (["--help"], "usage: "),
        (["nowhere/a.png"], "nowhere/a.png: the picture cannot be written (No such file"),
        (["a.nonsense"], "unknown file extension"),
        (["."], "unknown file extension"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


def test_the_picture_is_written(tmp_path):
    assert main([str(tmp_path / "world.png")]) == 0
    assert (read_image(str(tmp_path / "world.png")) / 255 - picture()).abs().max() < 0.01
