"""What the harness runs: a case with its weights, whatever its method.

`loaded.Loaded` is one for the methods that are plans, `loaded.LoadedBaseline` for the others;
timing, memory and records know only this.  A "step" is a scale there, and here a round, a
denoising step or a token.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from bench.study.cases import Case
from codevar.outputs import OnScale


class Made(Protocol):
    """What a decode made, before the image decoder.

    tokens: whatever comes out, to know it again.  kv_cache_bytes: held during each step.
    """

    @property
    def tokens(self) -> torch.Tensor: ...

    @property
    def kv_cache_bytes(self) -> tuple[int, ...]: ...


class Generator(Protocol):
    """sources: where the weights are from.  stands_for: of a case that runs few of its steps,
    how many steps each of those stands for; else empty.  prepare_s: what it took, of its making,
    to get the models ready for their stack."""

    sources: list[str]
    prepare_s: float

    @property
    def networks(self) -> list[nn.Module]:
        """All that has weights, the image decoder too."""
        ...

    @property
    def step_names(self) -> list[str]:
        """Of the steps that run."""
        ...

    @property
    def stands_for(self) -> tuple[int, ...]: ...

    @property
    def in_graph(self) -> bool:
        """Whether torch makes CUDA graphs of its steps, which our own `codevar.graphs` are not."""
        ...

    def decode(self, on_step: OnScale, batch: int = 0) -> Made:
        """One decode, up to the image decoder; `batch` changes classes and seed.

        on_step: called with 0 before the first step and with 1, 2, ... after each.
        """
        ...

    def images(self, made: Made) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1]."""
        ...


def labels_of(case: Case, classes: int, batch: int) -> list[int]:
    """Classes of the images, other ones in each batch."""
    first = batch * case.batch_size
    return [i * 37 % classes for i in range(first, first + case.batch_size)]
