"""Fourier spectra of scales: known signals, and the shipped world."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import codevar
from bench.cli import app
from bench.quality import spectra
from bench.quality.spectra import spectrum
from codevar.mini.world import World
from tests import ten_scales

SIDE = 12


def wave(cycles_x, cycles_y=0, height=1.0):
    """(1, 1, h, w) a cosine of so many cycles a side."""
    at = 2 * math.pi * torch.arange(SIDE) / SIDE
    return height * torch.cos(cycles_x * at[None, :] + cycles_y * at[:, None])[None, None]


@pytest.mark.parametrize(
    ("maps", "ring"),
    [
        (torch.ones(1, 1, SIDE, SIDE), 0),
        (wave(1), 1),
        (wave(0, 2), 2),
        (wave(3, 4), 5),
        (wave(6), 6),
    ],
)
def test_a_wave_lies_at_its_own_frequency_in_any_direction(maps, ring):
    found = spectrum(maps)
    assert found.cycles.tolist() == list(range(7))
    assert found.energy[ring] == pytest.approx(1)
    assert found.amplitude.argmax() == ring
    assert found.high == pytest.approx(float(ring > 3))


def test_amplitude_is_the_maps_own_and_the_mean_over_images_and_channels():
    assert spectrum(torch.full((2, 3, SIDE, SIDE), -2.0)).amplitude[0] == pytest.approx(2)
    mixed = torch.cat([torch.full((1, 1, SIDE, SIDE), 4.0), wave(3)])
    assert spectrum(mixed).amplitude[0] == pytest.approx(2)
    # 16 of energy at 0; a cosine has half of its height squared.
    assert spectrum(mixed).energy[[0, 3]] == pytest.approx([16 / 16.5, 0.5 / 16.5])


def test_nothing_added_has_a_spectrum_too():
    found = spectrum(torch.zeros(1, 1, SIDE, SIDE))
    assert found.energy.tolist() == [0] * 7
    assert found.high == 0


def test_what_the_scales_add_is_what_the_decoder_reads():
    vqvae = codevar.load_vqvae("mini_vqvae", device="cpu")
    tokens = vqvae.encode(World(48).images("test", 0, 2)[0])
    *_, f_hat = vqvae.quantize.partial_sums(tokens, vqvae.scales)
    assert torch.allclose(sum(spectra.residuals(vqvae, tokens)), f_hat, atol=1e-5)


def test_shuffling_keeps_the_tokens_of_each_scale():
    scales = codevar.load_vqvae("mini_vqvae", device="cpu").scales
    tokens = torch.randint(512, (3, scales.L))
    mixed = spectra.shuffled(tokens, scales)
    assert not torch.equal(mixed, tokens)
    for where in scales.slices:
        assert torch.equal(mixed[:, where].sort().values, tokens[:, where].sort().values)


def test_late_scales_of_the_mini_world_add_finer_detail():
    """Of real images; most of it is how the pyramid is built, as the shuffled tokens show."""
    vqvae = codevar.load_vqvae("mini_vqvae", device="cpu")
    tokens = vqvae.encode(World(48).images("test", 0, 32)[0])
    found = spectra.spectra_of("real", vqvae, tokens)
    for kind in (found.made, found.shuffled):
        assert max(one.high for one in kind[:3]) < 0.15
        assert min(one.high for one in kind[-3:]) > 0.3
        assert [one.high for one in kind[4:]] == sorted(one.high for one in kind[4:])


def test_the_command_writes_picture_and_table(tmp_path):
    weights = ten_scales.write(tmp_path)
    words = ["spectra", "var", *ten_scales.words(weights), "--set", "sampling=var,code"]
    words += ["--images", "3", "--device", "cpu", "--format", "csv", "-o", tmp_path / "new/a.png"]
    result = CliRunner().invoke(app.app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    assert sorted(path.suffix for path in (tmp_path / "new").iterdir()) == [".csv", ".pdf", ".png"]
    assert Image.open(tmp_path / "new/a.png").width > 1500
    table = pd.read_csv(tmp_path / "new/a.csv")
    assert list(table["method"].unique()) == ["VAR-d3, var", "VAR-d3, code"]
    assert table["scale"].nunique() == 10
    shares = table.groupby(["method", "scale"])["energy_share"].sum()
    assert shares.to_numpy() == pytest.approx(1)


def test_weights_that_are_no_numbers_have_no_spectrum(tmp_path):
    """Their tokens are tokens as others are."""
    weights = ten_scales.write(tmp_path)
    file = weights / "var_d3.safetensors"
    tensors = load_file(file)
    tensors["blocks.0.ffn.fc1.weight"][0] = torch.nan
    save_file(tensors, file)
    words = ["spectra", "var", *ten_scales.words(weights), "--device", "cpu"]
    result = CliRunner().invoke(app.app, [*map(str, words), "-o", str(tmp_path / "new/a.png")])
    assert result.exit_code == 2
    assert "the models gave NaN or infinity" in result.stderr
    assert not [*(tmp_path / "new").iterdir()]


def test_a_folder_that_cannot_be_written_is_one_line_before_any_work():
    result = CliRunner().invoke(
        app.app, ["spectra", "var", "--device", "cpu", "-o", "/proc/x/a.png"]
    )
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert result.stderr.count("\n") == 1
