"""Image quality without a reference (CoDe, Table 5): means over images of scores that networks of
their own give (`bench.quality.iqa`).

Shapes: N samples.
"""

import math
from functools import partial

from bench.metrics.jackknife import interval_of_mean
from bench.metrics.metric import Estimate, Given, Metric


def estimate(name: str, given: Given) -> Estimate:
    """The mean, with Student's 95 % interval."""
    scores_N = given.samples[name].double().flatten().cpu()
    return Estimate(float(scores_N.mean()), interval=interval_of_mean(scores_N))


for name, heading, format, order, lower_is_better, high in (
    ("musiq", "MUSIQ", "{:.2f}", 360, False, 100.0),
    ("clipiqa", "CLIPIQA", "{:.4f}", 370, False, 1.0),
    ("niqe", "NIQE", "{:.4f}", 380, True, math.inf),
):
    Metric(
        name,
        heading,
        format,
        order,
        lower_is_better,
        high=high,
        layer=name,
        compute=partial(estimate, name),
        per_image=True,
    )
