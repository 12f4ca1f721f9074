"""Which tokens of a cache stay: scores of keys, and the choice.

A score takes `Keys` and gives (B, H, K), registered by the name that plans write.  One whose name
begins with "observed" sees the queries of some tokens of the map, which stay in any case; one that
begins with "attended" those of others, which may go.

Shapes: B rows of the batch, H heads, o queries that observe, K keys of the cache with the map in
hand, c per head, n tokens that stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from codevar.registry import Registry

NEIGHBOURS = 5  # keys over which a score is pooled
SCORES = Registry("score")
#: Tokens of a map whose queries a score sees, at most, by how its name begins.
OBSERVERS = {"observed": 16, "attended": 32}


@dataclass(frozen=True)
class Keys:
    """What a score is given.

    k_BHKc: keys of the cache, the map's own last.  q_BHoc: queries of the observing tokens, as
    attention takes them, scaled; seen_o: positions of these tokens' own keys.  Both are empty for
    a score that does not observe.  chance: (B, H, K) random numbers that depend on nothing but the
    images and what they are about.  ends: how many keys the first two scales have, and the map.
    """

    k_BHKc: torch.Tensor
    q_BHoc: torch.Tensor
    seen_o: torch.Tensor
    chance: Callable[[], torch.Tensor]
    ends: tuple[int, int] = (0, 0)


def observing(score: str) -> int:
    """How many tokens' queries the score sees, at most."""
    return next((most for name, most in OBSERVERS.items() if score.startswith(name)), 0)


def observers(score: str, side: int, device: torch.device) -> torch.Tensor:
    """(o,) tokens of a map of side x side whose queries the score sees: the centres of its 4 x 4
    patches (ScaleKV, Section 3.3) or evenly spaced ones (HACK, Section 4.3); of a small map all."""
    count = min(side * side, observing(score))
    if side < 4 or not score.startswith("observed"):
        return torch.arange(count, device=device) * side * side // max(1, count)
    step = side // 4
    middles = torch.arange(4, device=device) * step + (step - 1) // 2
    return (middles[:, None] * side + middles).flatten()


def chosen(score_BHK: torch.Tensor, seen_o: torch.Tensor, budget: int) -> torch.Tensor:
    """(B, H, n) rising positions of the `budget` keys that stay: those of the observing tokens, and
    of the others the highest."""
    if not len(seen_o):
        return score_BHK.topk(budget).indices.sort(dim=-1).values
    scores_BHK = score_BHK.index_fill(-1, seen_o, -torch.inf)
    best_BHn = scores_BHK.topk(budget - len(seen_o), sorted=False).indices
    seen_BHo = seen_o.expand(*best_BHn.shape[:2], -1)
    return torch.cat((seen_BHo, best_BHn), dim=-1).sort(dim=-1).values


@SCORES.register("observed")
def observed(of: Keys) -> torch.Tensor:
    """(B, H, K) by ScaleKV's paper: what the observing tokens attend to most."""
    scores_BHK = (of.q_BHoc.float() @ of.k_BHKc.float().mT).softmax(dim=-1).sum(dim=2)
    scores_BHK.index_fill_(-1, of.seen_o, 0)
    return F.avg_pool1d(scores_BHK, NEIGHBOURS, stride=1, padding=NEIGHBOURS // 2)


@SCORES.register("observed_maxpool")
def observed_maxpool(of: Keys) -> torch.Tensor:
    """The same by ScaleKV's code: sums of raw products, and the highest of five neighbours."""
    products_BHK = (of.q_BHoc.float() @ of.k_BHKc.float().mT).sum(dim=2)
    products_BHK.index_fill_(-1, of.seen_o, -torch.inf)
    return F.max_pool1d(products_BHK, NEIGHBOURS, stride=1, padding=NEIGHBOURS // 2)


@SCORES.register("attended")
def attended(of: Keys) -> torch.Tensor:
    """What evenly spaced tokens of the map attend to most, as HACK's contextual heads keep."""
    return (of.q_BHoc.float() @ of.k_BHKc.float().mT).softmax(dim=-1).sum(dim=2)


@SCORES.register("attended_structural")
def attended_structural(of: Keys) -> torch.Tensor:
    """The same, but first the keys of the first two scales and of the map, as HACK's structural
    heads keep."""
    scores_BHK, (first, last) = attended(of), of.ends
    above_all = of.q_BHoc.shape[2] + 1
    scores_BHK[..., :first] += above_all
    scores_BHK[..., scores_BHK.shape[-1] - last :] += above_all
    return scores_BHK


@SCORES.register("random")
def random(of: Keys) -> torch.Tensor:
    """Any keys: the control."""
    return of.chance()
