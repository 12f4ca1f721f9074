"""Stacks: ways to run the same model, to see what good engineering leaves of a speed-up.

`published` is what the papers measured: float32 weights under autocast, float32 keys and
half-precision values in a cache that grows by concatenation, AdaLN recomputed at each scale, sorts
of all codes with their indices.
`modern` holds weights and cache in one precision, writes the cache in place, keeps only what a
later pass reads, computes the conditioning once an image and, on a CPU, has its weights laid out
for the kernels.
`compiled` is `modern` with what stands between the matrix products compiled and, on a GPU, all
kernels of a scale launched at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from codevar.cache import Form, GrowingCache, StaticCache
from codevar.compiled import chain_var, merge_biases
from codevar.config import VARConfig
from codevar.packed import can_pack, pack_var
from codevar.var import VAR
from codevar.vqvae import VQVAE

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# On a GPU flash takes no mask, and a refiner's first pass has one: there the memory-efficient
# kernel steps in, as it does for what cuDNN refuses.
ATTENTION: dict[str, list[SDPBackend]] = {
    "auto": [],
    "math": [SDPBackend.MATH],
    "efficient": [SDPBackend.EFFICIENT_ATTENTION],
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION],
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION],
}
STACKS = ("published", "modern", "compiled")

M = TypeVar("M", VAR, VQVAE)


@dataclass(frozen=True)
class Stack:
    """How a plan is run.  `stack(name, precision)` makes those that are compared.

    weights: precision the models must be loaded in.
    autocast: precision of autocast, or None.
    cache: `GrowingCache` or `StaticCache`.
    condition_once: AdaLN of all layers once an image rather than once a pass.
    as_published: top-k and top-p by sorts with indices, noise one number at a time; and what the
        published loop has in hand while it samples stays in memory here too; at CoDe's hand-over it
        has logits of all that the refiner reads, and draws for all of it.
    packs: weights in the layouts that kernels like: see `prepare`.
    compiles: the small operations between matrix products, too.
    graphs: on a GPU, decodes are captured and replayed: `codevar.graphs`.
    attention: a key of ATTENTION; `auto` leaves the choice to torch.
    """

    name: str
    weights: torch.dtype
    autocast: torch.dtype | None
    cache: type[GrowingCache] | type[StaticCache]
    condition_once: bool
    as_published: bool
    packs: bool
    compiles: bool
    graphs: bool
    attention: str = "auto"

    @property
    def precision(self) -> torch.dtype:
        """What matrix products run in."""
        return self.autocast or self.weights

    def token_bytes(self, config: VARConfig, bits: int = 16) -> int:
        """Bytes of a token's key and value in a head's cache; normalised keys come out of autocast
        as float32.  bits: below 16, of each number."""
        if bits < 16:
            return Form(self.precision, bits).token_bytes(config)
        value = self.precision.itemsize
        key = 4 if config.l2_norm and not self.cache.in_place else value
        return config.width // config.heads * (key + value)

    def prepare(self, model: M, device: str = "") -> M:
        """The model made ready for this stack, in place; it can then do nothing but decode.

        For `modern` a VAR on a CPU packs its weights, and a VQVAE's decoder has its channels last;
        `compiled` also compiles a VAR's blocks, or warns why it cannot.  A decode without this
        gives the same, later.  device: to assume for a model on the meta device.
        """
        if not self.packs:
            return model
        if isinstance(model, VQVAE):
            model.decoder.to(memory_format=torch.channels_last)
            return model
        if (device or model.device.type) in ("cpu", "meta") and can_pack(self.weights):
            pack_var(model, own_attention=self.attention == "auto")
        elif self.compiles:
            merge_biases(model)
        chain_var(model, self.compiles)
        return model

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Autocast and the attention backend, set for as long as the decode lasts."""
        backends = ATTENTION[self.attention]
        # Uncached, as for the frozen weights of the published code: each pass casts them anew,
        # and no half-precision copy of the model stays in memory.
        autocast = torch.autocast(
            device.type, self.autocast, enabled=self.autocast is not None, cache_enabled=False
        )
        chosen = sdpa_kernel(backends, set_priority=True) if backends else nullcontext()
        with autocast, chosen:
            yield


def stack(name: str, precision: str = "float32", attention: str = "auto") -> Stack:
    """The stack of that name.

    precision: `float32`, `bf16` or `fp16`.  attention: one of `ATTENTION`; torch keeps such a
    choice for the whole process, so threads must not decode with different ones at once.

    Raises ValueError for an unknown name.
    """
    for what, given, known in (
        ("stack", name, STACKS),
        ("precision", precision, PRECISIONS),
        ("attention", attention, ATTENTION),
    ):
        if given not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}, not {given}")
    dtype = PRECISIONS[precision]
    if name == "published":
        autocast = None if dtype == torch.float32 else dtype
        made = Stack(
            name,
            torch.float32,
            autocast,
            GrowingCache,
            condition_once=False,
            as_published=True,
            packs=False,
            compiles=False,
            graphs=False,
        )
    else:
        made = Stack(
            name,
            dtype,
            None,
            StaticCache,
            condition_once=True,
            as_published=False,
            packs=True,
            compiles=name == "compiled",
            graphs=name == "compiled",
        )
    return replace(made, attention=attention)
