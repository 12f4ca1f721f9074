"""Parameters, FLOPs and memory of the baselines, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.methods.baselines import need
from bench.methods.baselines.method import Method, generate, spread, stand_for
from bench.predict.simulate import PRIME, Footprint, watched
from bench.study import cases
from bench.study.cases import Baseline
from codevar.outputs import OnScale
from codevar.stacks import Stack, stack

# Steps and layers that tell of all of them what memory they need: between these steps it changes
# evenly, and layers are alike.
STEPS, LAYERS = 5, 2


@dataclass(frozen=True)
class Shapes:
    """What shapes tell of a case: as in `predict.Prediction`."""

    params: int
    params_bytes: int
    kv_cache_bytes: tuple[int, ...]
    flops: tuple[int, ...]


def shapes(case: Baseline) -> Shapes:
    with torch.device("meta"):
        networks = [part.build() for part in need().parts(case)]
    method, run = (
        need().method_of(case, networks[0]),
        stack(case.stack, case.precision, case.attention),
    )
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    return Shapes(
        params=counts[0],
        params_bytes=sum(counts) * run.weights.itemsize,
        kv_cache_bytes=(method.cache_bytes(case.batch_size, run),) * method.steps,
        flops=method.flops(case.batch_size),
    )


def decoder_flops(case: Baseline) -> int:
    """Of the image decoder, one image."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        decoder = need().parts(case)[1].build()
        match case:
            case cases.DiT():
                decoder(torch.empty(1, 4, 32, 32))
            case cases.MAR():
                decoder(torch.empty(1, 16, 16, 16))
            case _:
                decoder(torch.zeros(1, case.all_steps, dtype=torch.int64))
    return counter.get_total_flops()


def footprint(case: Baseline) -> Footprint:
    """From a decode on tensors without data."""
    if isinstance(case, cases.MAR):  # whose denoising steps are alike too
        case = case.model_copy(update={"denoising_steps": min(3, case.denoising_steps)})
    run = stack(case.stack, case.precision, case.attention)
    return of_config(
        need().config_of(case), lambda model: need().method_of(case, model), run, case.device
    )


def of_config(
    config: Any, method_of: Callable[[nn.Module], Method], run: Stack, device: str
) -> Footprint:
    """The footprint of a method with a model of these sizes: of STEPS steps, each of which tells
    of those near it, through LAYERS layers; the others only add their cache.

    device: "cpu" or "cuda", which need not be there.
    """
    build = need().build
    with torch.device("meta"):
        shallow, deep = build(replace(config, depth=min(LAYERS, config.depth))), build(config)
    method, whole = method_of(shallow), method_of(deep)
    method.model.to(run.weights)
    chosen = spread(method.steps, STEPS)

    def decode(on_step: OnScale) -> object:
        return generate(method, [0] * PRIME, 0, run, on_step, chosen)

    told = watched([method.model], decode, device, run.attention)
    more = np.array([0, whole.cache_bytes(1, run) - method.cache_bytes(1, run)])
    times = stand_for(chosen, method.steps)
    return Footprint(
        tuple(peak + more for peak, n in zip(told.peaks, times, strict=True) for _ in range(n)),
        tuple(live + more for live, n in zip(told.live, times, strict=True) for _ in range(n)),
    )
