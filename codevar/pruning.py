"""Which tokens of a map go through a layer's branch, and what the others get.

A selector takes the map (B, l, C), how many tokens stay, and a function that gives (B, l) random
numbers of the images; it gives (B, k) their places.  A restorer takes a branch's output for an
earlier map (B, m, C) and the number of tokens l; it gives (B, l, C) of its own.  Both are
registered by the names that plans write.

Shapes: B rows of the batch, l tokens of the map, k that are kept, m of the map that is restored
from, C width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from codevar.registry import Registry

SELECTORS, RESTORERS = Registry("selector"), Registry("restorer")
#: (B, l) random numbers that depend on nothing but the images and what they are about.
Chance = Callable[[], torch.Tensor]


@SELECTORS.register("fastvar")
def farthest(x_BlC: torch.Tensor, kept: int, chance: Chance) -> torch.Tensor:
    """(B, k) the tokens farthest from their map's mean, by falling distance (FastVAR, Section
    3.2: what changes quickly from place to place)."""
    distance_Bl = torch.linalg.vector_norm(x_BlC - x_BlC.mean(dim=1, keepdim=True), dim=-1)
    return distance_Bl.topk(kept).indices


@SELECTORS.register("random")
def random(x_BlC: torch.Tensor, kept: int, chance: Chance) -> torch.Tensor:
    """(B, k) any tokens: the control."""
    return chance().topk(kept).indices


@RESTORERS.register("area")
def enlarged(source_BmC: torch.Tensor, tokens: int) -> torch.Tensor:
    """(B, l, C) a square map at another size, each cell the mean of what it covers (FastVAR,
    Section 3.3)."""
    small, large = math.isqrt(source_BmC.shape[1]), math.isqrt(tokens)
    source_BCpp = source_BmC.mT.unflatten(-1, (small, small))
    return F.interpolate(source_BCpp, size=(large, large), mode="area").flatten(2).mT


def taken(x_BlC: torch.Tensor, kept_Bk: torch.Tensor) -> torch.Tensor:
    """(B, k, C) these tokens."""
    # By whole rows: a gather of all numbers would look up a place for each.
    B, length, _ = x_BlC.shape
    rows_Bk = kept_Bk + length * torch.arange(B, device=x_BlC.device)[:, None]
    return x_BlC.flatten(0, 1).index_select(0, rows_Bk.flatten()).unflatten(0, kept_Bk.shape)


def put(x_BlC: torch.Tensor, kept_Bk: torch.Tensor, new_BkC: torch.Tensor) -> torch.Tensor:
    """x with these tokens in their places, in place."""
    rows_B1 = torch.arange(len(x_BlC), device=x_BlC.device)[:, None]
    return x_BlC.index_put_((rows_B1, kept_Bk), new_BkC)
