"""The figure of scaling: exponents of known laws, what is too little for one, what is marked."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest

from bench.figures import looks, registry, scaling
from bench.predict import ceilings
from bench.predict.floor import floor_of
from bench.predict.prediction import predict
from bench.study import storage
from bench.study.units import MIB
from bench.tables import case_rows
from tests.synthetic import fake_run

TOML = """
title = "small"
figures = ["scaling"]

[defaults]
method = "var"
batch_size = 1
precision = "fp16"
stack = ["published", "modern"]

[[cases]]
depth = 3
batch_size = [1, 4, 16]

[[cases]]
depth = [2, 3, 5]

[[cases]]
method = "code"
refiner_depth = 2
draft_steps = 6
depth = [3, 5]

[[cases]]
depth = 36
stack = "modern"
"""


def run_of(folder, text=TOML, gpu_gib=44.5, law=None, **axes):
    """law: seconds of a case in the place of the invented ones."""
    (folder / "small.toml").write_text(text)
    run = fake_run(str(folder / "small.toml"), gpu_gib=gpu_gib, **axes)
    for record in run.records if law else []:
        if record.status == "ok":
            record.samples.latency_s = [law(record.case)]
    return run


def page(run):
    with matplotlib.rc_context(looks.STYLE):
        figure = registry.figures()["scaling"].draw(run, case_rows.rows_of(run))
        figure.draw_without_rendering()
        return figure


def legend(ax) -> list[list[str]]:
    """Each curve's two lines: its name and its fit."""
    return [text.get_text().split("\n") for text in ax.get_legend().get_texts()]


def words(figure) -> str:
    texts = figure.findobj(matplotlib.text.Text)
    return " ".join(text.get_text().replace("\n", " ") for text in texts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in which time goes with batch^0.93, depth^1.5, and 8 times for 512 px."""

    def law(case):
        wide = 8.0 if case["depth"] == 36 else case["depth"] ** 1.5
        return 0.02 * case["batch_size"] ** 0.93 * wide

    return run_of(tmp_path_factory.mktemp("whole"), law=law)


@pytest.mark.parametrize("power", [0.0, 0.93, 2.5])
def test_the_exponent_of_an_exact_power_law_is_found(power):
    xs = [1, 2, 8, 256]
    assert scaling.exponent(xs, [0.3 * x**power for x in xs]) == pytest.approx(power, abs=1e-9)


@pytest.mark.parametrize("xs", [[], [8], [8, 64], [8, 8, 64]])
def test_fewer_than_three_points_have_no_exponent(xs):
    assert scaling.exponent(xs, xs) is None


def test_three_panels_say_the_laws_of_the_records(whole):
    by_batch, by_depth, by_size = page(whole).axes
    stacks = ["published", "modern"]
    assert [name for name, _ in legend(by_batch)] == [f"VAR-d3, {stack}" for stack in stacks]
    assert all("measured ~ B⁰·⁹³" in fit and "(3 points)" in fit for _, fit in legend(by_batch))
    assert [name for name, _ in legend(by_depth)] == [
        *(f"VAR-d, {stack}" for stack in stacks),
        *(f"CoDe N=6 (d+d2), {stack}" for stack in stacks),
    ]
    fits = [fit for _, fit in legend(by_depth)]
    assert all("measured ~ d¹·⁵⁰" in fit for fit in fits[:2])
    ratio = (5 / 3) ** 1.5
    assert all(fit.startswith(f"ratio: measured {ratio:.2f}") for fit in fits[2:])
    assert "batch 1" in by_depth.get_xlabel()
    ((name, fit),) = legend(by_size)
    assert name == "VAR-d5 to d36, modern"
    assert fit.startswith(f"ratio: measured {8 / 5**1.5:.2f}, predicted ")
    assert by_size.lines[0].get_xdata().tolist() == [256, 512]


def test_the_prediction_is_fitted_over_the_same_points(whole):
    by_depth = page(whole).axes[1]
    cases = [c for c in whole.sweep.cases if c.method == "var" and c.stack == "modern"]
    found = {c.depth: sum(predict(c).flops) for c in cases if c.batch_size == 1 and c.depth < 36}
    slope, _ = np.polyfit(np.log([*found]), np.log([*found.values()]), 1)
    assert f"predicted d{scaling.raised(slope)}" in dict(legend(by_depth))["VAR-d, modern"]
    assert "predicted: FLOPs" in words(page(whole))


def top_of(**about):
    kinds = ("float32", "fp16")
    return ceilings.Ceilings(
        device="cuda",
        threads=1,
        products=[ceilings.Product(precision=k, M=1, K=1, N=1, flop_per_s=2e14) for k in kinds],
        copy_bytes_per_s=1e12,
        read_bytes_per_s=1e12,
        launch_s=1e-6,
        **about,
    )


def test_of_several_profiles_of_the_machine_the_last_measured_counts(whole, tmp_path, monkeypatch):
    """Whatever the files' dates, which a clone does not keep."""
    dates = {"a": "2026-02-01", "b": "2026-03-01", "c": "2026-01-01", "d": ""}
    for name, date in dates.items():
        (tmp_path / name).mkdir()
        top = top_of(measured_at=date)
        storage.write_json(tmp_path / name / ceilings.FILE, top.model_dump())
        storage.write_json(tmp_path / name / "env.json", {"machine": "l20"})
    monkeypatch.setattr(whole, "folder", tmp_path / "scaling")
    rows = case_rows.rows_of(whole)
    assert scaling.ceilings_for(whole, rows).measured_at == "2026-03-01"
    monkeypatch.setattr(whole, "folder", tmp_path / "c")  # its own come first
    assert scaling.ceilings_for(whole, rows).measured_at == "2026-01-01"


def test_where_the_machine_was_profiled_the_prediction_is_the_floor(whole, tmp_path):
    top = top_of()
    (tmp_path / "profile").mkdir()
    storage.write_json(tmp_path / "profile" / ceilings.FILE, top.model_dump())
    whole.folder = tmp_path / "scaling"
    try:
        assert "predicted: FLOPs" in words(page(whole))  # of which machine nobody knows
        storage.write_json(tmp_path / "profile" / "env.json", {"machine": "l20"})
        figure = page(whole)
    finally:
        whole.folder = None
    assert "predicted: floor" in words(figure)
    dotted = [line for line in figure.axes[0].lines if line.get_linewidth() == 1][1]
    cases = [c for c in whole.sweep.cases if (c.depth, c.stack, c.method) == (3, "modern", "var")]
    least = [sum(floor_of(case, top).seconds) for case in cases]
    assert dotted.get_ydata().tolist() == pytest.approx(least)


def test_out_of_memory_is_marked_and_not_fitted(tmp_path):
    text = TOML[: TOML.index("[[cases]]\ndepth = [2")].replace("16]", "16, 64, 256]")
    run = run_of(tmp_path, text, stack="published")
    need = [predict(case).total_bytes / MIB for case in run.sweep.cases]
    run = run_of(tmp_path, text, (need[2] + need[3]) / 2048, stack="published")
    figure = page(run)
    (ax,) = figure.axes
    crosses = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "x"]
    assert crosses == [64, 256]
    assert ax.lines[0].get_xdata().tolist() == [1, 4, 16]
    assert "(3 points)" in legend(ax)[0][1]
    assert "out of memory" in words(figure)


def test_a_curve_that_memory_left_one_point_of_has_no_fit(tmp_path):
    text = TOML[: TOML.index("[[cases]]\nmethod")]
    run = run_of(tmp_path, text)
    for record in run.records:
        if record.stack == "published" and record.batch_size > 1:
            record.status = "oom"
    fits = dict(legend(page(run).axes[0]))
    assert fits["VAR-d3, published"] == "one point: no fit"
    assert "(3 points)" in fits["VAR-d3, modern"]


def test_what_failed_is_named(tmp_path):
    text = TOML[: TOML.index("[[cases]]\ndepth = [2")]
    run = run_of(tmp_path, text, stack="modern")
    run.records[-1].status = "timeout"
    assert "Failed: VAR-d3 batch 16 (timeout)." in words(page(run))


def test_a_run_without_anything_that_changes_says_what_measures_it(tmp_path):
    text = TOML[: TOML.index("[[cases]]\ndepth = [2")]
    run = run_of(tmp_path, text, batch_size=1)
    with pytest.raises(
        case_rows.NoDataError, match=r"`bench\.py run scaling` measures it"
    ) as error:
        registry.draw(run, ["scaling"], tmp_path)
    assert "\n" not in str(error.value)


def test_of_more_methods_than_there_are_looks_the_first_are_shown_and_it_says_so(tmp_path):
    text = TOML[: TOML.index("[[cases]]\ndepth = [2")].replace(
        "depth = 3", "depth = [2,3,4,5,6,7,8,9]"
    )
    figure = page(run_of(tmp_path, text.replace("1, 4, 16", "1, 4"), stack="modern"))
    names = [name for name, _ in legend(figure.axes[0])]
    assert names == [f"VAR-d{depth}, modern" for depth in range(2, 9)]
    assert "Not all methods are shown." in words(figure)
    upper, lower = (ax.get_legend().get_window_extent() for ax in figure.axes)
    assert not upper.overlaps(lower)


def test_no_two_curves_of_a_panel_look_alike_and_nothing_is_cut_off(whole, tmp_path):
    for ax in page(whole).axes:
        looks = [(line.get_color(), line.get_ls()) for line in ax.get_legend().get_lines()]
        assert all(a != b for a, b in itertools.combinations(looks, 2))
    png, pdf = registry.draw(whole, ["scaling"], tmp_path)
    assert pdf.read_bytes().startswith(b"%PDF")
    inked = matplotlib.image.imread(png)[..., :3].min(axis=2) < 0.9
    assert not inked[:3].any()
    assert not inked[-3:].any()
    assert not inked[:, :3].any()
    assert not inked[:, -3:].any()
