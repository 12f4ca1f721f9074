"""SparseVAR: a scale reads only the tokens that changed most at an earlier one, and anchors; the
others copy what comes out for an anchor, or add nothing to the image.

Shapes: B images, R rows of their halves, m tokens of the map that is looked back at, l of the map
in hand, k of them that are kept, C width.
"""

import math

import torch
import torch.nn.functional as F

STRIDE = 4  # of the grid of anchors
ALIKE = 0.8  # the least cosine at which a token copies an anchor
HEAD = -1  # stands for a layer: what the head reads of the map that is looked back at


def middle(depth: int) -> tuple[int, ...]:
    """Layers whose change is a token's importance: the third of Infinity's eight parts."""
    first = depth // 4
    return tuple(range(first, max(first + 1, depth * 3 // 8)))


def anchors(side: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(l,) bool: a grid of every fourth row and column, and the last ones."""
    at = torch.arange(side, device=device)
    on_grid = (at % STRIDE == 0) | (at == side - 1)
    return (on_grid[:, None] & on_grid).flatten()


def least_kept(tokens: int) -> int:
    """Anchors of a map of so many tokens."""
    side = math.isqrt(tokens)
    return len({*range(0, side, STRIDE), side - 1}) ** 2


def nearest(small: int, side: int, device: torch.device) -> torch.Tensor:
    """(l,) of a smaller map the token that lies where each token does."""
    at = torch.arange(side, device=device) * small // side
    return (at[:, None] * small + at).flatten()


def importance(change_RmC: torch.Tensor, images: int, side: int) -> torch.Tensor:
    """(B, l) mean square of what the layers changed, over both halves, enlarged."""
    square_Bm = change_RmC.square().mean(-1).unflatten(0, (-1, images)).mean(0)
    small = math.isqrt(square_Bm.shape[1])
    return square_Bm[:, nearest(small, side, square_Bm.device)]


def most_important(scores_Bl: torch.Tensor, kept: int) -> torch.Tensor:
    """(B, k) the anchors and those of the highest scores; of equals the first."""
    grid_l = anchors(math.isqrt(scores_Bl.shape[1]), scores_Bl.device)
    scores_Bl = scores_Bl.masked_fill(grid_l, torch.inf)
    return scores_Bl.sort(dim=-1, descending=True, stable=True).indices[:, :kept]


def stand_ins(
    before_RmC: torch.Tensor, kept_Bk: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, l) whose output each token takes: its own or, of the four anchors around it, the one
    that was most like it; and (B, l) bool, those that are like none.

    before_RmC: what the head read of the map that is looked back at.
    """
    B, device = len(kept_Bk), kept_Bk.device
    unit_RmC = F.normalize(before_RmC, dim=-1)
    cell_l = nearest(math.isqrt(unit_RmC.shape[1]), side, device)
    own_RlC = unit_RmC[:, cell_l]
    at = torch.arange(side, device=device)
    low = at // STRIDE * STRIDE
    ends = low, (low + STRIDE).clamp_max(side - 1)
    corner_4l = torch.stack([(y[:, None] * side + x).flatten() for y in ends for x in ends])
    alike_B4l = torch.stack(
        [
            (own_RlC * unit_RmC[:, cell_l[corner_l]]).sum(-1).unflatten(0, (-1, B)).mean(0)
            for corner_l in corner_4l
        ],
        dim=1,
    )
    most_Bl, which_Bl = alike_B4l.max(dim=1)
    copied_Bl = corner_4l.expand(B, -1, -1).gather(1, which_Bl[:, None]).squeeze(1)
    runs_Bl = torch.zeros_like(copied_Bl, dtype=torch.bool).scatter_(1, kept_Bk, True)
    self_l = torch.arange(side * side, device=device)
    return torch.where(runs_Bl, self_l, copied_Bl), ~runs_Bl & (most_Bl <= ALIKE)
