"""Image quality without a reference (CoDe, Table 5): how `bench.py iqa` computes them is in
`bench.quality.iqa`, as each has a network of its own."""

import math

from bench.metrics.metric import Metric

Metric("musiq", "MUSIQ", "{:.2f}", 360, lower_is_better=False, high=100.0)
Metric("clipiqa", "CLIPIQA", "{:.4f}", 370, lower_is_better=False)
Metric("niqe", "NIQE", "{:.4f}", 380, lower_is_better=True, high=math.inf)
