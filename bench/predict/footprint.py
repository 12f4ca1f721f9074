"""What a decode will hold in memory, from the decode itself on tensors that have no data.

The real loop runs, with every operator it calls, on fake tensors: they have shapes and lifetimes
but no memory.  What is alive after each operator is the prediction, so no formula has to follow
the code.  Scratch inside an operator is not seen, but of a CPU what convolutions and attention with
AMX lay out anew is added.  On a GPU sort and top-k of 4096 codes work in place and attention is by
tiles; what cuDNN takes for a convolution is left out.

Of a plan that branches each way is predicted as if all images went that way, with the two decodes
of a decision.

Two things make it quick.  On a GPU one decode tells every batch size: it is run with PRIME images,
and a storage whose bytes PRIME divides grows with the batch, any other does not.  (On a CPU work is
done in parts of so many images, so each batch size is run as it is.)  And a model's layers are
alike and run one after the other, so only the last of a pass is computed; the others just keep
what they would have kept.
"""

from __future__ import annotations

import copy
import functools
from typing import cast

import torch
from torch import nn

from bench.methods.baseline import Baseline
from bench.methods.meta import meta_plan, vqvae_config
from bench.predict import baselines
from bench.predict.simulate import PRIME, Footprint, watched
from bench.study.cases import Case, VARCase, make_case
from codevar import VQVAE, Sampling, VQVAEConfig
from codevar.config import VARConfig
from codevar.decoding import generate
from codevar.outputs import OnScale
from codevar.plan import Plan
from codevar.stacks import Stack, stack
from codevar.var import Block, Modulation
from codevar.work import Visit, work


def footprint(case: Case) -> Footprint:
    """The footprint of a case, remembered; of VAR on a CPU it holds for no other batch size."""
    kind = "cpu" if case.device == "cpu" else "cuda"
    alone = kind == "cpu" and isinstance(case, VARCase)
    images = case.batch_size if alone else PRIME
    values = case.model_dump() | {"batch_size": 1, "seed": 0, "memory_limit_gib": None}
    own = isinstance(case, VARCase) and (case.in_mini_world or case.own_files())
    weights = case.weights if own else "seeded"
    return _footprint(make_case(values | {"device": kind, "weights": weights}), images)


@functools.cache
def _footprint(case: Case, images: int) -> Footprint:
    if isinstance(case, Baseline):
        return baselines.footprint(case)
    assert isinstance(case, VARCase)
    run = stack(case.stack, case.precision, case.attention)
    plan = copy.deepcopy(meta_plan(case)).paths[0]  # a copy, whose models are everybody's
    sampling = case.sampling_settings()
    return of_plan(plan, run, sampling, case.device, images, vqvae_config(case))


def of_plan(
    plan: Plan,
    run: Stack,
    sampling: Sampling,
    device: str,
    images: int = PRIME,
    vqvae_sizes: VQVAEConfig | None = None,
) -> Footprint:
    """The footprint of a plan whose models are on the meta device, ready for the stack; they are
    used up.

    device: "cpu" or "cuda", which need not be there: operators and autocast differ.
    images: PRIME for lines over the batch size; any other number for that batch alone.
    vqvae_sizes: of what decodes images where the plan branches; without a branch all are alike.
    """
    shared = ("vocab", "channels", "patch_sizes")
    config = VQVAEConfig(**{name: getattr(plan.models[0].config, name) for name in shared})
    with torch.device("meta"):
        vqvae = run.prepare(VQVAE(vqvae_sizes or config).cast(run.weights), device)
    passes = work(plan, images, run)
    for model in plan.models:
        own = [p.visits for p in passes if p.model is model]
        # Layers of a pass that do the same are alike: the last of each kind is computed.
        computed = {v.layer for visits in own for v in {kind(v): v for v in visits}.values()}
        for layer in set(range(model.config.depth)) - computed:
            last = cast("Block", model.blocks[max(computed, default=0)])
            model.blocks[layer] = Keeps(model.config, run, last.inplace_residual)

    def decode(on_scale: OnScale) -> object:
        return generate(plan, vqvae, [0] * images, sampling, stack=run, on_scale=on_scale)

    return watched([*plan.models, vqvae], decode, device, run.attention, images)


class Keeps(Block):
    """A block that computes nothing but leaves behind what another does."""

    def __init__(self, config: VARConfig, run: Stack, inplace_residual: bool) -> None:
        nn.Module.__init__(self)
        self.config, self.run, self.inplace_residual = config, run, inplace_residual

    def modulation(self, condition: torch.Tensor) -> Modulation:
        """What the layer computes once from the condition, of its shape [B, 6C] alone."""
        if not self.run.condition_once:
            return ()
        width = 6 * self.config.width
        return (condition.new_empty(len(condition), width, dtype=torch.float32),)

    def forward(self, x_BLC, modulation, mask=None, run=None):
        """Allocate what the layer would, without computing."""
        out_BLC = x_BLC if self.inplace_residual and not run.prunes else torch.empty_like(x_BLC)
        for branch in (0, 1) if run.visit.saves else ():
            run.save(x_BLC, torch.ones((), device=x_BLC.device), branch)
        if self.run.cache.in_place:  # there as soon as any layer writes to it
            return out_BLC
        B, L, C = len(x_BLC), run.visit.queries, self.config.width
        # Values are a view of queries, keys and values, which stay until the next pass joins.
        shape = 3, B, self.config.heads, L, C // self.config.heads
        query, key, value = x_BLC.new_empty(shape, dtype=self.run.precision).unbind()
        if self.config.l2_norm:
            key = torch.empty_like(key, dtype=torch.float32)
        run.append(query, key, value, 1.0)
        return out_BLC


def kind(visit: Visit) -> tuple[object, ...]:
    """What makes layers of one pass unlike each other."""
    heads = ((h.count, h.kept, getattr(h.cut, "score", h.cut)) for h in visit.heads)
    return visit.queries, tuple(heads), visit.saves
