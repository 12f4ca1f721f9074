"""How good images are: each metric is one object, registered beside its arithmetic.

A new metric is one more module here; every module of this folder is imported with it.
"""

import importlib
import pkgutil

from bench.metrics.metric import METRICS, Estimate, Given, Metric

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["METRICS", "Estimate", "Given", "Metric"]
