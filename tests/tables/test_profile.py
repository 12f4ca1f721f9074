"""The page of a machine: `bench.py profile`."""

from __future__ import annotations

import functools
import itertools
import json
import time

import matplotlib
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from bench.cli import app
from bench.cli import profile as profile_cli
from bench.figures import looks, roofline
from bench.measure import machine, runner
from bench.measure.profile import items, tasks
from bench.predict.ceilings import Ceilings, Product
from bench.predict.floor import floor_of
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
    assert "90.0 TFLOP/s" in set(first.text["measured"])


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


def test_a_decode_below_its_floor_marks_the_ceilings_invalid():
    slow = {"read_bytes_per_s": 1e9, "copy_bytes_per_s": 1e9}
    low = CEILINGS.model_copy(update=slow)
    first, methods, _ = (lambda p: (p, *p.more))(profile.page(run(), low))
    assert first.title.endswith("invalid")
    assert first.notes[0].startswith("Invalid, as faster than they allow: VAR-d16")
    assert methods.text["over floor"][0].endswith("x, invalid")
    assert not profile.page(run(), CEILINGS).title.endswith("invalid")


# The command


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """`bench.py`, with measurers that invent, of items a to c."""
    monkeypatch.setattr(profile_cli, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(machine, "find_disturbances", lambda *devices: [])
    monkeypatch.setenv("CODEVAR_MACHINE", "here")
    whole = items.jobs
    monkeypatch.setattr(items, "jobs", lambda *words, **more: first_items(*whole(*words, **more)))
    monkeypatch.setattr(runner, "run_in_process", invented)
    monkeypatch.setattr(tasks, "in_process", invented_task)
    return lambda *words: CliRunner().invoke(app.app, words)


def first_items(sweep, jobs):
    jobs = [job for job in jobs if job.item in "abc"]
    sweep.cases = [job.case for job in jobs if job.case]
    return sweep, jobs


def invented(job, *_):
    return invent(make_case(job["case"]), 1, gpu_gib=8)


def invented_task(task, *_):
    on_cpu = CEILINGS.model_copy(update={"device": "cpu"}).model_dump()
    return {
        "smoke": {"status": "error", "reason": "compiled: no compiler", "stacks": {
            "modern": {"same": 1.0}, "compiled": {"reason": "no compiler"}}},
        "ceilings": {"status": "ok", "ceilings": on_cpu},
        "selfcheck": {"status": "ok", "verdict": "passed", "overhead": 0.001},
    }[task]  # fmt: skip


def page_of(folder):
    return (folder / "profile.md").read_text()


def test_a_profile_leaves_its_page_goes_on_and_travels(bench, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    out = ["--out", str(folder), "--device", "cpu"]
    planned = bench("profile", "--minutes", "4", "--dry-run", *out)
    assert planned.exit_code == 0, planned.output
    assert planned.stdout.startswith("precision: published float32, modern bf16, compiled bf16\n")
    assert not folder.exists()

    result = bench("profile", "--minutes", "60", *out)
    assert result.exit_code == 0, result.output
    page = page_of(folder)
    for words in (
        "# Profile of ",
        "### Ceilings of",
        "### Time over floor by scale",
        "### Which method wins at which batch",
        "### Memory against prediction",
        "### Checks",
        "modern: those of published on the CPU",
        "(a) smoke",
        "error: compiled: no compiler",
    ):
        assert words in page
    assert imread(folder / "profile.png").shape[1] > 1500
    assert "Which method wins at which batch" in (folder / "report.html").read_text()

    with monkeypatch.context() as patch:
        patch.setattr(profile_cli, "make_page", lambda *_: None)
        again = bench("profile", "--minutes", "60", *out, "--resume")
    assert again.exit_code == 0, again.output
    assert "(a) smoke" in again.stdout  # what failed is tried again, and nothing else
    assert "(c)" not in again.stdout

    packed = bench("pack", str(folder), "-o", str(tmp_path / "out"), "--max-mib", "16")
    assert packed.exit_code == 0, packed.output
    brought = bench("import", str(tmp_path / "out"))
    assert brought.exit_code == 0, brought.output
    there = tmp_path / "results" / "here" / "run"
    assert page_of(there).startswith(page_of(folder).partition("### Left out")[0])
    assert bench("import", str(tmp_path / "out")).exit_code == 2

    only = bench("profile", str(there), "--format", "md")
    assert only.exit_code == 0, only.output
    assert only.stdout.startswith("### Ceilings")


def test_a_run_of_another_machine_needs_its_own_ceilings(bench, tmp_path):
    out = ["--out", str(tmp_path), "--device", "cpu", "--minutes", "60"]
    assert bench("profile", *out).exit_code == 0
    (tmp_path / "ceilings.json").unlink()
    env = json.loads((tmp_path / "env.json").read_text()) | {"machine": "elsewhere"}
    (tmp_path / "env.json").write_text(json.dumps(env))
    result = bench("profile", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.endswith("has no ceilings.json, and was measured on elsewhere\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("profile --resume", "name its folder with --out"),
        ("profile --device tpu", "device must be auto, cpu, cuda or cuda:N, not 'tpu'"),
        ("profile --minutes 0", "Invalid value for '--minutes'"),
        ("profile --minutes nan", "Invalid value for '--minutes'"),
        ("profile --out /proc/nowhere", "/proc/nowhere: cannot be written"),
        ("profile --out {run}", "holds a run already; --resume it or choose --out"),
        ("profile --out {run} --resume", "began with another experiment"),
        ("profile nowhere", "nowhere: no run.json here"),
        ("pack nowhere -o x", "nowhere: no run.json here"),
        ("pack {run} -o x --max-mib 0", "Invalid value for '--max-mib'"),
        ("import {run}", "no archive here; `bench.py pack` makes them"),
        ("import {run}/run.json", "no archive of this project"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(bench, tmp_path, words, line):
    (tmp_path / "run.json").write_text("{}")
    result = bench(*words.format(run=tmp_path).split())
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_page_that_takes_too_long_is_ended():
    with pytest.raises(TimeoutError), profile_cli.within(0):
        time.sleep(60)
