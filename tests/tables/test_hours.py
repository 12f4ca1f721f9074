"""Hours and cost before anything runs."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.predict import durations
from bench.predict.prediction import predict
from bench.study import experiment
from bench.tables import hours as cost
from codevar import VQVAEConfig
from tests.measure.cluster.nodes import tiny

RATE = 1e12


def hours(sweep, **terms):
    printed = cost.estimate(sweep, cost.Terms(RATE, **terms))
    return printed.data, " ".join(printed.notes)


def test_measuring_takes_what_the_effort_says(tmp_path):
    sweep = tiny(tmp_path, "max_seconds=1000", "samples=7", "warmup=0", "rounds=1")
    case = sweep.cases[0]
    decode, images = sum(predict(case).flops) / RATE, cost.Rate(RATE).images_s(case)
    span = cost.measuring(case, sweep, cost.Rate(RATE))
    assert span.least == pytest.approx(cost.START_S + (2 + 7) * decode + (1 + 7) * images)
    most = cost.START_S + 2 * decode + images + (1000 + decode) + (500 + images)
    assert span.most == pytest.approx(most)


def test_the_decoder_counts_its_images():
    small, large = (VQVAEConfig(patch_sizes=(1, 2, side)) for side in (16, 32))
    one = durations.vqvae_flops(small)
    assert durations.vqvae_flops(large) > 4 * one > 1e12  # 0.39 TFLOP at 256 pixels


def test_baselines_are_measured_with_their_own_decoders_and_not_sampled():
    sweep = experiment.load("code_table1", ["method=var,dit,mar,llamagen"])
    told = cost.estimate(sweep, cost.Terms(RATE)).data.set_index("method")["decoder_tflops"] / 64
    # VQGANs of about one size, to 256 pixels; LlamaGen to 384; Stable Diffusion's is wider.
    assert 0.3 < told["VAR-d30"] < told["MAR-B"] * 2 < 2
    assert told["LlamaGen-XXL"] == pytest.approx(told["MAR-B"] * 1.5**2, rel=0.05)
    assert told["DiT-XL/2"] > 2 * told["MAR-B"]
    assert len(cost.estimate(sweep, cost.Terms(RATE, images=1000)).data) == 3  # VARs


def test_more_cards_help_until_each_has_one_family(tmp_path):
    sweep = tiny(tmp_path, "max_seconds=100")  # two families
    one, two, nine = (cost.estimate(sweep, cost.Terms(RATE, gpus=n, price=1)) for n in (1, 2, 9))
    total = one.data["hours_most"].sum()
    largest = two.data.groupby("batch_size")["hours_most"].sum().max()
    assert f"One card, all rounds of all: {one.data['hours_least'].sum():.2g}" in one.notes[0]
    assert f"to {largest:.2g} hours until" in two.notes[1]
    assert f"to {largest:.2g} hours until" in nine.notes[1]
    assert one.notes[-1].endswith(f"to {total:.2g}.")
    assert nine.notes[-1].endswith(f"to {9 * largest:.2g}.")  # all are paid until the last is done


def test_images_are_shared_by_the_cards(tmp_path):
    sweep = tiny(tmp_path, "batch_size=2", "method=var")
    batch = cost.Rate(RATE).decode_s(sweep.cases[0])
    batch += cost.Rate(RATE).images_s(sweep.cases[0])
    assert cost.sampling(sweep.cases[0], 100, cost.Rate(RATE), 4).most == pytest.approx(
        cost.START_S + 13 * batch
    )
    data, notes = hours(sweep, images=100, gpus=4)
    assert data["hours_most"].tolist() == pytest.approx([(cost.START_S + 50 * batch) / 3600])
    assert f"4 cards: {(cost.START_S + 13 * batch) / 3600:.2g} hours" in notes


def test_predict_prints_hours_and_takes_nothing_without_a_rate():
    one = ["predict", "d16_cpu", "--set", "method=var", "--set", "depth=2"]
    result = CliRunner().invoke(app.app, [*one, "--rate", "1", "--price", "2", "--format", "json"])
    assert result.exit_code == 0, result.output
    assert {"decode_s", "hours_least", "hours_most"} <= json.loads(result.stdout)[0].keys()
    for words, line in (("--price 2", "--rate TFLOP/S"), ("--rate 1 --max-batch", "one at a time")):
        result = CliRunner().invoke(app.app, [*one, *words.split()])
        assert result.exit_code == 2
        assert line in result.stderr
        assert result.stderr.count("\n") == 1


def test_before_a_run_it_is_told_how_long_it_takes_and_a_time_shortens_it(tmp_path, capsys):
    def bench(*words):
        with pytest.raises(SystemExit) as e:
            app.app(["run", "quick", "--set", "method=var", "--device", "cpu", *words])
        return e.value.code, capsys.readouterr()

    code, said = bench("--dry-run", "--out", str(tmp_path / "run"))
    assert not code
    told = r"2 measurements of 2 cases: [\d.to ]+ minutes. Memory: .* GiB. Disk: 1 MiB"
    assert re.search(told, " ".join(said.out.split()))
    assert not (tmp_path / "run").exists()
    code, said = bench("--dry-run", "--minutes", "0.5")
    assert re.match(r"0.5 minutes: --set max_seconds=[\d.]+\n", said.out)
    code, said = bench("--minutes", "0.1")
    assert (code, said.err.count("\n")) == (2, 1)
    assert "a round of all 2 cases takes" in said.err
