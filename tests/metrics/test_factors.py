"""What a set of images of the mini world lost, by factor; and how well the shipped reader reads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.metrics import METRICS, Given
from bench.metrics.factors import CELLS, FACTORS, cells
from bench.metrics.jackknife import Groups
from codevar.files import SHIPPED
from codevar.mini.factors import PLACE, FactorReader, load_factor_reader, of_side, told
from codevar.mini.world import CHOICES, World

COUNT, FIRST = 400, 20_000
WORLD = World(48)


@pytest.fixture(scope="module")
def reader() -> FactorReader:
    return load_factor_reader(SHIPPED["mini_factors"]).requires_grad_(False)


@pytest.fixture(scope="module")
def real():
    """Test images that the reader has not seen."""
    return WORLD.images("test", FIRST, COUNT)[0]


@pytest.fixture(scope="module")
def given(reader, real):
    """Of images whose baseline and reference are real."""
    own, other = reader(real), reader(WORLD.images("test", 0, COUNT)[0])

    def of(images: torch.Tensor) -> Given:
        samples, base = {"factors": reader(images)}, {"factors": own}
        labels, groups = WORLD.factors("test", FIRST, COUNT)["shape"], Groups.deal(COUNT)
        return Given(samples, {"factors": other}, {}, labels, groups, baseline=base)

    return of


def test_the_reader_is_right_about_real_images(reader, real):
    """In 99 of 100 at least; about place and size to a pixel."""
    true, read = of_side(WORLD.factors("test", FIRST, COUNT), 48), told(reader(real))
    for name in CHOICES:
        assert (read[name].argmax(1) == true[name]).double().mean() >= 0.99, name
    for name in PLACE:
        assert ((read[name] - true[name]).abs() <= 1 / 48).double().mean() >= 0.99, name


def value(name: str, given: Given) -> float:
    return METRICS[name].compute(given).value


def test_figures_say_what_was_lost(given, real):
    """A blur takes the texture; a shift takes the place; colours turned round take the hues."""
    lost = {
        "texture": F.interpolate(F.avg_pool2d(real, 8), scale_factor=8, mode="bilinear"),
        "position": torch.roll(real, (4, 4), (2, 3)),
        "hue": real.flip(1),
    }
    same = given(real)
    assert all(value(f"{name}_agreement", same) == 1 for name in FACTORS)
    for factor, images in lost.items():
        found = given(images)
        agree = {name: value(f"{name}_agreement", found) for name in FACTORS}
        assert min(agree, key=lambda name: agree[name]) == factor, agree
        name = f"{factor}_distance"
        assert value(name, found) > value(name, same) + 0.05


def test_a_distance_is_that_of_the_histograms_and_its_replicates_of_the_rest(given, real):
    at = given(real)
    ours, theirs = (cells(side["factors"]) for side in (at.samples, at.references))
    apart = [
        ours[part].bincount(minlength=CELLS[part]) - theirs[part].bincount(minlength=CELLS[part])
        for part in FACTORS["hue"]
    ]
    wanted = sum(int(counts.abs().sum()) for counts in apart) / COUNT / 4
    assert value("hue_distance", at) == pytest.approx(wanted)
    assert value("shape_accuracy", at) >= 0.99
    less = Given(
        {"factors": at.samples["factors"][at.groups.kept()[3][at.groups.group_N]]},
        at.references,
        {},
        None,
        None,
    )
    for name in FACTORS:
        of_rest = METRICS[f"{name}_distance"].compute(at).replicates[3]
        assert of_rest == pytest.approx(value(f"{name}_distance", less))
