"""The small models whose outputs `tests/data/baselines.npz` has, and an AiM of their size."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch

from bench.methods.baselines.aim import AiMCase, AiMConfig
from bench.methods.baselines.dit import DiTCase, DiTConfig
from bench.methods.baselines.llamagen import LlamaGenCase, LlamaGenConfig
from bench.methods.baselines.mar import MARCase, MARConfig
from bench.methods.published import load
from codevar.stacks import stack

DATA = Path(__file__).parents[1] / "data"
REFERENCE = np.load(DATA / "baselines.npz")
META = json.loads(str(REFERENCE["meta"]))
LAYOUTS = json.loads((DATA / "baseline_layouts.json").read_text())
MODERN = stack("modern")

DIT = DiTConfig(depth=3, width=96, heads=3, side=8, classes=10)
MAR = MARConfig(
    depth=2, width=96, heads=3, mlp_depth=2, mlp_width=64, tokens=16, buffer=8, classes=10
)
LLAMAGEN = LlamaGenConfig(depth=3, width=128, heads=2, tokens=64, vocab=256, classes=10)
AIM = AiMConfig(depth=6, width=64, tokens=16, vocab=96, classes=10, state=16, head=32, groups=4)


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(REFERENCE[name])


KINDS = {DiTConfig: DiTCase, MARConfig: MARCase, LlamaGenConfig: LlamaGenCase, AiMConfig: AiMCase}
FEW = {DiTCase: {"sampling_steps": 5}, MARCase: {"rounds": 8, "denoising_steps": 4}}


def case(config, **options):
    """A case of few steps, whose network is to have these sizes."""
    kind = KINDS[type(config)]
    return kind(**{"precision": "float32", **FEW.get(kind, {}), **options})


@cache
def model(config) -> torch.nn.Module:
    """A model with the weights of the reference: those that any seed gives by name and shape."""
    seed = META.get(f"{case(config).method}_small", {}).get("seed", 404)
    options = {"device": "cpu", "dtype": torch.float32, "download": False}
    made = load(empty(config), f"seeded:small:{seed}", **options)
    case(config).decoding(made)  # which gives DiT its position embedding
    return made.requires_grad_(False)


def empty(config) -> torch.nn.Module:
    """A model without weights."""
    with torch.device("meta"):
        return case(config).network(config)


def method(config, **options):
    """A decode of few steps."""
    return case(config, **options).decoding(model(config))


def logits_of(decode, labels, tokens=None) -> torch.Tensor:
    """(2B, L, V) of every position after the tokens (B, L), zeros by default; then "no class"."""
    device = next(decode.model.parameters()).device
    labels_2B = torch.tensor([*labels, *[decode.classes] * len(labels)], device=device)
    with torch.no_grad():
        state = decode.start(labels_2B, torch.Generator(device), torch.float32)
        if tokens is not None:
            state.tokens_BL[:, : tokens.shape[1]] = tokens
        made = [decode.logits(decode.input(state, i), state, i) for i in range(decode.steps)]
    return torch.cat(made, dim=1)


ALL = [DIT, MAR, LLAMAGEN, AIM]
NAMES = ["dit", "mar", "llamagen", "aim"]
