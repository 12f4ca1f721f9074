"""Grids: the same classes and seeds in rows, and a margin that says only what was measured."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bench.cli import app
from bench.cli import pictures as pictures_cli
from bench.figures import canvas, picture_rows
from bench.measure.devices import default_device
from bench.methods.sources import hashes_of
from bench.quality import grid_rows
from bench.quality.chosen import names_of, title_of
from bench.study import experiment, records, storage
from bench.study.errors import UsageError
from bench.tables import margin
from tests import ten_scales
from tests.synthetic import fake_evaluation, fake_run

HEADS = [grid_rows.Head("disc"), grid_rows.Head("bow tie")]
FOOTER = "Each class with seed 0, preset var."


def row(label="VAR-d30", facts=(), count=2, value=0.5):
    return grid_rows.Row(label, torch.full((count, 3, 8, 8), value), facts)


def texts(figure):
    (ax,) = figure.axes
    return [text for text in ax.texts if text.get_text()]


def boxes(figure):
    """Where everything of the page lies, in pixels: its words, then its pictures."""
    figure.draw_without_rendering()
    (ax,) = figure.axes
    words = [text.get_window_extent() for text in texts(figure)]
    return words, [image.get_window_extent() for image in ax.images]


@pytest.mark.parametrize("count", [1, 2, 8, picture_rows.MOST])
@pytest.mark.parametrize("facts", [(), ("2.9x, 50.4 images/s", "19,943 MiB", "FID 2.27")])
def test_nothing_on_the_page_meets_anything_else(count, facts):
    long = "CoDe N=6 (d30+d16 by 2 layers), mini-finetuned"
    rows = [row(label, facts, count) for label in ("VAR-d30", long, long)]
    figure = picture_rows.draw(rows, [grid_rows.Head("bow tie")] * count, "Title", FOOTER)
    words, pictures = boxes(figure)
    every = [box.padded(-0.5) for box in (*words, *pictures)]
    met = [(a, b) for i, a in enumerate(every) for b in every[:i] if a.overlaps(b)]
    assert not met
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 + 1 for box in every)
    assert len(pictures) == 3 * count


def test_pictures_are_square_and_those_of_a_row():
    figure = picture_rows.draw([row(value=0.2), row(value=0.9)], HEADS, "Title", FOOTER)
    (ax,) = figure.axes
    assert [float(image.get_array()[0, 0, 0]) for image in ax.images] == pytest.approx(
        [0.2, 0.2, 0.9, 0.9]
    )
    for box in boxes(figure)[1]:
        assert box.width == pytest.approx(box.height, rel=0.01)


def test_a_head_stands_above_all_its_pictures():
    heads = [grid_rows.Head("disc", 3), grid_rows.Head("star", 3)]
    figure = picture_rows.draw([row(count=6)], heads, "Title", FOOTER)
    words, pictures = boxes(figure)
    disc = next(b for t, b in zip(texts(figure), words, strict=True) if t.get_text() == "disc")
    middle = (pictures[0].x0 + pictures[2].x1) / 2
    assert (disc.x0 + disc.x1) / 2 == pytest.approx(middle, abs=2)


def test_files_are_refused_before_any_work(tmp_path):
    for out, said in (
        (tmp_path / "a.jpg", "name a .png or .pdf"),
        (tmp_path, "cannot be written"),
        (tmp_path / "file" / "a.png", "cannot be written"),
    ):
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match=said):
            picture_rows.files_of(out)


# The margin


def run_of(folder, weights):
    """A run with invented records of the cases that a grid will show."""
    axes = {"draft_steps": [6, 8], "depth": 3, "refiner_depth": 2, "precision": "float32"}
    run = fake_run("code_table1", weights=str(weights), batch_size=1, stack="published", **axes)
    folder.mkdir(parents=True)
    experiment_ = run.sweep.experiment.model_dump()
    what = {"name": run.sweep.name, "started_at": "2026-01-01", "device": "cuda"}
    storage.write_json(folder / "run.json", {**what, "experiment": experiment_})
    storage.write_json(folder / "env.json", run.env)
    for record in run.records:
        storage.append_line(folder / records.FILE, record)
    return run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return ten_scales.write(tmp_path_factory.mktemp("weights"))


def evaluation(case, fid, **values):
    return fake_evaluation(case, images=500, fid=fid).model_copy(update=values)


def cases_like(run, **changes):
    return [case.model_copy(update=changes) for case in run.sweep.cases]


def test_the_margin_tells_what_was_measured_of_the_very_case(tmp_path, weights):
    run = run_of(tmp_path / "l20" / "run", weights)
    var, *code = cases_like(run, device="cpu", seed=7)
    storage.append_line(tmp_path / "evaluations.jsonl", evaluation(code[0], 4.5))
    found = margin.facts_of([var, *code], tmp_path)
    assert found.lines[var.key][0].startswith("1.0x, ")
    speed, memory, fid = found.lines[code[0].key]
    assert speed.endswith("images/s")
    assert memory.endswith("MiB")
    assert fid == "FID 4.50"
    assert len(found.lines[code[1].key]) == 2
    assert "NVIDIA L20" in found.sources[0]
    assert found.sources[0].endswith(" Speed-ups are over VAR-d3.")
    assert "FID: 500 samples a row, features of inception" in found.sources[1]


def test_no_speed_ups_stand_beside_rows_that_are_over_different_baselines(tmp_path, weights):
    run = run_of(tmp_path / "run", weights)
    own = {"name": run.sweep.name, "device": "cuda"}
    experiment_ = run.sweep.experiment.model_dump() | {"baseline": {"stack": "published"}}
    storage.write_json(tmp_path / "run" / "run.json", {**own, "experiment": experiment_})
    found = margin.facts_of(cases_like(run), tmp_path, tmp_path / "run")
    assert all("images/s" in lines[0] and "x, " not in lines[0] for lines in found.lines.values())
    assert "Speed-ups" not in found.sources[0]


@pytest.mark.parametrize(
    "change", [{"precision": "bf16"}, {"stack": "modern"}, {"batch_size": 8}, {"weights": "x"}]
)
def test_the_margin_takes_no_speed_of_a_case_run_otherwise(tmp_path, weights, change):
    run = run_of(tmp_path / "l20" / "run", weights)
    found = margin.facts_of(cases_like(run, **change), tmp_path)
    assert not any(found.lines.values())
    assert not found.sources


def test_fids_of_a_margin_are_of_the_very_cases_by_one_network(tmp_path, weights):
    run = run_of(tmp_path / "l20" / "run", weights)
    cases = cases_like(run)[:3]
    lines = [evaluation(case, 1.0 + i) for i, case in enumerate(cases[:2])]
    lines.append(evaluation(cases[0], 99.0, extractor="other", evaluated_at="2026-01-03"))
    lines.append(evaluation(cases[1], 5.0, evaluated_at="2026-01-04"))
    lines.append(evaluation(cases[2].model_copy(update={"precision": "bf16"}), 7.0))
    other_weights = dict.fromkeys(hashes_of(cases[2]), "0" * 64)
    assert len(other_weights) == 3
    lines.append(evaluation(cases[2], 8.0, weights_sha256=other_weights))
    for line in lines:
        storage.append_line(tmp_path / "evaluations.jsonl", line)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "evaluations.jsonl").write_text("{\n[]\n{}\n")
    found = margin.facts_of(cases, tmp_path)
    told = [[line for line in found.lines[case.key] if "FID" in line] for case in cases]
    assert told == [["FID 1.00"], ["FID 5.00"], []]


def test_names_tell_cases_of_one_method_apart():
    sets = ["depth=16", "weights=a,b/c", "precision=float32"]
    cases = experiment.cases_of("var", sets, default_device())
    assert names_of(cases) == ["VAR-d16, a", "VAR-d16, c"]


def test_names_tell_what_a_training_left_and_how_far_it_had_come():
    run = "mini:runs/mini-cpu/variant_d4"
    files = [f"{run}/model_17.safetensors", f"{run}/model.safetensors", "mini:mini_large", "mini"]
    sets = ["depth=12", f"weights={','.join(files)}", "precision=float32"]
    cases = experiment.cases_of("var", sets, default_device())
    told = ["variant_d4 after 17 %", "variant_d4", "mini_large", "mini"]
    assert names_of(cases) == [f"VAR-d12, {name}" for name in told]


def test_a_picture_of_one_experiment_has_its_title():
    assert title_of(["mini_code_perturbed"]).startswith("Mini world, CoDe Observation 2")
    assert title_of(["var"]) == title_of(["mini_code_perturbed", "quick"]) == ""


# The command


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures_cli, "RESULTS", tmp_path / "results")

    def call(*words):
        return CliRunner().invoke(app.app, [str(word) for word in words])

    return call


def test_grid_draws_the_same_classes_and_seeds_by_each_method(bench, weights, tmp_path):
    run_of(tmp_path / "results" / "l20" / "run", weights)
    command = ["grid", "var", "code", *ten_scales.words(weights), "--set", "refiner_depth=2"]
    command += ["--set", "draft_steps=8", "--classes", "1,4", "--seeds", "0-1", "--device", "cpu"]
    result = bench(*command, "-o", tmp_path / "new" / "a.png")
    assert result.exit_code == 0, result.stderr
    pdf, png = sorted((tmp_path / "new").iterdir())
    assert pdf.read_bytes().startswith(b"%PDF")
    first = png.read_bytes()
    assert Image.open(png).width > 900
    assert bench(*command, "-o", tmp_path / "a.pdf").exit_code == 0
    assert (tmp_path / "a.png").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("grid nope -o a.png", "nope: no such folder or experiment"),
        ("grid var --classes 1,x -o a.png", "--classes must be like 7-10 or 1-3,5, not '1,x'"),
        ("grid var --classes 0-99999999999 -o a.png", "is more than 10,000 numbers"),
        ("grid var --classes 0-20 --seeds 0,1 -o a.png", "24 pictures in a row at most"),
        ("grid var --classes 0,1 --seeds 0 --pair -o a.png", "--pair: 2 classes but 1 seeds"),
        ("grid var --classes 0 -o a.gif", "a.gif: name a .png or .pdf"),
        ("grid var --classes 0 -o /proc/x/a.png", "cannot be written"),
        ("grid var code --device cpu -o a.png", "draft_steps: missing"),
        ("grid var --set precision=fp16 --device cpu -o a.png", "precision fp16 needs a GPU"),
        ("grid var d16_cpu --device cpu -o a.png", "name methods or experiments, not both"),
        ("grid var {w} --classes 0,10 --device cpu -o a.png", "the classes of VAR-d3 are 0..9"),
        ("grid var {w} --set weights=none --device cpu -o a.png", "weights none: no such folder"),
        ("grid var {w} --run nowhere --device cpu -o a.png", "nowhere: no run.json here"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    bench, weights, tmp_path, monkeypatch, words, line
):
    monkeypatch.chdir(tmp_path)
    own = " ".join(ten_scales.words(weights))
    result = bench(*words.format(w=own).split())
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("a.*"))


def test_weights_that_do_not_fit_the_method_are_one_line(bench, weights, tmp_path):
    mixed_up = tmp_path / "mixed-up"
    shutil.copytree(weights, mixed_up)
    (mixed_up / "var_d3.safetensors").rename(mixed_up / "var_d5.safetensors")
    sets = [*ten_scales.words(mixed_up), "--set", "depth=5", "--set", "subnet_depth=4"]
    result = bench("grid", "variant", *sets, "--device", "cpu", "-o", tmp_path / "a.png")
    assert result.exit_code == 2
    assert result.stderr == f"bench.py: depth must be 3, not 5: {mixed_up}\n"


def test_a_grid_of_rows_that_are_no_methods(tmp_path):
    """VARiant, Figure 7: a subnet's pictures after each phase of training."""
    rows = [row(f"phase {i}", count=2, value=i / 4) for i in (1, 2, 3)]
    figure = picture_rows.draw(rows, HEADS, "By phase", "Subnet of 16 layers alone.")
    files = picture_rows.files_of(tmp_path / "phases")
    canvas.save(figure, files)
    assert [file.name for file in files] == ["phases.png", "phases.pdf"]
    assert all(file.stat().st_size > 1000 for file in files)
    assert json.dumps([text.get_text() for text in texts(figure)]).count("phase") == 3
