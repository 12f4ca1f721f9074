"""Rows of pictures, as samplers make them and figures draw them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Row:
    """label: what the row is.  images: (C, 3, H, W) in [0, 1].  facts: a line each below it."""

    label: str
    images: torch.Tensor
    facts: Sequence[str] = ()


@dataclass(frozen=True)
class Head:
    """Words above `columns` pictures in a row."""

    words: str
    columns: int = 1
