"""The trade-off holds like against like, and says of each point what it is."""

from __future__ import annotations

import matplotlib
import numpy as np
from markupsafe import escape

from bench.figures import looks, registry, scatter
from bench.report import embed
from bench.tables import case_rows
from bench.tables.pareto import pareto_front
from tests.report.pages import HOSTILE
from tests.synthetic import fake_run


def test_the_pareto_front_holds_like_against_like():
    run = fake_run("code_table1", stack=["published", "modern"], method=["var", "code"])
    with matplotlib.rc_context(looks.STYLE):
        figure = registry.figures()["tradeoff"].draw(run, case_rows.rows_of(run))
    ax = figure.axes[0]
    fronts = [line.get_xydata() for line in ax.lines if line.get_label() == "Pareto front"]
    assert len(fronts) == 3  # the paper's machine, and here each stack
    for front in fronts:
        assert (np.diff(front[:, 0]) > 0).all()
        assert (np.diff(front[:, 1]) < 0).all()


def test_a_point_that_another_beats_in_both_is_not_on_the_front():
    points = [scatter.Point(x, y, "", {}) for x, y in [(2, 3), (1, 3), (3, 2), (2, 2), (2, 2)]]
    assert [(p.x, p.y) for p in pareto_front(points, lambda p: (p.x, p.y))] == [
        (1, 3),
        (2, 2),
        (2, 2),
    ]


def test_every_point_tells_its_row_and_no_name_leaves_its_place():
    run = fake_run("code_table3", batch_size=8)
    rows = case_rows.rows_of(run)
    rows[0]["name"] = HOSTILE
    with matplotlib.rc_context(looks.STYLE):
        figure = registry.figures()["tradeoff"].draw(run, rows)
    picture = embed.picture(figure, "here")
    timed = [row["name"] for row in rows if "latency_s" in row]
    assert all(f'aria-label="{escape(f"method: {name}")}\n' in picture.markup for name in timed)
    assert "<img" not in picture.markup
    assert "<script" not in picture.markup
