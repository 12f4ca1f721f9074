"""The baselines as the harness sees them: built, loaded, run, and predicted without weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from bench.methods.baselines import aim, dit, llamagen, mar
from bench.methods.baselines import weights as checkpoints
from bench.methods.baselines.decoders import ImageDecoder, renamed
from bench.methods.baselines.method import Made, Method, generate, spread, stand_for
from bench.methods.generator import labels_of
from bench.study import cases
from bench.study.cases import Baseline
from codevar.checkpoints import Source
from codevar.compiled import can_compile
from codevar.outputs import OnScale
from codevar.stacks import Stack, stack

Config = dit.DiTConfig | mar.MARConfig | llamagen.LlamaGenConfig | aim.AiMConfig


@dataclass
class Loaded:
    """A `bench.methods.generator.Generator`."""

    case: Baseline
    method: Method
    decoder: ImageDecoder
    how: Stack
    sources: list[Source]
    prepare_s: float = 0.0

    @classmethod
    def of(cls, case: Baseline, download: bool) -> Loaded:
        """Raises CheckpointError."""
        how = stack(case.stack, case.precision, case.attention)
        sources = [checkpoints.source_of(n, case.weights, case.seed) for n in case.model_names()]
        model, decoder = (
            checkpoints.load(
                part.build,
                source,
                part.rename,
                device=case.device,
                dtype=how.weights,
                download=download,
            )
            for part, source in zip(parts(case), sources, strict=True)
        )
        if isinstance(model, dit.DiT) and case.weights == "seeded":
            model.fix()
        assert isinstance(decoder, ImageDecoder)
        method = method_of(case, model)
        if how.compiles and can_compile(next(model.parameters()).device):
            method.compile()
        return cls(case, method, decoder, how, list(sources))

    @property
    def networks(self) -> list[nn.Module]:
        return [self.method.model, self.decoder]

    @property
    def chosen(self) -> tuple[int, ...]:
        return spread(self.method.steps, self.case.max_steps)

    @property
    def step_names(self) -> list[str]:
        return [f"step {i + 1}" for i in self.chosen]

    @property
    def stands_for(self) -> tuple[int, ...]:
        return stand_for(self.chosen, self.method.steps) if self.case.in_part else ()

    @property
    def in_graph(self) -> bool:
        return self.method.in_graph

    def decode(self, on_step: OnScale, batch: int = 0) -> Made:
        labels = labels_of(self.case, self.method.classes, batch)
        seed = self.case.seed + batch
        return generate(self.method, labels, seed, self.how, on_step, self.chosen)

    def images(self, made: Made) -> torch.Tensor:
        with self.how.running(made.tokens.device):
            return self.decoder(made.tokens)


# Which model a case is


class Part(NamedTuple):
    """How a network is built, and published names made its own."""

    build: Callable[[], nn.Module]
    rename: checkpoints.Rename


def parts(case: Baseline) -> tuple[Part, Part]:
    """Transformer and image decoder of a case."""
    model = functools.partial(build, config_of(case))
    decoder = functools.partial(ImageDecoder, case.model_names()[1])
    return Part(model, names_of(case)), Part(decoder, renamed)


def config_of(case: Baseline) -> Config:
    """The published sizes of the case's transformer."""
    match case:
        case cases.DiT():
            return dit.PUBLISHED[case.size]
        case cases.MAR():
            return mar.PUBLISHED[case.size]
        case cases.LlamaGen():
            return replace(llamagen.PUBLISHED[case.size], tokens=case.all_steps)
        case cases.AiM():
            return aim.PUBLISHED[case.size]
    raise NotImplementedError(case.method)


def build(config: Config) -> nn.Module:
    match config:
        case dit.DiTConfig():
            return dit.DiT(config)
        case mar.MARConfig():
            return mar.MAR(config)
        case llamagen.LlamaGenConfig():
            return llamagen.LlamaGen(config)
        case aim.AiMConfig():
            return aim.AiM(config)


def method_of(case: Baseline, model: nn.Module) -> Method:
    """The case's decode with that model."""
    match case, model:
        case cases.DiT(), dit.DiT():
            return dit.DDIM(model, case.sampling_steps, case.cfg)
        case cases.MAR(), mar.MAR():
            return mar.Rounds(model, case.rounds, case.denoising_steps, case.cfg)
        case cases.LlamaGen(), llamagen.LlamaGen():
            return llamagen.NextToken(model, case.cfg, case.top_k)
        case cases.AiM(), aim.AiM():
            return aim.NextToken(model, case.cfg, case.top_k)
    raise NotImplementedError(case.method)


def names_of(case: Baseline) -> checkpoints.Rename:
    """What is to be done to a published state dict's names."""
    if isinstance(case, cases.AiM):
        return aim_names
    return lambda tensors: {n: t for n, t in tensors.items() if n != "freqs_cis"}


def aim_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """AiM's file holds its tokenizer too, and its head, which is its embedding."""
    found = {n.removeprefix("mamba."): t for n, t in tensors.items() if not n.startswith("vqvae.")}
    found.pop("lm_head.weight", None)
    return found


# Predicted
