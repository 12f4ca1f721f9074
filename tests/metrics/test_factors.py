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

COUNT = 500


@pytest.fixture(scope="module")
def reader() -> FactorReader:
    return load_factor_reader(SHIPPED["mini_factors"])


@pytest.fixture(scope="module")
def real():
    """Test images that the reader has not seen."""
    return World(48).images("test", 20_000, COUNT)[0]


@torch.no_grad()
def given(reader, images, base, labels=None) -> Given:
    other = World(48).images("test", 0, COUNT)[0]
    of = {"samples": images, "references": other, "baseline": base}
    read = {what: {"factors": reader(of_what)} for what, of_what in of.items()}
    return Given(**read, gaussians={}, labels_N=labels, groups=Groups.deal(COUNT))


@torch.no_grad()
def test_the_reader_is_right_about_real_images(reader):
    """In 99 of 100 at least; about place and size to a pixel."""
    true = of_side(World(48).factors("test", 20_000, COUNT), 48)
    read = told(reader(World(48).images("test", 20_000, COUNT)[0]))
    for name in CHOICES:
        assert (read[name].argmax(1) == true[name]).double().mean() >= 0.99, name
    for name in PLACE:
        assert ((read[name] - true[name]).abs() <= 1 / 48).double().mean() >= 0.99, name


def test_figures_say_what_was_lost(reader, real):
    """A blur takes the texture; a shift takes the place; colours turned round take the hues."""
    lost = {
        "texture": F.interpolate(F.avg_pool2d(real, 8), scale_factor=8, mode="bilinear"),
        "position": torch.roll(real, (4, 4), (2, 3)),
        "hue": real.flip(1),
    }
    for factor, images in lost.items():
        found = {
            (name, what): METRICS[f"{name}_{what}"].compute(given(reader, images, real))
            for name in FACTORS
            for what in ("distance", "agreement")
        }
        agree = {name: found[name, "agreement"].value for name in FACTORS}
        assert min(agree, key=lambda name: agree[name]) == factor, agree
        before = METRICS[f"{factor}_distance"].compute(given(reader, real, real)).value
        assert found[factor, "distance"].value > before + 0.05
    same = given(reader, real, real)
    assert all(METRICS[f"{name}_agreement"].compute(same).value == 1 for name in FACTORS)


def test_a_distance_is_that_of_the_histograms_and_its_replicates_of_the_rest(reader, real):
    labels = World(48).images("test", 20_000, COUNT)[1]
    at = given(reader, real, real, labels)
    ours, theirs = (cells(side["factors"]) for side in (at.samples, at.references))
    share = {
        part: [side[part].bincount(minlength=CELLS[part]) / COUNT for side in (ours, theirs)]
        for part in FACTORS["hue"]
    }
    wanted = sum(float((one - other).abs().sum()) / 2 for one, other in share.values()) / 2
    assert METRICS["hue_distance"].compute(at).value == pytest.approx(wanted)
    assert METRICS["shape_accuracy"].compute(at).value >= 0.99
    kept = at.groups.masks()[3]
    less = Given({"factors": at.samples["factors"][kept]}, at.references, {}, None, None)
    for name in FACTORS:
        alone = METRICS[f"{name}_distance"].compute(less).value
        assert METRICS[f"{name}_distance"].compute(at).replicates[3] == pytest.approx(alone)
