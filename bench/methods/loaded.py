"""A case with its weights, ready to decode, whatever its method: a `Generator`.

What times and measures knows only this.  A "step" is a scale, a round, a denoising step or a token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

import codevar
from bench.methods import published, steps
from bench.methods.adapter import Adapter, Sampler
from bench.methods.baseline import Baseline, networks
from bench.methods.meta import check_depths, configs
from bench.methods.sources import source_of
from bench.study import plugins
from bench.study.cases import Case, VARCase
from codevar import VQVAE
from codevar.compiled import can_compile
from codevar.decoding import generate, images_of
from codevar.outputs import Generated, OnScale
from codevar.plan import Plan
from codevar.stacks import M, Stack, stack

if TYPE_CHECKING:
    from bench.methods.image_decoders import ImageDecoder


def labels_of(case: Case, classes: int, batch: int) -> list[int]:
    """Classes of the images, other ones in each batch."""
    first = batch * case.batch_size
    return [i * 37 % classes for i in range(first, first + case.batch_size)]


def load(case: Case, download: bool) -> Generator:
    """A case that can be run.  Raises CheckpointError."""
    if isinstance(case, Baseline):
        return LoadedBaseline.of(case, download)
    if isinstance(case, Adapter):
        return LoadedAdapter.of(case)
    assert isinstance(case, VARCase)
    return Loaded.of(case, download)


@dataclass
class Loaded:
    """A case that is a plan, with its weights, and how it runs.

    sources: where the weights are from.  prepare_s: what it took, of its making, to get the models
    ready for their stack.
    """

    case: VARCase
    plan: Plan
    vqvae: VQVAE
    how: Stack
    sources: list[str]
    prepare_s: float = 0.0
    images_apart: ClassVar[bool] = True

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
        models = [
            ready(codevar.quantise_weights(codevar.load_var(source, **options), case.weight_bits))
            for source in sources
        ]
        check_depths(case, (model.config for model in models))
        plan = case.plan(*models)
        options["patch_sizes"] = plan.scales.patch_sizes
        vqvae = ready(codevar.load_vqvae(source_of(case, case.vqvae_name), **options))
        return cls(case, plan, vqvae, how, sources, prepare_s)

    @property
    def networks(self) -> list[nn.Module]:
        """All that has weights, the image decoder too."""
        return [*self.plan.models, self.vqvae]

    @property
    def step_names(self) -> list[str]:
        """Of the steps that run."""
        return [f"scale {k}" for k in range(1, self.plan.scales.K + 1)]

    @property
    def stands_for(self) -> tuple[int, ...]:
        """Of a case that runs few of its steps, how many steps each of those stands for."""
        return ()

    @property
    def in_graph(self) -> bool:
        """Whether torch makes CUDA graphs of its steps, which `codevar.graphs` are not."""
        return False

    def decode(self, on_scale: OnScale, batch: int = 0) -> Generated:
        """The case's decode, up to the image decoder; `batch` changes classes and seed.

        on_scale: called with 0 before the first step and with 1, 2, ... after each.
        """
        sampling, seed = self.case.sampling_settings(), self.case.seed + batch
        labels = labels_of(self.case, self.plan.models[0].config.classes, batch)
        return generate(self.plan, self.vqvae, labels, sampling, seed, self.how, on_scale=on_scale)

    def images(self, made: Made) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1]."""
        assert isinstance(made, Generated)
        return images_of(made, self.vqvae, self.how)


@dataclass
class LoadedBaseline:
    """A baseline with its weights, and how it runs."""

    case: Baseline
    method: steps.Method
    decoder: ImageDecoder
    how: Stack
    sources: list[str]
    prepare_s: float = 0.0
    images_apart: ClassVar[bool] = True

    @classmethod
    def of(cls, case: Baseline, download: bool) -> LoadedBaseline:
        """Raises CheckpointError; UsageError if a library is not installed."""
        how = stack(case.stack, case.precision, case.attention)
        sources = [source_of(case, name) for name in case.model_names()]
        options: dict[str, Any] = {"device": case.device, "dtype": how.weights}
        options |= {"download": download, "places": case.published}
        network, decoder = networks(case)  # which says so where diffusers is not installed
        from bench.methods.image_decoders import renamed

        network = published.load(network, sources[0], case.renamed, **options)
        decoder = published.load(decoder, sources[1], renamed, **options)
        method = case.decoding(network)
        if how.compiles and can_compile(next(network.parameters()).device):
            method.compile()
        return cls(case, method, decoder, how, sources)

    @property
    def networks(self) -> list[nn.Module]:
        """The method's network and the image decoder."""
        return [self.method.model, self.decoder]

    @property
    def chosen(self) -> tuple[int, ...]:
        """The steps that run."""
        return steps.spread(self.method.steps, self.case.max_steps)

    @property
    def step_names(self) -> list[str]:
        """What tables call the steps that are run."""
        return [f"step {i + 1}" for i in self.chosen]

    @property
    def stands_for(self) -> tuple[int, ...]:
        """How many steps each one that is run stands for; empty where all are run."""
        return steps.stand_for(self.chosen, self.method.steps) if self.case.in_part else ()

    @property
    def in_graph(self) -> bool:
        """Whether a step runs as one compiled graph."""
        return self.method.in_graph

    def decode(self, on_step: OnScale, batch: int = 0) -> steps.Made:
        """The case's decode, up to the image decoder."""
        labels, seed = labels_of(self.case, self.method.classes, batch), self.case.seed + batch
        return steps.generate(self.method, labels, seed, self.how, on_step, self.chosen)

    def images(self, made: Made) -> torch.Tensor:
        """Images [B, 3, H, W] of what was made."""
        with self.how.running(made.tokens.device):
            return self.decoder(made.tokens)


@dataclass
class LoadedAdapter:
    """Somebody else's code with its weights."""

    case: Adapter
    sampler: Sampler
    how: Stack
    sources: list[str]
    prepare_s: float = 0.0
    in_graph: ClassVar[bool] = False
    stands_for: ClassVar[tuple[int, ...]] = ()
    _marks: int = 0
    _checked: bool = False

    @classmethod
    def of(cls, case: Adapter) -> LoadedAdapter:
        """Raises UsageError, with the plugin's file, for what its code raises."""
        how = stack(case.stack, case.precision, case.attention)
        with plugins.one_line(case):
            sampler = case.sampler(torch.device(case.device))
            if not isinstance(sampler, Sampler):
                raise TypeError(f"sampler must return a Sampler, not {sampler!r}")
        return cls(case, sampler, how, [case.weights])

    @property
    def networks(self) -> list[nn.Module]:
        """All that has weights."""
        return [*self.sampler.networks]

    @property
    def images_apart(self) -> bool:
        """Whether its images are made, and timed, apart from the decode."""
        return self.sampler.images is not None

    @property
    def step_names(self) -> list[str]:
        """Of the parts between marks, once it has decoded."""
        return [f"scale {k}" for k in range(1, self._marks + 1)]

    def decode(self, on_step: OnScale, batch: int = 0) -> steps.Made:
        """Its sampling function, with the case's classes and seed."""
        labels = labels_of(self.case, self.case.classes, batch)
        return self._decode(labels, self.case.seed + batch, on_step)

    @torch.no_grad()
    def _decode(self, labels: Sequence[int], seed: int, on_step: OnScale) -> steps.Made:
        held: list[int] = []

        def mark(k: int) -> None:
            held.append(self.sampler.cache_bytes() if self.sampler.cache_bytes else 0)
            on_step(k)

        on_step(0)
        with plugins.one_line(self.case), self.how.running(torch.device(self.case.device)):
            made = self.sampler.sample(labels, seed, mark)
            self._marks = len(held)
            if not (held and self.images_apart):  # what follows the last mark
                mark(len(held) + 1)
            if not isinstance(made, torch.Tensor):
                raise TypeError(f"sample must return a tensor, not {type(made).__name__}")
        return steps.Made(made, tuple(held))

    @torch.no_grad()
    def images(self, made: Made) -> torch.Tensor:
        """(B, 3, side, side) in [0, 1]; the first ones are checked."""
        images = made.tokens
        with plugins.one_line(self.case), self.how.running(images.device):
            if self.sampler.images is not None:
                images = self.sampler.images(images)
            if not self._checked:
                check_images(images, len(made.tokens), self.case.side)
            self._checked = True
        return images

    def draw(self, labels: Sequence[int], seed: int) -> torch.Tensor:
        """Images of these classes; each batch is checked."""
        self._checked = False
        return self.images(self._decode(labels, seed, lambda k: None))


def check_images(images: torch.Tensor, batch: int, side: int) -> None:
    """Raises ValueError for what are no images in [0, 1]."""
    wanted = (batch, 3, side, side)
    if tuple(images.shape) != wanted:
        raise ValueError(f"images must be {wanted}, not {tuple(images.shape)}")
    low, high = (float(x) for x in images.float().aminmax())
    if not -ROUNDING <= low <= high <= 1 + ROUNDING:  # nor of what is not finite
        raise ValueError(f"images must be in [0, 1], not {low:.3g} to {high:.3g}")


ROUNDING = 1e-3  # by which half precision may leave [0, 1]
Generator = Loaded | LoadedBaseline | LoadedAdapter
#: What a decode made, before the image decoder: `tokens`, to know it again, and `kv_cache_bytes`.
Made = Generated | steps.Made
