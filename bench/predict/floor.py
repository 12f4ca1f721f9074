"""The least time that a decode can take on a device: FLOPs over rate, bytes over bandwidth.

Bytes are those that no implementation of the plan avoids at these precisions:

- the weights of the layers that run and of the head, read once a pass; those of AdaLN once an
  image where the stack computes it once an image;
- the cache: of the layers that run, what is cached read once a pass, what is new written once,
  if a later pass reads it or the stack caches it all the same;
- the logits (float32), written by the head and read by the sampling; guided ones, but in the
  published stack.

Activations inside a pass are left out: fused kernels can keep them on chip.  So are the copies
that the published stack makes (casts of its weights, its cache's concatenation): they are a
choice, and show as time over the floor.  So is what runs beside the transformers (sampling, the
quantiser).  Weights are counted for each pass since they outgrow any cache; at the first scales
and small batches the cache and logits may not, but there they are next to nothing.

FLOPs are `bench.predict.prediction.flops`, as the stack computes them.  Products of whole numbers
(W8A8) take no time here: no rate of them is measured.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.methods.meta import configs, meta_plan
from bench.predict.ceilings import Ceilings
from bench.predict.prediction import flops, head_flops, integer_flops
from bench.study.cases import Case, VARCase, make_case, methods
from bench.study.records import Record
from codevar import VAR, VQVAE, VQVAEConfig, quantise_weights
from codevar.compiled import chain_var, merge_biases
from codevar.decoding import generate
from codevar.plan import Plan
from codevar.stacks import Stack, stack
from codevar.var import Block
from codevar.work import Pass, work

FLOAT32_BYTES = 4
LARGEST_BATCH = 2**20
#: Less of its floor no decode takes, but for what a clock is off by.
LEAST_OVER_FLOOR = 0.95
# Operators that make or rename a tensor without computing anything.
IDLE = ("aten::_unsafe_view", "aten::empty", "aten::empty_like", "aten::lift_fresh")


@dataclass(frozen=True)
class Floor:
    """Of one decode, by scale: work (FLOP), bytes that move, and the seconds of each alone."""

    flops: tuple[int, ...]
    bytes: tuple[int, ...]
    compute_s: tuple[float, ...]
    memory_s: tuple[float, ...]

    @property
    def seconds(self) -> tuple[float, ...]:
        """By scale, the larger of the two."""
        return tuple(map(max, self.compute_s, self.memory_s))

    @property
    def compute_bound(self) -> bool:
        """Over the whole decode."""
        return sum(self.compute_s) >= sum(self.memory_s)


def beats(seconds: float, floor_s: float) -> bool:
    """Whether a time is so far below its floor that the ceilings must be wrong."""
    return seconds < LEAST_OVER_FLOOR * floor_s


def beaten(record: Record, ceilings: Ceilings) -> bool:
    """Whether the decode of a record took less than these ceilings allow: then they are wrong, and
    nothing is to be predicted or judged by them."""
    seconds = statistics.median(record.samples.latency_s) if record.samples else math.inf
    return beats(seconds, least_seconds(record, ceilings))


def least_seconds(record: Record, ceilings: Ceilings) -> float:
    """The floor of a record's case; 0 of what has no plan here."""
    known = record.case["method"] in methods()
    case = make_case(record.case) if known else None
    return sum(floor_of(case, ceilings).seconds) if isinstance(case, VARCase) else 0.0


def floor_of(case: Case, ceilings: Ceilings) -> Floor:
    """The floor of a case on the device whose ceilings these are."""
    run = stack(case.stack, case.precision, case.attention)
    return floor(meta_plan(case), case.batch_size, run, ceilings)


def floor(plan: Plan, batch_size: int, run: Stack, ceilings: Ceilings) -> Floor:
    """The least seconds of each scale on a machine with these ceilings."""
    total, moved = flops(plan, batch_size, run), bytes_moved(plan, batch_size, run)
    heads, whole = [0] * plan.scales.K, [0] * plan.scales.K
    for p in work(plan, batch_size, run):
        heads[p.scale] += head_flops(p)
        whole[p.scale] += integer_flops(p)
    # Under autocast the head alone stays in the weights' precision.
    body, head = ceilings.rate(run.precision), ceilings.rate(run.weights)
    return Floor(
        flops=total,
        bytes=moved,
        compute_s=tuple(
            (t - h - i) / body + h / head for t, h, i in zip(total, heads, whole, strict=True)
        ),
        memory_s=tuple(b / ceilings.bandwidth for b in moved),
    )


def bytes_moved(plan: Plan, batch_size: int, run: Stack) -> tuple[int, ...]:
    """By scale: weights + cache + logits, as the top of this file has it."""
    moved = [0] * plan.scales.K
    for p in work(plan, batch_size, run):
        heads = [(v.rows * h.count, h) for v in p.visits for h in v.heads]
        cache = sum(count * (of_head.past + of_head.written) for count, of_head in heads)
        logits = p.logit_rows * p.logit_tokens * p.model.config.vocab
        moved[p.scale] += (
            weights_read(p, run.weights.itemsize)
            + run.token_bytes(p.model.config, p.bits) * cache
            + 2 * logits * FLOAT32_BYTES
        )
    return tuple(moved)


def weights_read(p: Pass, itemsize: int) -> int:
    """Weights (bytes) of a pass: of the layers that run, the head, and AdaLN where computed.

    itemsize: of those that are not in 8 bits.
    """
    model = p.model
    read = weight_bytes(model.head_nm, itemsize) + weight_bytes(model.head, itemsize)
    if model.config.shared_adaln and p.is_first:
        read += weight_bytes(model.shared_ada_lin, itemsize)
    for visit in p.visits:
        block = model.blocks[visit.layer]
        read += weight_bytes(block, itemsize)
        if not (model.config.shared_adaln or visit.conditions):
            read -= weight_bytes(block.get_submodule("ada_lin"), itemsize)
    return read


@functools.cache
def weight_bytes(module: nn.Module, itemsize: int) -> int:
    """Of a module's parameters; `itemsize` each, but for those in 8 bits."""
    sizes = ((p.numel(), 1 if p.dtype == torch.int8 else itemsize) for p in module.parameters())
    return sum(count * size for count, size in sizes)


def compute_bound_from(case: Case, ceilings: Ceilings) -> int | None:
    """The smallest batch at which the decode's FLOPs take as long as its bytes; None if even
    a very large one does not: its cache then moves faster than its FLOPs grow."""
    plan, run = meta_plan(case), stack(case.stack, case.precision, case.attention)

    def compute_bound(batch_size: int) -> bool:
        return floor(plan, batch_size, run, ceilings).compute_bound

    batch = 1 + bisect.bisect_left(range(1, LARGEST_BATCH + 1), True, key=compute_bound)
    return batch if batch <= LARGEST_BATCH else None


@functools.cache
def operators(case: Case) -> tuple[int, ...]:
    """Operators that a decode calls, by scale, sampling and quantiser included: at least a
    kernel each; what the stack compiles into one is one.

    Counted on the case's plan with models two channels wide, which call the same ones; on a
    CPU, so a GPU's own kernels may differ by some.
    """
    assert isinstance(case, VARCase)
    run = stack(case.stack, case.precision, case.attention)
    # Sizes that change no operator are as small as can be; shapes of a pyramid are the case's.
    tiny = [
        VAR(replace(config, width=2, heads=1, ffn_ratio=4.0, vocab=32, channels=8)).to(run.weights)
        for config in configs(case)
    ]
    tiny = [quantise_weights(model, case.weight_bits) for model in tiny]
    theirs = tiny[0].config
    vqvae = VQVAE(VQVAEConfig(32, (1,), vocab=32, channels=8, patch_sizes=theirs.patch_sizes))
    for model in (*tiny, vqvae):
        for parameter in model.parameters():
            parameter.data.zero_()
    plan, marks, count = case.plan(*tiny), list[int](), Count()
    for model in tiny if run.packs else ():
        chain_var(model, compiles=False)
        if run.compiles:
            merge_biases(model)
            count.as_compiled(model)
    with count:
        generate(plan, vqvae, [0], stack=run, on_scale=lambda k: marks.append(count.calls))
    return tuple(after - before for before, after in itertools.pairwise(marks))


class Count(TorchDispatchMode):
    """Counts the operators that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.calls += not op.is_view and op._schema.name not in IDLE
        return op(*args, **(kwargs or {}))

    def as_compiled(self, model: VAR) -> None:
        """Counts each of a block's chains, as `codevar.compiled` has them, as one."""
        for block in cast("Iterable[Block]", model.blocks):
            block.norm = self.as_one(block.norm)
            block.add_and_norm = self.as_one(block.add_and_norm)
            block.attn.heads_of = self.as_one(block.attn.heads_of)

    def as_one(self, chain: Callable[..., Any]) -> Callable[..., Any]:
        """Count a chain of operators that the stack fuses as one call."""

        @functools.wraps(chain)
        def counted(*tensors: torch.Tensor) -> Any:
            before = self.calls
            made = chain(*tensors)
            self.calls = before + 1
            return made

        return counted


def launches(case: Case) -> int:
    """Of a decode: of all its operators, or of a graph for each scale."""
    run = stack(case.stack, case.precision, case.attention)
    by_scale = operators(case)
    return len(by_scale) if run.graphs and case.device != "cpu" else sum(by_scale)
