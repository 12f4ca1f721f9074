"""A metric or a column is one object; one that lacks something fails at import with its name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bench.metrics import METRICS, Estimate
from bench.metrics.metric import Metric
from bench.study import columns
from bench.study.columns import COLUMNS, Column
from bench.tables import summary


@pytest.fixture(autouse=True)
def _registries_stay_as_they_are(monkeypatch):
    monkeypatch.setattr("bench.metrics.metric.METRICS", dict(METRICS))
    monkeypatch.setattr(columns, "COLUMNS", dict(COLUMNS))


def test_a_metric_that_lacks_a_part_is_refused_with_its_name():
    whole = {"heading": "KID", "format": "{:.3f}", "order": 390, "layer": "pool"}
    whole |= {"compute": lambda given: Estimate(0.0)}
    with pytest.raises(ValueError, match="metric kid: has no heading"):
        Metric("kid", **(whole | {"heading": ""}))
    with pytest.raises(ValueError, match="metric kid: has no order"):
        Metric("kid", **(whole | {"order": 0}))
    with pytest.raises(ValueError, match="metric kid: has no layer"):
        Metric("kid", **(whole | {"layer": ""}))
    with pytest.raises(ValueError, match="metric kid: has no compute"):
        Metric("kid", **{key: value for key, value in whole.items() if key != "compute"})
    with pytest.raises(ValueError, match="metric kid: cannot be from 1 to 0"):
        Metric("kid", **whole, low=1, high=0)
    with pytest.raises(ValueError, match="column kid: format"):
        Metric("kid", **(whole | {"format": "{:q}"}))


def test_a_name_cannot_be_taken_twice():
    with pytest.raises(ValueError, match="column fid: is registered twice"):
        Metric("fid", "FID again", "{:.2f}", 390, layer="pool", compute=lambda given: Estimate(0.0))
    with pytest.raises(ValueError, match="column latency_s: is registered twice"):
        columns.register(Column("latency_s", "latency s", "{:.3g}", 20))


def test_every_metric_has_a_column_and_bounds_that_hold_its_extremes():
    assert {metric.column for metric in METRICS.values()} <= COLUMNS.keys()
    assert COLUMNS["latency_s"].derive is summary.latency_of_case
    assert METRICS["fid"].high == math.inf
    assert METRICS["inception_score"].low == 1


def test_a_new_metric_is_computed_with_its_own_arithmetic_under_its_own_heading():
    """What stands in its one file is all there is: heading, format, bounds, arithmetic."""
    mean = Metric(
        "mean_feature",
        "mean",
        "{:.1f}",
        395,
        lower_is_better=True,
        high=math.inf,
        layer="pool",
        compute=lambda given: Estimate(float(given.samples["pool"].mean())),
    )
    from bench.metrics import metric
    from bench.metrics.metric import Given

    given = Given({"pool": torch.from_numpy(np.full((4, 2), 3.0))}, {}, {}, None, None)
    assert metric.METRICS["mean_feature"] is mean
    assert mean.compute(given).value == 3.0
    assert [c.heading for c in columns.in_order()][-1] == "mean"


def test_figures_keep_their_zeros_and_have_no_exponent():
    values = (1.4, 0.99, 0.99996, 1520, 130, -2.5, 0, 1e-5)
    assert [columns.format_figure("{:.3g}", value) for value in values] == [
        *("1.40", "0.990", "1.00", "1520", "130", "-2.50", "0", "1e-05"),
    ]
    assert columns.format_figure("{:+.3g} s", 1.2) == "+1.20 s"
    assert columns.format_figure("{:.2f}x", 1.234) == "1.23x"
