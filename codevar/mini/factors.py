"""A small network that reads all that an image of the mini world was made by.

So a method can be asked what it loses: late scales settle textures, early ones the place.

Shapes: B images, H = W = side, F outputs.
"""

import os
from itertools import accumulate, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from codevar.mini.world import CHOICES

READER = "codevar-factors"  # what records call it
PLACE = ("x", "y", "radius")
OUTPUTS = sum(CHOICES.values()) + len(PLACE)
WIDTHS = (3, 16, 32, 48, 64)  # channels; each halves the side
UNIT = 10  # a place is read in tenths of the side, from the middle

#: (B, n) logits of each factor that is one of a few, and (B,) x, y and radius in shares of the
#: side, x and y from the middle.
Factors = dict[str, torch.Tensor]


class FactorReader(nn.Module):
    """Four convolutions with strides, each normalised, and one linear layer over all places.

    side: of its images in pixels, a multiple of 16.
    """

    def __init__(self, side: int = 48) -> None:
        super().__init__()
        self.side = side
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(n, m, 3, 2, 1), nn.GroupNorm(8, m), nn.SiLU())
                for n, m in pairwise(WIDTHS)
            )
        )
        self.head = nn.Linear(WIDTHS[-1] * (side // 16) ** 2, OUTPUTS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, F) of images (B, 3, H, W) in [0, 1]; `told` says what is where."""
        return self.head(self.layers(images * 2 - 1).flatten(1))


def told(outputs_BF: torch.Tensor) -> Factors:
    """A reader's outputs by factor."""
    ends = list(accumulate(CHOICES.values()))
    starts = [0, *ends]
    found = {
        name: outputs_BF[:, start:end]
        for name, start, end in zip(CHOICES, starts, ends, strict=False)
    }
    places = (outputs_BF[:, ends[-1] :] / UNIT).unbind(1)
    return found | dict(zip(PLACE, places, strict=True))


def of_side(factors: Factors, side: int) -> Factors:
    """`World.factors` as a reader tells them: places in shares of the side, from the middle."""
    middle = {"x": 0.5, "y": 0.5, "radius": 0.0}
    return factors | {name: factors[name] / side - middle[name] for name in PLACE}


def losses(outputs_BF: torch.Tensor, factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropies and squared errors summed, and (B,) whether all choices are read right.

    factors: of `of_side`.
    """
    read = told(outputs_BF)
    loss = outputs_BF.new_zeros(())
    right_B = torch.ones(len(outputs_BF), dtype=torch.bool, device=outputs_BF.device)
    for name in CHOICES:
        loss = loss + F.cross_entropy(read[name], factors[name])
        right_B &= read[name].argmax(1) == factors[name]
    for name in PLACE:
        loss = loss + F.mse_loss(UNIT * read[name], UNIT * factors[name])
    return loss, right_B


def load_factor_reader(
    path: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> FactorReader:
    """A trained reader in evaluation mode, in float32."""
    tensors = {name: tensor.float() for name, tensor in load_file(Path(path)).items()}
    cells = tensors["head.weight"].shape[1] // WIDTHS[-1]
    model = FactorReader(16 * round(cells**0.5))
    model.load_state_dict(tensors)
    return model.to(device).eval()
