"""Parameters, FLOPs and memory of the baselines, from shapes alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.methods.baseline import Baseline, networks
from bench.methods.steps import generate, spread, stand_for
from bench.predict.simulate import PRIME, Footprint, watched
from codevar.outputs import OnScale
from codevar.stacks import Stack, stack

# Steps and layers that tell of all of them what memory they need: between these steps it changes
# evenly, and layers are alike.
STEPS, LAYERS = 5, 2


def shapes(case: Baseline) -> dict[str, Any]:
    """What shapes tell of a case, under the names of `predict.Prediction`."""
    run, parts = stack(case.stack, case.precision, case.attention), networks(case)
    method = case.decoding(parts[0].to(run.weights))
    counts = [sum(p.numel() for p in network.parameters()) for network in parts]
    return {
        "params": counts[0],
        "params_bytes": sum(counts) * run.weights.itemsize,
        "kv_cache_bytes": (method.cache_bytes(case.batch_size, run),) * method.steps,
        "flops": method.flops(case.batch_size),
    }


def decoder_flops(case: Baseline) -> int:
    """Of the image decoder, one image."""
    network, decoder = networks(case)
    labels_2B = torch.zeros(2, dtype=torch.long, device="meta")
    with torch.no_grad():
        state = case.decoding(network).start(labels_2B, torch.Generator(), torch.float32)
    with FlopCounterMode(display=False) as counter:
        decoder(state.result())
    return counter.get_total_flops()


def footprint(case: Baseline) -> Footprint:
    """From a decode on tensors without data."""
    networks(case)  # or say what is not installed
    run = stack(case.stack, case.precision, case.attention)
    return of_sizes(case.as_much_memory(), case.network_sizes, run, case.device)


def of_sizes(case: Baseline, sizes: Any, run: Stack, device: str) -> Footprint:
    """The footprint of a baseline with a network of these sizes: of STEPS steps, each of which
    tells of those near it, through LAYERS layers; the others only add their cache.

    device: "cpu" or "cuda", which need not be there.
    """
    with torch.device("meta"):
        few = case.network(replace(sizes, depth=min(LAYERS, sizes.depth)))
        all_layers = case.network(sizes)
    method, whole = (case.decoding(network.to(run.weights)) for network in (few, all_layers))
    more = np.array([0, whole.cache_bytes(1, run) - method.cache_bytes(1, run)])
    chosen = spread(method.steps, STEPS)

    def decode(on_step: OnScale) -> object:
        return generate(method, [0] * PRIME, 0, run, on_step, chosen)

    told = watched([method.model], decode, device, run.attention)
    times = stand_for(chosen, method.steps)
    return Footprint(
        tuple(peak + more for peak, n in zip(told.peaks, times, strict=True) for _ in range(n)),
        tuple(live + more for live, n in zip(told.live, times, strict=True) for _ in range(n)),
    )
