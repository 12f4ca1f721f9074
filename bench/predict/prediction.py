"""What shapes alone say of a plan: parameters, cache and work, scale by scale.

Nothing is computed and no weight is loaded.  Formulas are given for B images, so 2B rows
(guidance).  What is neither weight nor cache comes from `bench.predict.footprint`.
"""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass
from typing import Any

import torch

from bench.methods.meta import meta_plan, vqvae_config
from bench.predict import baselines
from bench.predict.footprint import footprint
from bench.study.cases import Baseline, Case
from codevar import VAR, VQVAE, VQVAEConfig
from codevar.cache import StaticCache
from codevar.noise import CHUNK
from codevar.plan import Plan
from codevar.stacks import Stack, stack

MIB = 2**20
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
        return max(self.peak_bytes)

    @property
    def need_bytes(self) -> int:
        """The least memory that can do: weights and the largest cache."""
        return self.params_bytes + max(self.kv_cache_bytes)

    def figures(self) -> dict[str, Any]:
        """Under the names that records have."""
        return {
            "params": self.params,
            "params_mib": self.params_bytes / MIB,
            "kv_cache_mib": max(self.kv_cache_bytes) / MIB,
            "kv_cache_by_scale_mib": [b / MIB for b in self.kv_cache_bytes],
            "running_mib": self.running_bytes / MIB,
            "total_mib": self.total_bytes / MIB,
            "peak_by_scale_mib": [b / MIB for b in self.peak_bytes],
            "live_by_scale_mib": [b / MIB for b in self.live_bytes],
            "flops": sum(self.flops),
            "flops_by_scale": list(self.flops),
        }


@functools.cache
def predict(case: Case) -> Prediction:
    """The prediction for a case; remembered, since models take a while to lay out."""
    if isinstance(case, Baseline):
        return prediction(case, **vars(baselines.shapes(case)))
    plan, run = meta_plan(case), stack(case.stack, case.precision, case.attention)
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


def memory_differs(memory: dict[str, Any], predicted: dict[str, Any], device: str) -> list[str]:
    """Where a record's memory is not what was predicted with it (running may be 10 % off, weights
    and cache are exact; the oldest records lack some), or not all of it has an owner."""
    found = []
    for part in ("params", "KV cache"):
        name = f"{part.lower().replace(' ', '_')}_mib"
        over = memory[name] - predicted.get(name, memory[name])
        if abs(over) > 0.001:
            found.append(f"{part} {over:+.1f} MiB")
    if "running_mib" in predicted:
        # What cuBLAS takes on this GPU, and the allocator rounds up, says nothing of the decode.
        workspace = 0 if device == "cpu" else CUBLAS_BYTES / MIB
        not_asked = (memory.get("workspace_mib") or 0) + (memory.get("rounding_mib") or 0)
        running = memory["running_mib"] - not_asked
        told = predicted["running_mib"] - workspace
        over = running / told - 1
        # A draw of few numbers takes less than the whole chunk that is predicted.
        if abs(over) > RUNNING_WITHIN and abs(running - told) > 8 * CHUNK / MIB:
            found.append(f"running {over:+.0%}")
    if not memory.get("accounted", True):
        found.append(f"{memory['unaccounted_mib']:.1f} MiB unaccounted")
    return found


def params_bytes(plan: Plan, vqvae_sizes: VQVAEConfig, run: Stack) -> int:
    """Weights of the plan's models and of the VQVAE, whose quantiser is always float32."""
    with torch.device("meta"):
        vqvae = VQVAE(vqvae_sizes).cast(run.weights)
    return sum(p.nbytes for model in (*plan.models, vqvae) for p in model.parameters())


def kv_cache_bytes(plan: Plan, batch_size: int, run: Stack) -> tuple[int, ...]:
    """By scale: 2B * width * (key + value bytes) * tokens, over the layers that read them.

    A growing cache holds what was read so far; a static one, from a model's first pass on,
    what its later passes will read again.  Both are gone after the model's last scale.
    """
    totals = [0] * plan.scales.K
    for model in plan.models:
        element = run.key_bytes(model.config.l2_norm) + run.value_bytes
        per_token = 2 * batch_size * model.config.width * element
        passes, held = plan.passes_of(model), 0
        kept = sum(plan.tokens_read_again(model))
        at_scale = {}
        for first, last, layers in passes:
            held += sum(plan.scales.tokens[first : last + 1]) * len(layers)
            at_scale[last] = kept if run.cache is StaticCache else held
        tokens = 0
        for k in range(passes[0][1], passes[-1][1] + 1):
            tokens = at_scale.get(k, tokens)
            totals[k] += per_token * tokens
    return tuple(totals)


def flops(plan: Plan, batch_size: int, run: Stack) -> tuple[int, ...]:
    """By scale, as the stack computes them: attention over masked positions counts in full,
    AdaLN once an image or once a pass."""
    work = [0] * plan.scales.K
    for model in plan.models:
        cached = [0] * model.config.depth
        conditioned: set[int] = set()
        for first, last, layers in plan.passes_of(model):
            tokens = sum(plan.scales.tokens[first : last + 1])
            new = [layer for layer in layers if layer not in conditioned]
            conditioned.update(layers if run.condition_once else ())
            attended = sum(cached[layer] + tokens for layer in layers)
            for layer in layers:
                cached[layer] += tokens
            work[last] += (
                pass_flops(model, batch_size, first, tokens, len(layers), attended)
                + 2 * batch_size * adaln_flops(model, len(new), first_pass=first == 0)
                + head_flops(model, batch_size, plan.scales.tokens[last], run)
            )
    return tuple(work)


def pass_flops(
    model: VAR, batch_size: int, first: int, tokens: int, layers: int, attended: int
) -> int:
    """Blocks and input embedding of one pass over `tokens` positions; attended: keys that a
    position sees, summed over the layers that run."""
    config, rows = model.config, 2 * batch_size
    C = config.width
    linear = 2 * tokens * layers * (4 * C * C + 2 * C * config.ffn_width)
    attention = 4 * tokens * C * attended
    embedded = tokens - (model.scales.tokens[0] if first == 0 else 0)
    return rows * (linear + attention) + batch_size * 2 * embedded * config.channels * C


def adaln_flops(model: VAR, layers: int, first_pass: bool) -> int:
    """The condition's products for that many layers, of one row."""
    C = model.config.width
    if model.config.shared_adaln:
        return 12 * C * C if first_pass else 0
    return layers * 12 * C * C


def head_flops(model: VAR, batch_size: int, tokens: int, run: Stack) -> int:
    """The last norm's condition, and logits."""
    C, rows = model.config.width, logit_rows(batch_size, run)
    return 2 * batch_size * 4 * C * C + rows * 2 * tokens * C * model.config.vocab


def logit_rows(batch_size: int, run: Stack) -> int:
    """Rows that the head makes logits of: guidance comes first, but in the published stack."""
    return 2 * batch_size if run.as_published else batch_size
