"""What a baseline is: a method without scales that the papers compare with.

A module registers one class, with all that is known of it: settings, sizes, published weights,
network and steps.  Torch and the network's libraries are imported in its functions only.
"""

from __future__ import annotations

import importlib
import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from bench.study.cases import MINI, Case
from bench.study.errors import NotInstalledError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.methods.image_decoders import ImageDecoder
    from bench.methods.steps import Method


class Baseline(Case):
    """A method that makes images in steps: rounds, denoising steps or tokens.

    size: of its published family.  cfg: guidance, as in its own evaluation.  max_steps: run so
    many of its steps, evenly spread, and let each stand for those near it: a time without images.
    sizes: of its network, by `size`; a dataclass with a `depth` of layers that are alike.
    image_decoder: a name of `bench.methods.image_decoders`.
    """

    size: str
    cfg: float = Field(..., ge=1)
    max_steps: int | None = Field(None, ge=1)
    sizes: ClassVar[Mapping[str, Any]]
    image_decoder: ClassVar[str]

    @property
    @abstractmethod
    def all_steps(self) -> int:
        """Of a decode: rounds, denoising steps or tokens."""

    @property
    @abstractmethod
    def network_name(self) -> str:
        """Of its weights, in `published` and in a folder."""

    @abstractmethod
    def network(self, sizes: Any) -> nn.Module:
        """Its transformer."""

    @abstractmethod
    def decoding(self, network: Any) -> Method:
        """Its decode with that network."""

    @property
    def network_module(self) -> Any:
        """The module `network` of its package, which imports torch."""
        return importlib.import_module(".network", type(self).__module__)

    @property
    def network_sizes(self) -> Any:
        """The published sizes of its network."""
        return self.sizes[self.size]

    def renamed(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A published state dict under the names of its network."""
        return dict(tensors)

    def as_much_memory(self) -> Baseline:
        """A case that is quicker to simulate and needs as much memory in each step."""
        return self

    @property
    def steps(self) -> str:
        """Steps run, of how many."""
        return f"{self.max_steps} of {self.all_steps}" if self.in_part else str(self.all_steps)

    @property
    def in_part(self) -> bool:
        """Whether fewer steps are run than an image takes."""
        return self.max_steps is not None and self.max_steps < self.all_steps

    def model_names(self) -> tuple[str, ...]:
        """Weights it needs: the network's and the image decoder's."""
        return self.network_name, self.image_decoder

    @field_validator("weights")
    @classmethod
    def _weights_are_to_be_had(cls, weights: str) -> str:
        if weights == "finetuned" or weights.startswith(MINI):
            raise ValueError(f"weights must be seeded, published or a folder here, not {weights}")
        return weights


def networks(case: Baseline) -> tuple[nn.Module, ImageDecoder]:
    """Transformer and image decoder on the meta device, where shapes are all there is.

    Raises NotInstalledError if a library of theirs is not installed.
    """
    # Diffusers imports it where it is there, and it complains of kernels that nobody asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import torch

        from bench.methods.image_decoders import ImageDecoder

        with torch.device("meta"):
            return case.network(case.network_sizes), ImageDecoder(case.image_decoder)
    except ModuleNotFoundError as e:
        missing = (e.name or "").partition(".")[0]
        if missing not in ("diffusers", "timm"):
            raise
        raise NotInstalledError(
            f"{case.method} needs {missing}: pip install -e '.[baselines]', or leave it out: "
            f"--set method=var,code,variant"
        ) from None
