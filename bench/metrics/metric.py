"""What a metric is, and the registry of all there are.

Shapes: N samples, M references, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

import torch

from bench.metrics.jackknife import (
    Groups,
    Interval,
    interval,
    interval_of_difference,
    interval_of_share,
)
from bench.study.columns import Column, register

#: What it needs beside the samples: the references' distribution (their mean and covariance are
#: enough), the references' images, the samples' classes, or a baseline of the same seeds.
Needs = Literal["distribution", "images", "classes", "baseline"] | None
Found = TypeVar("Found")


class Images(Protocol):
    """What a metric may ask of a set of images before any features are extracted."""

    @property
    def name(self) -> str:
        """What to call the set."""
        ...

    @property
    def labels(self) -> Any:
        """(N,) classes, where they are known."""
        ...


class Network(Protocol):
    """What a metric may ask of the network that makes the features."""

    @property
    def name(self) -> str:
        """What to call the network."""
        ...

    @property
    def widths(self) -> dict[str, int]:
        """Features of each layer."""
        ...


@dataclass
class Given:
    """What a metric is computed from: features by layer, on the device that is to compute.

    samples: (N, D) each.  references: (M, D) each, where there are images of the reference.
    gaussians: mean and covariance of the reference, of those layers that need them.
    labels_N: classes of the samples.  groups: which intervals rest on; None without intervals.
    as_published: with the roundings of the published evaluator.  baseline: (N, D) each, of the
    images that were made of the samples' own seeds and classes.
    """

    samples: dict[str, torch.Tensor]
    references: dict[str, torch.Tensor]
    gaussians: dict[str, Any]
    labels_N: torch.Tensor | None
    groups: Groups | None
    as_published: bool = False
    baseline: dict[str, torch.Tensor] = field(default_factory=dict)
    _shared: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, compute: Callable[[], Found]) -> Found:
        """What two metrics have in common, computed for the first of them."""
        if name not in self._shared:
            self._shared[name] = compute()
        return self._shared[name]

    def mean(self, values_N: torch.Tensor) -> Estimate:
        """The mean over samples of values (N,)."""
        value = float(values_N.double().mean())
        return Estimate(value, self.groups.means(values_N) if self.groups else [])

    def share(self, hits_N: torch.Tensor) -> Estimate:
        """The share of samples of which `hits_N` (N,) is true."""
        found = self.mean(hits_N)
        if not self.groups:
            return found
        return replace(found, interval=interval_of_share(int(hits_N.sum()), len(hits_N)))


@dataclass(frozen=True)
class Estimate:
    """A metric's value and its replicates (`bench.metrics.jackknife`).

    interval: 95 %, where it is not made of the replicates alone.  spread: standard deviation that
    the metric reports beside its value.  by_class: the value of each class.  note: what a reader
    must know.
    """

    value: float
    replicates: list[float] = field(default_factory=list)
    interval: Interval | None = None
    spread: float | None = None
    by_class: list[float] | None = None
    note: str | None = None

    def within(self, low: float = -math.inf, high: float = math.inf) -> Interval | None:
        """The 95 % interval of a figure that is from `low` to `high`; None if there is none."""
        if self.interval or not self.replicates:
            return self.interval
        return interval(self.value, self.replicates, low, high)

    def less(self, other: Estimate) -> tuple[float, Interval]:
        """The difference to another set's, with its 95 % interval."""
        apart = self.value - other.value
        replicates = [a - b for a, b in zip(self.replicates, other.replicates, strict=True)]
        if not (self.interval and other.interval):
            return apart, interval(apart, replicates)
        return apart, interval_of_difference(
            (self.value, self.replicates, self.interval),
            (other.value, other.replicates, other.interval),
        )


def not_given(given: Given) -> Estimate:
    """Stands where a metric has no arithmetic, which it may not."""
    raise AssertionError


def nothing_lacks(samples: Images, network: Network) -> str:
    """For a metric that any samples and network can have."""
    return ""


@dataclass(frozen=True)
class Metric:
    """A figure of a set of images, computed from a network's features.  Making one registers it,
    and its column.

    name: as `--metrics` and records have it.  heading, format, order, lower_is_better: of its
    column, which is named `column` or as the metric.  low, high: what it can be.
    layer: of the features.  needs: what it needs beside the samples.
    compute: raises ValueError for features that have no such figure.
    lacks: why these samples and this network cannot have it, or "".
    groups_needed: there is no such figure without replicates.
    per_image: a mean over images, of `bench.py iqa`; it has a network and weights of its own.
    network: name of the only one that it can be of, which then has no other metrics.

    Raises ValueError, with its name, if something is missing.
    """

    name: str
    heading: str = ""
    format: str = ""
    order: int = 0
    lower_is_better: bool | None = None
    low: float = 0.0
    high: float = 1.0
    column: str = ""
    layer: str = ""
    needs: Needs = None
    compute: Callable[[Given], Estimate] = not_given
    lacks: Callable[[Images, Network], str] = nothing_lacks
    groups_needed: bool = False
    per_image: bool = False
    network: str = ""

    def __post_init__(self) -> None:
        if not self.column:
            object.__setattr__(self, "column", self.name)
        for wanted in ("name", "heading", "format", "order", "layer", "compute"):
            if getattr(self, wanted) in ("", 0, not_given):
                raise ValueError(f"metric {self.name}: has no {wanted}")
        if not self.low < self.high:
            raise ValueError(f"metric {self.name}: cannot be from {self.low} to {self.high}")
        better = self.lower_is_better
        register(Column(self.column, self.heading, self.format, self.order, better))
        METRICS[self.name] = self


METRICS: dict[str, Metric] = {}
#: What a table needs to know of a plugin's metric.
KEPT = ("heading", "format", "order", "lower_is_better", "column", "network")


def kept_facts(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By name, what an evaluation keeps of the metrics that are a plugin's, so that it can be read
    without the plugin."""
    found = {}
    for metric in map(METRICS.__getitem__, names):
        arithmetic = getattr(metric.compute, "func", metric.compute)
        if not arithmetic.__module__.startswith("bench."):
            found[metric.name] = {name: getattr(metric, name) for name in KEPT}
    return found


def register_kept(kept: Mapping[str, dict[str, Any]]) -> None:
    """Registers the metrics that an evaluation keeps and whose plugin is not loaded."""
    for name, facts in kept.items():
        if name not in METRICS:
            Metric(name, **facts, layer="-", compute=lambda given: not_given(given))


def of_features(network: str = "") -> dict[str, Metric]:
    """The metrics of `bench.py eval` that are of this network alone, or of any, in the order of
    their columns."""
    eval_s = [metric for metric in _in_order() if not metric.per_image]
    return {metric.name: metric for metric in eval_s if metric.network == network}


def of_pixels() -> dict[str, Metric]:
    """The metrics of `bench.py iqa`, each with a network of its own and without a reference."""
    return {metric.name: metric for metric in _in_order() if metric.per_image}


def _in_order() -> list[Metric]:
    return sorted(METRICS.values(), key=lambda metric: metric.order)
