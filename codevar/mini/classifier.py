"""A small classifier of the mini world; its features take the place of Inception's.

Shapes: B images, H W pixels, F features.
"""

import os
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

FEATURES = 128


class Classifier(nn.Module):
    """Four convolutions with strides, each normalised, then the mean over the picture."""

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width, FEATURES]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n, m, 3, stride=2, padding=1), nn.GroupNorm(8, m), nn.SiLU())
            for n, m in pairwise(widths)
        )
        self.mix = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.head = nn.Linear(FEATURES, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, F) of images (B, 3, H, W) in [0, 1]."""
        x = images * 2 - 1
        for layer in self.layers:
            x = layer(x)
        return F.silu(self.mix(x)).mean(dim=(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, classes) logits."""
        return self.head(self.features(images))


def load_classifier(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Classifier:
    """A trained classifier in evaluation mode, in float32."""
    tensors = {name: tensor.float() for name, tensor in load_file(Path(path)).items()}
    classes, width = tensors["head.weight"].shape[0], tensors["layers.0.0.weight"].shape[0]
    model = Classifier(classes, width)
    model.load_state_dict(tensors)
    return model.to(device).eval()
