"""Decode steps in an ordinary test job: a small VAR, CoDe and VARiant on two stacks.

    for i in 1 2 3 4 5; do pytest benchmarks/ --benchmark-json=new/$i.json; done
    python bench.py compare base new

A benchmark is the latency of a decode or of one of its scales.  All figures of a case come from
the same decodes and the same probes as a run's records, so pytest-benchmark's timer is no clock
here: it tells what the probes have told.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from bench.measure import devices, timing
from bench.methods.loaded import Loaded
from bench.study.cases import make_case

DEVICE = devices.default_device()
METHODS = (
    {"method": "var", "depth": 4},
    {"method": "code", "depth": 4, "refiner_depth": 2, "draft_steps": 6},
    {"method": "variant", "depth": 4, "subnet_depth": 2, "bridge_scales": 6},
)
HOW = {"device": DEVICE, "precision": "float32" if DEVICE == "cpu" else "fp16"}
CASES = [
    make_case(method | HOW | {"stack": stack})
    for method, stack in itertools.product(METHODS, ("published", "modern"))
]
FIGURES = ("latency", *(f"scale {k}" for k in range(1, CASES[0].scale_count + 1)))


class Told:
    """Seconds told so far, as a timer."""

    seconds = 0.0

    def __call__(self) -> float:
        """Seconds told so far: what pytest-benchmark reads as its clock."""
        return self.seconds


TOLD = Told()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.label}, {case.stack}")
def decodes(request):
    """A case, and the seconds by scale of each of its decodes once it is warm."""
    loaded, device = Loaded.of(request.param, download=False), torch.device(DEVICE)
    for _ in range(2):
        timing.time_by_scale(loaded.decode, device)
    least = request.config.getoption("benchmark_min_rounds")
    return loaded.case, [timing.time_by_scale(loaded.decode, device) for _ in range(least)]


@pytest.mark.benchmark(timer=TOLD)
@pytest.mark.parametrize("figure", FIGURES)
def test_decode(benchmark, decodes, figure):
    """Latency of the decode, or of one scale, in seconds."""
    case, by_scale = decodes
    benchmark.extra_info["case"] = f"{case.label}, batch 1, {case.stack} {case.precision}"
    benchmark.extra_info["figure"] = figure
    seconds = iter([sum(s) if figure == "latency" else s[int(figure[6:]) - 1] for s in by_scale])

    def tell() -> None:
        TOLD.seconds += next(seconds)

    benchmark.pedantic(tell, rounds=len(by_scale))
