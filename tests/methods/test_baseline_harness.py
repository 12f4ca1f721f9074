"""Baselines in the harness: cases, weights, predictions, records, and steps that stand for all."""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import child, memory, runner
from bench.methods import image_decoders, loaded, published
from bench.methods.baseline import networks
from bench.methods.sources import source_of
from bench.methods.steps import generate, spread, stand_for
from bench.predict import baselines
from bench.predict.prediction import predict
from bench.study import experiment, records
from bench.study.cases import make_case
from bench.study.errors import UsageError
from bench.study.units import MIB
from bench.tables import frames, tables
from codevar import noise, stack
from codevar.files import CheckpointError
from tests.methods import small_baselines as small

ROOT = Path(__file__).parents[2]
METHODS = ("dit", "mar", "llamagen", "aim")
# MAR with so many rounds that few can stand for all.
LONG_MAR = replace(small.MAR, tokens=64)


def long_method(config):
    return small.method(
        config, **{LONG_MAR: {"rounds": 40}, small.DIT: {"sampling_steps": 20}}.get(config, {})
    )


# Published models


@pytest.mark.parametrize(
    ("keys", "layout"),
    [
        ({"method": "dit"}, "dit_xl2"),
        ({"method": "mar"}, "mar_base"),
        ({"method": "llamagen"}, "llamagen_xxl_384"),
    ],
)
def test_published_names_and_shapes_are_the_models(keys, layout):
    model, _ = networks(make_case(keys))
    found = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == small.LAYOUTS[layout]


@pytest.mark.parametrize(
    ("method", "size", "millions"),
    [
        ("dit", "XL/2", 675),
        ("mar", "B", 208),
        ("mar", "L", 479),
        ("mar", "H", 943),
        ("llamagen", "XXL", 1411),
        ("llamagen", "B", 111),
        ("llamagen", "L", 343),
        ("llamagen", "XL", 775),
        ("aim", "XL", 763),
        ("aim", "L", 350),
        ("aim", "B", 148),
    ],
)
def test_parameters_are_the_published_number(method, size, millions):
    told = baselines.shapes(make_case({"method": method, "size": size}))
    assert told["params"] / 1e6 == pytest.approx(millions, rel=0.02)


# Weights


def options(**changes):
    return {"device": "cpu", "dtype": torch.float32, "download": False} | changes


@pytest.mark.parametrize("inside", [None, "model", "model_ema", "module", "state_dict"])
def test_a_checkpoint_is_found_in_what_a_training_wraps_it_in(tmp_path, inside):
    expected = small.model(small.LLAMAGEN).state_dict()
    saved = expected | {"freqs_cis": torch.zeros(3)}
    if inside:
        saved = {inside: saved, "epoch": 3, "args": argparse.Namespace(lr=1e-4)}
    if inside == "model_ema":  # what an evaluation loads, if both are there
        saved["model"] = {"nothing": torch.zeros(1)}
    torch.save(saved, tmp_path / "m.pt")
    rename = make_case({"method": "llamagen"}).renamed
    path = str(tmp_path / "m.pt")
    model = published.load(small.empty(small.LLAMAGEN), path, rename, **options())
    assert all((model.state_dict()[n] == t).all() for n, t in expected.items())


def test_aims_file_holds_its_tokenizer_and_a_head_that_is_its_embedding():
    own = small.model(small.AIM).state_dict()
    saved = {f"mamba.{name}": tensor for name, tensor in own.items()}
    saved["mamba.lm_head.weight"] = own["backbone.embeddings.word_embeddings.weight"]
    saved["vqvae.decoder.conv_in.weight"] = torch.zeros(1)
    assert make_case({"method": "aim"}).renamed(saved).keys() == own.keys()


def test_weights_come_from_a_folder_by_name(tmp_path):
    (tmp_path / "dit_xl2.pt").touch()

    def of(**keys):
        case = make_case({"method": "dit"} | keys)
        return [source_of(case, name) for name in case.model_names()]

    assert of(weights=str(tmp_path))[0] == str(tmp_path / "dit_xl2.pt")
    assert of(weights="published") == ["dit_xl2", "sd_vae"]
    assert of(seed=7) == ["seeded:dit_xl2:7", "seeded:sd_vae:7"]


PLACES = {name: place for kind in small.KINDS.values() for name, place in kind.published.items()}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("mar_b", "not downloaded yet; pass download=True"),
        ("llamagen_xxl_384", "not cached here; pass download"),
        ("dit_b2", "no published file is known"),
        ("/nowhere/dit_xl2.pth", "no such file"),
    ],
)
def test_what_is_not_there_is_one_line(source, says, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=says) as e:
        published.load(small.empty(small.LLAMAGEN), source, places=PLACES, **options())
    assert len(str(e.value).splitlines()) == 1


def test_a_file_of_another_model_is_one_line(tmp_path):
    torch.save(small.model(small.AIM).state_dict(), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"m\.pt: tensor cls_embedding\.\S+ is missing"):
        published.load(small.empty(small.LLAMAGEN), str(tmp_path / "m.pt"), **options())


# Cases


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"method": "dit", "depth": 12}, "depth: no such key of method dit"),
        ({"method": "dit", "size": "M/2"}, "size must be 'XL/2', 'L/2', 'B/2' or 'S/2'"),
        ({"method": "mar", "rounds": 257}, "rounds must be 1..256, not 257"),
        ({"method": "llamagen", "resolution": 512}, "resolution must be 256 or 384"),
        ({"method": "aim", "cfg": 0.5}, "cfg must be at least 1, not 0.5"),
        ({"method": "aim", "max_steps": 0}, "max_steps must be at least 1, not 0"),
        ({"method": "mar", "weights": "finetuned"}, "weights must be seeded, published or a"),
    ],
)
def test_a_wrong_key_is_one_line(keys, says):
    with pytest.raises(UsageError) as e:
        make_case(keys)
    assert says in str(e.value)
    assert len(str(e.value).splitlines()) == 1


def test_steps_are_those_of_the_papers_tables():
    steps = [make_case({"method": method}).steps for method in METHODS]
    assert steps == ["50", "100", "576", "256"]
    assert make_case({"method": "llamagen", "resolution": 256}).steps == "256"
    assert make_case({"method": "mar", "max_steps": 5}).steps == "5 of 100"
    assert make_case({"method": "mar", "max_steps": 100}).steps == "100"


def test_without_the_extra_one_line_says_what_to_install():
    without = "import sys; sys.modules['timm'] = None; from bench.cli.app import app; app()"
    words = ["predict", "code_table1", "--set", "method=dit"]
    command = [sys.executable, "-c", without, *words]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.count("\n") == 1
    assert "dit needs timm: pip install -e '.[baselines]'" in found.stderr


def test_a_part_of_a_decode_cannot_be_paired_nor_streamed():
    for change in ("paired=true", "stream_seconds=5"):
        with pytest.raises(UsageError, match="max_steps makes no images; pairs and streams"):
            experiment.load("code_table1", ["method=dit", "max_steps=2", change])


def test_every_row_of_the_papers_tables_is_a_case():
    for name in ("code_table1", "variant_table2"):
        assert experiment.load(name).further_paper_rows() == []


# Steps that stand for all


def test_steps_are_spread_evenly_from_the_first_to_the_last():
    assert spread(576, 4) == (0, 192, 383, 575)
    assert spread(5, None) == spread(5, 9) == (0, 1, 2, 3, 4)
    assert spread(100, 1) == (50,)
    assert stand_for((0, 192, 383, 575), 576) == (96, 192, 191, 97)
    assert stand_for((50,), 100) == (100,)
    for steps, most in itertools.product((1, 7, 50, 576), (1, 2, 3, 10)):
        assert sum(stand_for(spread(steps, most), steps)) == steps


def work(method, chosen=None) -> list[int]:
    """Floating-point operations of each step that runs."""
    marks: list[int] = []
    counter = FlopCounterMode(display=False)
    with counter:
        run = stack("modern", attention="math")
        generate(method, [3], 0, run, lambda i: marks.append(counter.get_total_flops()), chosen)
    return [after - before for before, after in itertools.pairwise(marks)]


@pytest.mark.parametrize("config", [small.DIT, LONG_MAR, small.LLAMAGEN, small.AIM], ids=METHODS)
def test_few_steps_stand_for_all(config):
    """The extrapolation against a full run, by what it computes."""
    method = long_method(config)
    every, chosen = work(method), spread(method.steps, 6)
    some = work(method, chosen)
    if config is LONG_MAR:  # step embeddings, at the start of either
        assert some[0] == every[0]
    assert some == [every[i] for i in chosen]
    told = sum(n * flops for n, flops in zip(stand_for(chosen, len(every)), some, strict=True))
    assert told == pytest.approx(sum(every), rel=0.03)


# Predictions


@pytest.mark.parametrize("config", [small.DIT, small.MAR, small.LLAMAGEN, small.AIM], ids=METHODS)
def test_flops_are_those_of_a_decode(config):
    method = small.method(config)
    assert list(method.flops(1)) == work(method)
    assert [2 * n for n in method.flops(3)[1:]] == [6 * n for n in method.flops(1)[1:]] or (
        config is small.DIT  # embeds its step once, whatever the batch
    )


@pytest.fixture
def few_objects():
    """Looking for tensors takes long among all that other tests have left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


SHORT = [small.DIT, small.MAR, replace(small.LLAMAGEN, tokens=16), small.AIM]


@pytest.mark.parametrize("name", ["published", "modern"])
@pytest.mark.parametrize("config", SHORT, ids=METHODS)
def test_a_decode_holds_what_is_predicted(config, name, few_objects, monkeypatch):
    """In float32, and AiM also in bf16, whose products need no scratch of their own."""
    monkeypatch.setattr(noise, "CHUNK", 64)  # else more than these small decodes hold
    for precision in ("float32", "bf16") if config is small.AIM else ("float32",):
        run = stack(name, precision)
        model = copy.deepcopy(small.model(config)).to(run.weights)
        case = small.case(config)
        method = case.decoding(model)

        def decode(on_step, method=method, run=run):
            return generate(method, [1] * 32, 0, run, on_step)

        used, made = memory.measure_memory(decode, [model], torch.device("cpu"))
        lines = baselines.of_sizes(case, config, run, "cpu")
        assert set(made.kv_cache_bytes) == {method.cache_bytes(32, run)}
        assert len(lines.peaks) == len(used.peak_by_scale_mib) == method.steps
        running = max(lines.peak_bytes(32)) / MIB - used.kv_cache_mib
        assert running == pytest.approx(used.running_mib, rel=0.1)
        above = used.live_by_scale_mib[-1] - used.params_mib
        assert lines.live_bytes(32)[-1] / MIB == pytest.approx(above, rel=0.02)
        assert used.unaccounted_mib == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_gpus_memory_is_predicted_without_one(method):
    case = make_case({"method": method, "batch_size": 64, "device": "cuda", "precision": "bf16"})
    told = predict(case)
    assert len(told.peak_bytes) == len(told.flops) == case.all_steps
    assert told.need_bytes < told.total_bytes < told.need_bytes + 2**31
    assert (max(told.kv_cache_bytes) > 0) == (method in ("llamagen", "aim"))


# From a case to a table


@pytest.fixture
def tiny(monkeypatch):
    """The smallest published sizes, made as small as those of the reference; cases run here."""
    for size, config in (
        ("S/2", small.DIT),
        ("B", small.MAR),
        ("B", small.LLAMAGEN),
        ("B", replace(small.AIM, tokens=256)),
    ):
        monkeypatch.setitem(small.KINDS[type(config)].sizes, size, config)
    for name in ("sd_vae", "kl_16"):
        monkeypatch.setitem(image_decoders.WIDTHS, name, (32, 32))
    monkeypatch.setattr(image_decoders, "CODES", 256)
    monkeypatch.setattr(child, "limit_memory", lambda *_: None)

    def here(job, *_):
        return json.loads(json.dumps(child.run(make_case(job["case"]), job)))

    monkeypatch.setattr(runner, "run_in_process", here)
    predict.cache_clear()
    yield
    predict.cache_clear()


TINY = """
title = "tiny"
rounds = 1
samples = 1
warmup = 0
max_seconds = 0.1
[defaults]
precision = "float32"
batch_size = 2
[[cases]]
method = "dit"
size = "S/2"
sampling_steps = 4
[[cases]]
method = "mar"
rounds = 5
denoising_steps = 2
[[cases]]
method = "llamagen"
size = "B"
resolution = 256
max_steps = 3
[[cases]]
method = "aim"
size = "B"
max_steps = 3
"""
ENV = {"machine": "here", "commit": "0" * 40, "dirty": False, "packages": {"torch": "2"}}


def test_cases_become_records_and_rows(tiny, few_objects, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    sweep = experiment.load(str(tmp_path / "tiny.toml"), device="cpu")
    env = ENV | {"gpus": [], "cpu": "a CPU"}
    runner.run(sweep, tmp_path / "run", env, Console(file=open("/dev/null", "w")))  # noqa: SIM115
    found, complaints = records.read(tmp_path / "run")
    assert complaints == []
    assert [(r.status, r.steps) for r in found] == [
        ("ok", "4"),
        ("ok", "5"),
        ("ok", "3 of 256"),
        ("ok", "3 of 256"),
    ], [r.reason for r in found]
    for record in found[:2]:
        taken = record.samples
        assert sum(taken.scale_latency_s[0]) == pytest.approx(taken.latency_s[0])
        assert record.stands_for is None
    for record in found[2:]:
        taken, times = record.samples, record.stands_for
        assert (len(times), sum(times)) == (3, 256)
        seconds = [n * s for n, s in zip(times, taken.scale_latency_s[0], strict=True)]
        assert sum(seconds) == pytest.approx(taken.latency_s[0])
        assert taken.energy_j is None
    run = frames.load(tmp_path / "run")
    printed = tables.measured(run)
    statuses = list(printed.text["status"])
    assert [s.split(";")[0] for s in statuses] == ["ok", "ok", *["ok, extrapolated"] * 2]
    assert any(note.startswith("Extrapolated: only so many") for note in printed.notes)
    steps = printed.more[-1].text
    assert set(steps["method"]) == {"DiT-S/2", "MAR-B", "LlamaGen-B (256 px)", "AiM-B"}
    shown = steps[steps["by step"] == "ms"].set_index("method").loc["AiM-B"]
    tenths = [float(shown[f"{i}/10"]) for i in range(1, 11)]
    row = printed.data.iloc[3]
    seconds = sum(n * s for n, s in zip(row["stands_for"], row["scale_latency_s"], strict=True))
    assert sum(tenths) == pytest.approx(1000 * seconds, rel=0.01)


def test_images_come_out_end_to_end(tiny):
    for method, size in zip(METHODS, ("S/2", "B", "B", "B"), strict=True):
        keys = {"method": method, "size": size, "device": "cpu", "precision": "float32"}
        few = {"dit": {"sampling_steps": 3}, "mar": {"rounds": 4, "denoising_steps": 2}}
        generator = loaded.load(make_case(keys | few.get(method, {})), download=False)
        if method == "aim":
            generator.method.steps = 16
            generator.method.model.config = replace(small.AIM, tokens=16)
        images = generator.images(generator.decode(lambda i: None))
        assert images.shape[:2] == (1, 3)
        assert 0 <= images.min() < images.max() <= 1
