"""The page of a machine: `bench.py profile`."""

from __future__ import annotations

import functools
import itertools
import json

import matplotlib
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from bench.cli import app, targets
from bench.figures import looks, roofline
from bench.measure import find_ceilings, runner
from bench.predict.ceilings import Ceilings, Product
from bench.predict.floor import floor_of
from bench.study import experiment
from bench.study.cases import make_case
from bench.tables import case_rows, profile
from tests.synthetic import fake_run, invent

RATES = {"float32": 50e12, "tf32": 90e12, "bf16": 210e12, "fp16": 215e12}
CEILINGS = Ceilings(
    device="cuda",
    threads=8,
    products=[Product(precision=k, M=4096, K=1920, N=7680, flop_per_s=r) for k, r in RATES.items()],
    copy_bytes_per_s=750e9,
    read_bytes_per_s=780e9,
    launch_s=4e-6,
)


@functools.cache
def run():
    return fake_run("profile", depth=16, precision="fp16", batch_size=[1, 8, 64], samples=3)


def test_the_axes_are_those_of_the_papers_at_depth_30():
    sweep = experiment.load("profile", profile.axes_of("cuda", 30, None))
    cases = [case.model_dump() for case in sweep.cases]
    assert {case["batch_size"] for case in cases} == {1, 8, 64}
    assert {case["precision"] for case in cases} == {"fp16"}
    assert {case["refiner_depth"] for case in cases if case["method"] == "code"} == {16}
    assert {case["subnet_depth"] for case in cases if case["method"] == "variant"} == {15}


def test_over_floor_is_the_measured_median_over_the_floor():
    first, methods, scales = (lambda p: (p, *p.more))(profile.page(run(), CEILINGS))
    row = case_rows.rows_of(run())[0]
    floor = floor_of(row["case"], CEILINGS)
    shown = methods.text.iloc[0]
    assert shown["over floor"] == f"{row['latency_s'] / sum(floor.seconds):.2f}x"
    assert shown["bound by"] == "memory"
    over = row["scale_latency_s"][9] / floor.seconds[9]
    assert scales.text.iloc[0]["10"] == f"{over:.1f}*"
    assert "NVIDIA L20" in first.title
    assert "90 TFLOP/s" in set(first.text["measured"])


def test_a_busy_machine_and_lost_cases_are_told():
    busy = CEILINGS.model_copy(update={"other_load_cores": 1.5})
    few = fake_run("profile", depth=16, precision="fp16", batch_size=[1, 64], gpu_gib=8)
    first = profile.page(few, busy)
    assert any("1.5 cores" in note for note in first.notes)
    assert any("VAR-d16 batch 64 (oom)" in note for note in first.more[-1].notes)


def test_the_picture_shows_each_case_and_no_label_covers_another():
    with matplotlib.rc_context(looks.STYLE):
        figure = roofline.picture(run(), CEILINGS)
        figure.draw_without_rendering()
    roof, small, large = figure.axes
    assert [ax.get_title(loc="left") for ax in (small, large)] == [
        "Time over floor, batch 1",
        "Time over floor, batch 64",
    ]
    assert sum(len(line.get_xdata()) for line in roof.lines if line.get_marker() != "None") == 18
    boxes = [text.get_window_extent() for text in roof.texts]
    assert len(boxes) == 2
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "RESULTS", tmp_path / "results")
    on_cpu = CEILINGS.model_copy(update={"device": "cpu"})
    monkeypatch.setattr(find_ceilings, "measure_in_process", lambda device: on_cpu)
    monkeypatch.setattr(
        runner, "run_in_process", lambda job, *_: invent(make_case(job["case"]), 1, gpu_gib=8)
    )
    return lambda *words: CliRunner().invoke(app.app, ["profile", *words])


def test_a_profile_leaves_its_page_and_can_be_made_again(bench, tmp_path, monkeypatch):
    tiny = "--depth 4 --device cpu --set method=var --set stack=modern --set batch_size=1"
    words = [*tiny.split(), *["--set", "samples=1", "--set", "max_seconds=0.1", "--out"]]
    result = bench(*words, str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    page = (tmp_path / "run" / "profile.md").read_text()
    for words_of_page in (
        "# Profile of",
        "- Software: torch ",
        ", commit ",
        "profile --device cpu --depth 4",
    ):
        assert words_of_page in page
    assert imread(tmp_path / "run" / "profile.png").shape[1] > 1500
    assert (tmp_path / "run" / "profile.pdf").read_bytes().startswith(b"%PDF")
    stored = json.loads((tmp_path / "run" / "ceilings.json").read_text())
    assert stored["launch_s"] == 4e-6

    def never(device):
        raise AssertionError("measured again")

    monkeypatch.setattr(find_ceilings, "measure_in_process", never)
    again = bench(*words, str(tmp_path / "run"), "--resume")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "run" / "profile.md").read_text() == page

    only = bench(str(tmp_path / "run"), "--format", "md")
    assert only.exit_code == 0, only.output
    tables = page[page.index("### Ceilings") :]
    assert only.stdout.split() == tables.split()


def test_a_run_of_another_machine_needs_its_own_ceilings(bench, tmp_path):
    tiny = "--depth 4 --device cpu --set method=var --set stack=modern --set batch_size=1"
    assert bench(*tiny.split(), "--out", str(tmp_path)).exit_code == 0
    (tmp_path / "ceilings.json").unlink()
    env = json.loads((tmp_path / "env.json").read_text()) | {"machine": "elsewhere"}
    (tmp_path / "env.json").write_text(json.dumps(env))
    result = bench(str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.endswith("has no ceilings.json, and was measured on elsewhere\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--resume", "name its folder with --out"),
        ("--device tpu", "device must be auto, cpu, cuda or cuda:N, not 'tpu'"),
        ("--device cpu --precision fp16", "precision fp16 needs a GPU"),
        ("--precision fp64", "precision must be"),
        ("--set nope=1", "--set nope: no such axis"),
        ("--out /proc/nowhere", "/proc/nowhere: cannot be written"),
        ("--out {run}", "holds a run already; --resume it or choose --out"),
        ("--out {run} --resume", "began with another experiment"),
        ("nowhere", "nowhere: no run.json here"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(bench, tmp_path, words, line):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "ceilings.json").write_text('{"device": "cpu"}')
    result = bench(*words.format(run=tmp_path).split())
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
