"""`method = "plan"`: an experiment that writes a plan out."""

from __future__ import annotations

import pytest

from bench.predict.prediction import predict
from bench.study import experiment
from bench.study.cases import make_case
from bench.study.errors import UsageError

MINI = {"weights": "mini", "sampling": "mini", "precision": "float32"}
FILE = """
title = "Found"
[defaults]
weights = "mini"
sampling = "mini"
precision = "float32"
device = "cpu"
batch_size = [1, 2]
[[cases]]
method = "plan"
name = "found 1"
by_scale = [{scales = "1-8"}, {scales = "9-10", model = 2}]
[[cases]]
method = "plan"
name = "found 2"
[[cases.by_scale]]
scales = "1-9"
[[cases.by_scale]]
scales = "10"
skip = true
"""


def test_an_experiment_writes_it_as_tables(tmp_path):
    (tmp_path / "found.toml").write_text(FILE)
    cases = experiment.load(str(tmp_path / "found.toml")).cases
    assert [(case.label, case.batch_size) for case in cases] == [
        ("found 1 (d12+d4)", 1),
        ("found 1 (d12+d4)", 2),
        ("found 2 (d12)", 1),
        ("found 2 (d12)", 2),
    ]
    assert make_case(cases[0].model_dump()) == cases[0]  # as a record holds it


def test_it_costs_what_the_same_method_costs():
    by_scale = [{"scales": "1-8"}, {"scales": "9-10", "model": 2}]
    written = make_case({"method": "plan", "by_scale": by_scale, **MINI})
    named = make_case({"method": "code", "draft_steps": 8, **MINI})
    assert predict(written).figures() == predict(named).figures()


def test_what_cannot_be_is_refused():
    for by_scale in ("no json", 7, [7], "7"):
        with pytest.raises(UsageError, match="by_scale must be a list of steps"):
            make_case({"method": "plan", "by_scale": by_scale, **MINI})
    case = make_case({"method": "plan", "by_scale": [{"scales": "1-9"}], **MINI})
    with pytest.raises(UsageError, match="the steps must be of scales 1-10, not 1-9"):
        predict(case)
