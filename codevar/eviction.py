"""Which tokens of a cache stay: scores of keys, and the choice.

Shapes: B rows of the batch, H heads, o queries that observe, K keys of the cache with the map in
hand, c per head, n tokens that stay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from codevar.noise import hashed

NEIGHBOURS = 5  # keys over which a score is pooled


def observers(side: int, device: torch.device) -> torch.Tensor:
    """(o,) tokens of a map of side x side whose queries score the cache: the centres of its 4 x 4
    patches (ScaleKV, Section 3.3); of a smaller map all."""
    if side < 4:
        return torch.arange(side * side, device=device)
    step = side // 4
    middles = torch.arange(4, device=device) * step + (step - 1) // 2
    return (middles[:, None] * side + middles).flatten()


def observed(
    q_BHoc: torch.Tensor, k_BHKc: torch.Tensor, seen_o: torch.Tensor, budget: int
) -> torch.Tensor:
    """(B, H, n) rising positions of the `budget` keys that stay by ScaleKV's paper: those of the
    observing tokens, and what these attend to most.

    q_BHoc: as attention takes them, scaled.  seen_o: positions of the observing tokens' own keys.
    """
    scores_BHK = (q_BHoc.float() @ k_BHKc.float().mT).softmax(dim=-1).sum(dim=2)
    scores_BHK.index_fill_(-1, seen_o, 0)
    pooled_BHK = F.avg_pool1d(scores_BHK, NEIGHBOURS, stride=1, padding=NEIGHBOURS // 2)
    return _highest_and(pooled_BHK, seen_o, budget)


def observed_maxpool(
    q_BHoc: torch.Tensor, k_BHKc: torch.Tensor, seen_o: torch.Tensor, budget: int
) -> torch.Tensor:
    """The same by ScaleKV's code: sums of raw products, and the highest of five neighbours."""
    products_BHK = (q_BHoc.float() @ k_BHKc.float().mT).sum(dim=2)
    products_BHK.index_fill_(-1, seen_o, -torch.inf)
    pooled_BHK = F.max_pool1d(products_BHK, NEIGHBOURS, stride=1, padding=NEIGHBOURS // 2)
    return _highest_and(pooled_BHK, seen_o, budget)


def random(salt_B: torch.Tensor, about: tuple[int, ...], keys: int, heads: int, budget: int):
    """(B, H, n) rising positions of any `budget` keys: the control."""
    scores_BHK = hashed(salt_B, about, heads * keys).unflatten(-1, (heads, keys))
    return scores_BHK.topk(budget).indices.sort(dim=-1).values


def _highest_and(scores_BHK: torch.Tensor, seen_o: torch.Tensor, budget: int) -> torch.Tensor:
    """Positions of the highest besides the seen, and of these."""
    scores_BHK = scores_BHK.index_fill(-1, seen_o, -torch.inf)
    best_BHn = scores_BHK.topk(budget - len(seen_o), sorted=False).indices
    seen_BHo = seen_o.expand(*best_BHn.shape[:2], -1)
    return torch.cat((seen_BHo, best_BHn), dim=-1).sort(dim=-1).values
