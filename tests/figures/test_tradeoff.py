"""The trade-off holds like against like, and says of each point what it is."""

from __future__ import annotations

import matplotlib

from bench.figures import canvas, registry, tradeoff
from bench.report import embed
from bench.tables import case_rows
from tests.report.pages import HOSTILE
from tests.synthetic import fake_run


def test_the_pareto_front_holds_like_against_like():
    def point(x, y, **more):
        return {"latency_s": x, "fid": y, "fid_by": "measured", "by": tradeoff.HERE, **more}

    best = [point(1, 3), point(2, 2), point(1, 9, stack="modern")]
    beaten = [point(2, 3), point(3, 2)]
    elsewhere = [point(9, 9, by=tradeoff.PAPER), point(8, 8, fid_by="quoted")]
    found = tradeoff.front([*beaten, *best, *elsewhere], "latency_s", "fid")
    assert found == [*best, *elsewhere]


def test_every_point_tells_its_row_and_no_name_leaves_its_place():
    run = fake_run("code_table3", batch_size=8)
    rows = case_rows.rows_of(run)
    rows[0]["name"] = HOSTILE
    with matplotlib.rc_context(canvas.STYLE):
        figure = registry.figures()["tradeoff"].draw(run, rows)
    picture = embed.picture(figure, "here")
    timed = [row["name"] for row in rows if "latency_s" in row]
    told = [facts["method"] for facts in picture.told.values()]
    assert set(timed) <= set(told)
    assert all(f'id="{id}"' in picture.svg for id in picture.told)
    assert "<img" not in picture.svg
    assert "<script" not in picture.svg
