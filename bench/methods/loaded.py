"""A case with its weights, ready to decode."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import codevar
from bench.methods import baselines
from bench.methods.generator import Generator, Made, labels_of
from bench.methods.meta import check_depths, configs
from bench.methods.sources import source_of
from bench.study.cases import Baseline, Case, VARCase
from codevar import VQVAE
from codevar.checkpoints import Source
from codevar.decoding import generate, images_of
from codevar.outputs import Generated, OnScale
from codevar.plan import Plan
from codevar.stacks import M, Stack, stack


def load(case: Case, download: bool) -> Generator:
    """A case that can be run.  Raises CheckpointError."""
    if isinstance(case, Baseline):
        return baselines.need().Loaded.of(case, download)
    assert isinstance(case, VARCase)
    return Loaded.of(case, download)


@dataclass
class Loaded:
    """A case that is a plan, with its weights, and how it runs."""

    case: VARCase
    plan: Plan
    vqvae: VQVAE
    how: Stack
    sources: list[Source]
    prepare_s: float = 0.0

    @classmethod
    def of(cls, case: VARCase, download: bool) -> Loaded:
        """Raises CheckpointError; UsageError for weights of another depth than the case's."""
        configs(case)
        how = stack(case.stack, case.precision, case.attention)
        sources = [source_of(case, name) for name in case.model_names()]
        options: dict[str, Any] = {"device": case.device, "dtype": how.weights}
        options["download"] = download
        prepare_s = 0.0

        def ready(model: M) -> M:
            nonlocal prepare_s
            began = time.perf_counter()
            how.prepare(model)
            prepare_s += time.perf_counter() - began
            return model

        # One after the other, as packing takes memory of its own.
        models = [ready(codevar.load_var(source, **options)) for source in sources]
        check_depths(case, (model.config for model in models))
        plan = case.plan(*models)
        options["patch_sizes"] = plan.scales.patch_sizes
        vqvae = ready(codevar.load_vqvae(source_of(case, case.vqvae_name), **options))
        return cls(case, plan, vqvae, how, sources, prepare_s)

    @property
    def networks(self) -> list[nn.Module]:
        return [*self.plan.models, self.vqvae]

    @property
    def step_names(self) -> list[str]:
        return [f"scale {k}" for k in range(1, self.plan.scales.K + 1)]

    @property
    def stands_for(self) -> tuple[int, ...]:
        return ()

    @property
    def in_graph(self) -> bool:
        return False

    def decode(self, on_scale: OnScale, batch: int = 0) -> Generated:
        """The case's decode, up to the VQVAE's decoder."""
        sampling, seed = self.case.sampling_settings(), self.case.seed + batch
        labels = labels_of(self.case, self.plan.models[0].config.classes, batch)
        return generate(self.plan, self.vqvae, labels, sampling, seed, self.how, on_scale=on_scale)

    def images(self, made: Made) -> torch.Tensor:
        assert isinstance(made, Generated)
        return images_of(made, self.vqvae, self.how)
