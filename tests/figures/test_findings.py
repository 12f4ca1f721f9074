"""Figures of the papers' findings: the FIDs of the evaluations, at the right places."""

from __future__ import annotations

import dataclasses
import shutil

import matplotlib
import numpy as np
import pytest

from bench.figures import looks, registry
from bench.methods.plans.code import CoDe
from bench.methods.plans.var import Swap
from bench.tables import case_rows, tables
from bench.tables.frames import Run
from codevar.files import SHIPPED
from tests.synthetic import fake_evaluation, fake_run


def evaluated(fid_of, name: str, **axes) -> Run:
    """A run in which a case's FID is what `fid_of` says of it."""
    run = fake_run(name, **axes)
    found = [
        fake_evaluation(case, fid=fid)
        for case in run.sweep.cases
        if (fid := fid_of(case)) is not None
    ]
    return dataclasses.replace(run, evaluations=found)


def drawn(figure: str, run: Run):
    with matplotlib.rc_context(looks.STYLE):
        page = registry.figures()[figure].draw(run, case_rows.rows_of(run))
    return whole(page)


def whole(page):
    """The page, of which nothing may be cut off."""
    with matplotlib.rc_context(looks.STYLE):
        page.canvas.draw()
    inked = np.asarray(page.canvas.buffer_rgba())[..., :3].min(axis=2) < 230
    edges = [inked[:3], inked[-3:], inked[:, :3].T, inked[:, -3:].T]
    assert not any(edge.any() for edge in edges), "something is cut off at the page's edge"
    return page


def lines(ax) -> list[list[tuple[float, float]]]:
    """The curves of a panel, without levels, which are straight."""
    found = [[tuple(map(float, xy)) for xy in line.get_xydata()] for line in ax.lines]
    return [line for line in found if len(line) > 2]


def levels(ax) -> list[float]:
    return [float(line.get_ydata()[0]) for line in ax.lines if list(line.get_xdata()) == [0, 1]]


def texts(page) -> str:
    return " ".join(text.get_text() for text in page.findobj(matplotlib.text.Text))


def by_scale(case):
    if isinstance(case, Swap):
        return 5 - case.scale / 10
    return 3.0 if case.depth == 12 else 9.0


def by_drafter(case):
    if isinstance(case, CoDe):
        large = case.depth == 12
        return (7 - case.draft_steps / 10) if large else 8 + case.draft_steps / 100
    return 3.0 if case.depth == 12 else 9.0


@pytest.fixture(scope="module")
def swapped():
    return evaluated(by_scale, "mini_code_table4")


@pytest.fixture(scope="module")
def paired():
    return evaluated(by_drafter, "mini_code_table6")


def test_figure3a_has_the_fid_of_each_replaced_scale_and_of_both_models(swapped):
    theirs, ours = drawn("code_figure3a", swapped).axes
    assert lines(ours) == [[(k, pytest.approx(5 - k / 10)) for k in range(1, 11)]]
    assert sorted(levels(ours)) == [3, 9]
    paper = [line for line in lines(theirs) if line[0] == (2, 2.23)]
    assert len(paper) == 1  # by the 0.3B model
    assert paper[0][-1] == (10, 1.99)
    assert levels(theirs) == [1.95]


def test_figure3c_tells_large_drafts_from_small_ones(paired):
    page = drawn("code_figure3c", paired)
    theirs, ours = page.axes
    large, small = lines(ours)
    assert large == [(n, pytest.approx(7 - n / 10)) for n in range(1, 10)]
    assert small == [(n, pytest.approx(8 + n / 100)) for n in range(1, 10)]
    assert sorted(levels(ours)) == [3, 9]
    assert ours.get_xticklabels()[5].get_text() == "6\n91"
    assert theirs.get_xticklabels()[-1].get_text() == "9\n424"
    assert lines(theirs)[1] == [(6, 2.27), (7, 2.11), (8, 1.98), (9, 1.94)]

    said = texts(page).replace("\n", " ")
    assert "features of inception-v3-compat" in said
    assert "As published: CoDe, Table" in said
    assert "quoted from the paper" in said


RATIOS = {"variant_d4_p0.1": (1.9, 2.7), "variant_d4_p1.0": (2.4, 2.2)}


@pytest.fixture(scope="module")
def ratios(tmp_path_factory):
    """Both networks of supernets, each in a file of its own, as the trainings leave them."""
    folder = tmp_path_factory.mktemp("runs")
    fids = {}
    for name, both in {"variant_d4": (2.0, 2.1), **RATIOS}.items():
        (folder / name).mkdir()
        shutil.copy(SHIPPED["mini_large"], folder / name / "model.safetensors")
        fids[f"mini:{folder / name / 'model.safetensors'}"] = both
    experiment = folder / "ratios.toml"
    listed = ", ".join(f'"{weights}"' for weights in fids)
    experiment.write_text(
        f"""title = "Ratios"
[defaults]
depth = 12
stack = "modern"
precision = "float32"
sampling = "mini"
weights = [{listed}]
[[cases]]
method = "var"
[[cases]]
method = "variant"
subnet_depth = 4
"""
    )
    run = fake_run(str(experiment))
    found = [
        fake_evaluation(case, fid=fids[case.weights][case.method == "variant"])
        for case in run.sweep.cases
    ]
    return dataclasses.replace(run, evaluations=found)


def test_figure2a_pairs_the_two_networks_of_a_supernet(ratios):
    page = drawn("variant_figure2a", ratios)
    theirs, ours = page.axes
    dots = {tuple(line.get_xydata()[0]) for line in ours.lines if len(line.get_xydata()) == 1}
    assert dots == {(2.0, 2.1), *RATIOS.values()}
    assert {text.get_text() for text in ours.texts} == {"progressive", "p = 0.1", "p = 1.0"}
    (fixed,) = [line for line in ours.lines if len(line.get_xydata()) > 1]
    assert [tuple(xy) for xy in fixed.get_xydata()] == sorted(RATIOS.values())
    quoted = {tuple(line.get_xydata()[0]) for line in theirs.lines if len(line.get_xydata()) == 1}
    assert quoted == {(1.96, 2.68), (2.32, 2.15), (1.96, 2.05)}


def test_rows_that_differ_in_their_weights_alone_have_names_and_cells_of_their_own(ratios):
    names = [row["name"] for row in case_rows.rows_of(ratios)]
    assert names[:3] == [f"VAR-d12, {name}" for name in ("variant_d4", *RATIOS)]
    printed = tables.measured(ratios)
    names = [name.split(", ")[1] for name in printed.text["method"]]
    assert [name for name in names if name in RATIOS] == [*RATIOS] * 2
    for part in printed.more:
        assert set(part.text["method"]) == set(printed.text["method"])
    planned = tables.measured(Run(ratios.sweep))
    assert list(planned.text["method"]) == list(printed.text["method"])
    assert list(planned.text["status"]) == ["not run"] * 6


@pytest.mark.parametrize(
    ("figure", "name", "command"),
    [
        ("code_figure3a", "mini_code_table6", "bench.py run mini_code_table4`"),
        ("code_figure3c", "mini_code_table4", "bench.py run mini_code_table6`"),
        ("variant_figure2a", "mini_code_table4", "bench.py run mini_variant_table5`"),
    ],
)
def test_a_run_of_something_else_names_the_command(figure, name, command, swapped, paired):
    run = swapped if name == "mini_code_table4" else paired
    with pytest.raises(case_rows.NoDataError) as error:
        drawn(figure, run)
    assert command in str(error.value)


def test_without_evaluations_it_says_what_makes_them():
    with pytest.raises(case_rows.NoDataError, match="reproduce mini_code_table4"):
        drawn("code_figure3a", fake_run("mini_code_table4"))
