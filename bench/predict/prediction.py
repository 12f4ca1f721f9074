"""What shapes alone say of a plan: parameters, cache and work, scale by scale.

Nothing is computed and no weight is loaded.  What is neither weight nor cache comes from
`bench.predict.footprint`.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.methods.baseline import Baseline
from bench.methods.meta import meta_plan, vqvae_config
from bench.predict import baselines
from bench.predict.footprint import footprint
from bench.study.cases import Case, VARCase
from bench.study.errors import NoPredictionError, UsageError
from bench.study.records import MemoryUse, Predicted
from bench.study.units import MIB
from codevar import VQVAE, VARConfig, VQVAEConfig
from codevar.noise import CHUNK
from codevar.plan import Plan
from codevar.stacks import Stack, stack
from codevar.work import Pass, Slot, rooms, work

# Held from the first matrix product on.  Torch's default, but for Hopper and later: 32 MiB.
CUBLAS_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024
RUNNING_WITHIN = 0.1


@dataclass(frozen=True)
class Prediction:
    """Bytes and floating-point operations of one decode.

    params_bytes: of all the plan's models and the VQVAE, in the stack's precision.
    kv_cache_bytes: by scale, held while it is predicted.  Of a baseline a "scale" is a step.
    peak_bytes, live_bytes: by scale, the most during it and what is left after it, with weights
        and, on a GPU, cuBLAS's workspace.
    flops: by scale, of the transformers' matrix products; a multiply-add is two.
    """

    params_bytes: int
    params: int
    kv_cache_bytes: tuple[int, ...]
    peak_bytes: tuple[int, ...]
    live_bytes: tuple[int, ...]
    flops: tuple[int, ...]

    @property
    def running_bytes(self) -> int:
        """What the decode needs over weights and cache, as CoDe's Table 3 has it."""
        return self.total_bytes - self.need_bytes

    @property
    def total_bytes(self) -> int:
        """The decode's peak."""
        return max(self.peak_bytes)

    @property
    def need_bytes(self) -> int:
        """The least memory that can do: weights and the largest cache."""
        return self.params_bytes + max(self.kv_cache_bytes)

    def figures(self) -> Predicted:
        """As records have it."""
        return Predicted(
            params=self.params,
            params_mib=self.params_bytes / MIB,
            kv_cache_mib=max(self.kv_cache_bytes) / MIB,
            kv_cache_by_scale_mib=[b / MIB for b in self.kv_cache_bytes],
            running_mib=self.running_bytes / MIB,
            total_mib=self.total_bytes / MIB,
            peak_by_scale_mib=[b / MIB for b in self.peak_bytes],
            live_by_scale_mib=[b / MIB for b in self.live_bytes],
            flops=sum(self.flops),
            flops_by_scale=list(self.flops),
        )


def prediction_or_none(case: Case) -> Prediction | None:
    """None where nothing is known of its shapes, or a library of its network is missing."""
    try:
        return predict(case)
    except NoPredictionError:
        return None


@functools.cache
def predict(case: Case) -> Prediction:
    """The prediction for a case; remembered, since models take a while to lay out.

    Raises NoPredictionError for a method that is known by its images alone, or not at all.
    """
    if isinstance(case, Baseline):
        return prediction(case, **baselines.shapes(case))
    plan, run = meta_plan(case), stack(case.stack, case.precision, case.attention)
    assert isinstance(case, VARCase)
    try:
        return _of_plan(case, plan, run)
    except ValueError as e:  # a VAR of a file and a VQVAE that do not fit
        raise UsageError(f"{case.label}: {e}") from None


def _of_plan(case: VARCase, plan: Plan, run: Stack) -> Prediction:
    return prediction(
        case,
        params_bytes=params_bytes(plan, vqvae_config(case), run),
        params=sum(p.numel() for model in plan.models for p in model.parameters()),
        kv_cache_bytes=kv_cache_bytes(plan, case.batch_size, run),
        flops=flops(plan, case.batch_size, run),
    )


def prediction(case: Case, params_bytes: int, **shapes: Any) -> Prediction:
    """What shapes tell, with the memory that the case's footprint adds."""
    lines = footprint(case)
    held = params_bytes + (0 if case.device == "cpu" else CUBLAS_BYTES)
    return Prediction(
        params_bytes=params_bytes,
        peak_bytes=tuple(held + b for b in lines.peak_bytes(case.batch_size)),
        live_bytes=tuple(held + b for b in lines.live_bytes(case.batch_size)),
        **shapes,
    )


def largest_batch(case: Case, memory_bytes: int) -> int:
    """The most images that fit at once; 0 if not even one does."""
    lines = footprint(case)
    held = predict(case).total_bytes - max(lines.peak_bytes(case.batch_size))
    need = lambda batch_size: held + max(lines.peak_bytes(batch_size))  # noqa: E731
    return bisect.bisect_right(range(1, 1 << 20), memory_bytes, key=need)


def memory_differs(memory: MemoryUse, predicted: Predicted, device: str) -> list[str]:
    """Where a record's memory is not what was predicted with it (running may be 10 % off, weights
    and cache are exact; the oldest records lack some), or not all of it has an owner."""
    parts = {
        "params": memory.params_mib - predicted.params_mib,
        "KV cache": memory.kv_cache_mib - predicted.kv_cache_mib,
    }
    found = [f"{part} {over:+.1f} MiB" for part, over in parts.items() if abs(over) > 0.001]
    if predicted.running_mib is not None:
        # What cuBLAS takes on this GPU, and the allocator rounds up, says nothing of the decode.
        workspace = 0 if device == "cpu" else CUBLAS_BYTES / MIB
        running = memory.running_mib - (memory.workspace_mib or 0) - (memory.rounding_mib or 0)
        expected = predicted.running_mib - workspace
        over = running / expected - 1
        # A draw of few numbers takes less than the whole chunk that is predicted.
        if abs(over) > RUNNING_WITHIN and abs(running - expected) > 8 * CHUNK / MIB:
            found.append(f"running {over:+.0%}")
    if not memory.accounted:
        found.append(f"{memory.unaccounted_mib:.1f} MiB unaccounted")
    return found


def params_bytes(plan: Plan, vqvae_sizes: VQVAEConfig, run: Stack) -> int:
    """Weights of the plan's models and of the VQVAE, whose quantiser is always float32."""
    with torch.device("meta"):
        vqvae = VQVAE(vqvae_sizes).cast(run.weights)
    return sum(p.nbytes for model in (*plan.models, vqvae) for p in model.parameters())


def kv_cache_bytes(plan: Plan, batch_size: int, run: Stack) -> tuple[int, ...]:
    """By scale.  A cache that is allocated once is there from its model's first pass on, another
    grows pass by pass.  Both are gone after the model's last scale, and what the unguided half
    has in them after that half's.  Where a plan branches, caches are made anew."""
    totals, at = [0] * plan.scales.K, plan.branch.at if plan.branch else plan.scales.K
    trunk = work(replace(plan, branch=None), batch_size, run)
    later = [p for p in work(plan, batch_size, run) if p.scale >= at]
    begun = {p.model for p in trunk if p.scale < at}
    for passes, during in ((trunk, range(at)), (later, range(at, plan.scales.K))):
        for model in {p.model: None for p in passes}:
            own = [p for p in passes if p.model is model]
            by_scale = static_tokens(own) if run.cache.in_place else growing_tokens(own)
            first = at if passes is later and model in begun else own[0].scale
            for k in {*range(first, own[-1].scale + 1)} & {*during}:
                totals[k] += by_scale(k) * run.token_bytes(model.config, own[0].bits)
    return tuple(totals)


def static_tokens(passes: list[Pass]) -> Callable[[int], int]:
    """Of all rows, layers and heads of a model, by scale."""
    held = [room.tokens for room in rooms(passes, passes[0].model)]
    ends = next((p.scale for p in passes if p.is_last_unguided), passes[-1].scale)
    return lambda k: held[k > ends]


def growing_tokens(passes: list[Pass]) -> Callable[[int], int]:
    """The same at the end of each scale."""

    def tokens(k: int) -> int:
        held: dict[tuple[int, Slot], int] = {}
        for p in passes:
            for half, (slot, heads) in itertools.product(p.halves, p.slots):
                if p.scale <= k:
                    held[half, slot] = heads.count * heads.kept
                else:  # found there where images went on by a plan of their own
                    held.setdefault((half, slot), heads.count * heads.past)
        gone = any(p.is_last_unguided and p.scale < k for p in passes)
        images = passes[0].rows // len(passes[0].halves)
        return images * sum(n for (half, _), n in held.items() if not (half and gone))

    return tokens


def flops(plan: Plan, batch_size: int, run: Stack) -> tuple[int, ...]:
    """By scale, as the stack computes them: attention over masked positions counts in full,
    AdaLN once an image or once a pass."""
    totals = [0] * plan.scales.K
    for p in work(plan, batch_size, run):
        totals[p.scale] += input_flops(p) + block_flops(p) + head_flops(p)
    return tuple(totals)


def input_flops(p: Pass) -> int:
    """Embedding of the input maps, one for both halves of guidance; scale 1 has none."""
    maps = p.maps[1:] if p.scales[0] == 0 else p.maps
    images = p.rows // len(p.halves)
    return 2 * images * sum(maps) * p.model.config.channels * p.model.config.width


def block_flops(p: Pass) -> int:
    """The layers, the condition's products that they need, and what scores a cache."""
    config, C = p.model.config, p.model.config.width
    linear, length = linear_flops(config), p.maps[-1]
    conditions = sum(visit.conditions for visit in p.visits)
    if config.shared_adaln:
        conditions = p.model_rows * p.is_first
    return conditions * 12 * C * C + sum(
        v.rows * v.queries * linear
        + sum(
            2
            * v.rows
            * heads.count
            * (C // config.heads)
            * (heads.past + v.queries)
            * (2 * v.queries + min(heads.observers, length))
            for heads in v.heads
        )
        for v in p.visits
    )


def linear_flops(config: VARConfig) -> int:
    """Of a token's products in one layer."""
    C = config.width
    return 2 * (4 * C * C + 2 * C * config.ffn_width)


def integer_flops(p: Pass) -> int:
    """Of those of the layers, what is multiplied in whole numbers: the products of W8A8."""
    tokens = sum(visit.rows * visit.queries for visit in p.visits)
    return (p.model.weight_bits == "W8A8") * linear_flops(p.model.config) * tokens


def head_flops(p: Pass) -> int:
    """The last norm's condition, and logits."""
    C = p.model.config.width
    return p.rows * 4 * C * C + p.logit_rows * p.logit_tokens * 2 * C * p.model.config.vocab
