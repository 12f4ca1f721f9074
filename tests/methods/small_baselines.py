"""The small models whose outputs `tests/data/baselines.npz` has, and an AiM of their size."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch

from bench.methods.baselines import aim, dit, llamagen, mar
from bench.methods.baselines.harness import Config, build
from bench.methods.baselines.weights import load
from codevar.stacks import stack

DATA = Path(__file__).parents[1] / "data"
REFERENCE = np.load(DATA / "baselines.npz")
META = json.loads(str(REFERENCE["meta"]))
LAYOUTS = json.loads((DATA / "baseline_layouts.json").read_text())
MODERN = stack("modern")

DIT = dit.DiTConfig(depth=3, width=96, heads=3, side=8, classes=10)
MAR = mar.MARConfig(
    depth=2, width=96, heads=3, mlp_depth=2, mlp_width=64, tokens=16, buffer=8, classes=10
)
LLAMAGEN = llamagen.LlamaGenConfig(depth=3, width=128, heads=2, tokens=64, vocab=256, classes=10)
AIM = aim.AiMConfig(depth=6, width=64, tokens=16, vocab=96, classes=10, state=16, head=32, groups=4)


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(REFERENCE[name])


@cache
def model(config: Config) -> torch.nn.Module:
    """A model with the weights of the reference: those that any seed gives by name and shape."""
    names = {dit.DiTConfig: "dit_small", mar.MARConfig: "mar_small"}
    names[llamagen.LlamaGenConfig] = "llamagen_small"
    seed = META.get(names.get(type(config), ""), {}).get("seed", 404)
    options = {"device": "cpu", "dtype": torch.float32, "download": False}
    made = load(lambda: build(config), f"seeded:small:{seed}", **options)
    if isinstance(made, dit.DiT):
        made.fix()
    return made.requires_grad_(False)


def method(config: Config, **options):
    """A decode of few steps."""
    match model(config):
        case dit.DiT() as net:
            return dit.DDIM(net, **{"steps": 5, **options})
        case mar.MAR() as net:
            return mar.Rounds(net, **{"rounds": 8, "denoising_steps": 4, **options})
        case llamagen.LlamaGen() as net:
            return llamagen.NextToken(net, **options)
        case aim.AiM() as net:
            return aim.NextToken(net, **options)


ALL = [DIT, MAR, LLAMAGEN, AIM]
NAMES = ["dit", "mar", "llamagen", "aim"]
