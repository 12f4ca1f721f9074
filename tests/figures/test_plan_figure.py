"""The picture of a plan: a row a scale, a block a layer that runs."""

from __future__ import annotations

import matplotlib
import pytest
from matplotlib.collections import PolyCollection

from bench.figures import registry
from bench.study import experiment
from bench.tables.case_rows import NoDataError
from bench.tables.frames import Run

FILE = """
title = "Plans"
controls = false
[defaults]
weights = "mini"
sampling = "mini"
precision = "float32"
device = "cpu"
[[cases]]
method = "var"
guidance_off_from = 9
prune = "fastvar 10:0.5 from 8"
[[cases]]
method = "code"
draft_steps = 8
cache_policy = "recent 64"
cache_bits = 8
skip_scales = "10"
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    file = tmp_path_factory.mktemp("plans") / "plans.toml"
    file.write_text(FILE)
    return registry.figures()["plan"].draw(Run(experiment.load(str(file))), [])


def blocks(ax):
    """Of each scale: (layers, height, width of a block)."""
    found = []
    for collection in ax.collections:
        assert isinstance(collection, PolyCollection)
        boxes = [path.get_extents() for path in collection.get_paths()]
        first = boxes[0] if boxes else None
        sizes = (round(first.height, 2), round(first.width, 2)) if first else ()
        found.append((len(boxes), *sizes))
    return found


def test_blocks_are_the_layers_that_run(drawn):
    var, code = drawn.axes[:2]
    assert blocks(var) == [(12, 0.8, 0.9)] * 8 + [(12, 0.4, 0.9), (12, 0.4, 0.45)]
    assert blocks(code) == [(12, 0.8, 0.9)] * 8 + [(4, 0.8, 0.9), (0,)]


def test_what_blocks_do_not_show_is_said_where_it_begins(drawn):
    words = [t.get_text() for t in drawn.axes[1].findobj(matplotlib.text.Annotation)]
    assert words == ["cache: 64 tokens, recent, int8", "skipped"]
    assert not drawn.axes[0].findobj(matplotlib.text.Annotation)


def test_baselines_have_no_plan():
    run = Run(experiment.load("code_table1", ["method=dit"]))
    with pytest.raises(NoDataError, match="no method that is a plan"):
        registry.figures()["plan"].draw(run, [])
