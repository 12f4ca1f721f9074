"""Published methods as settings of the modifiers in `codevar.plan`.

Their settings were made for other models and 1024 pixels; what is carried over, and how, stands
with each.  Scales count from 1, layers from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from random import Random
from typing import Any

from codevar.checks import one_of, whole
from codevar.plan import (
    Plan,
    branch,
    evict_cache,
    keep_cache,
    original,
    prune_tokens,
    skip_scales,
    unguided,
)
from codevar.skipvar import Decision, Regression
from codevar.var import VAR


def guidance_interval(model: VAR | Plan, first: int, last: int) -> Plan:
    """Guidance at scales first..last alone, as interval guidance has it in diffusion; Switti and
    SkipVAR's second stage turn it off from a scale on."""
    K = original(model).scales.K
    return unguided(model, [k for k in range(1, K + 1) if not first <= k <= last])


def fastvar(model: VAR | Plan, selector: str = "fastvar") -> Plan:
    """FastVAR (Section 3) with the shares of its code for Infinity, 0.4 and 0.5, on the last two
    scales, and the layers 3..27 of 32 in proportion.  Its paper's supplement calls 256 pixels weak.

    selector: "random" is the control.
    """
    plan = original(model)
    K, depth = plan.scales.K, max(m.config.depth for m in plan.models)
    layers = range(round(depth * 3 / 32), round(depth * 28 / 32))
    return prune_tokens(plan, {K - 1: 0.4, K: 0.5}, layers, selector, restore_from=K - 2)


def sparsevar(
    model: VAR | Plan,
    scales: Iterable[int],
    kept: Mapping[int, int],
    source: int,
    score: str = "importance",
) -> Plan:
    """SparseVAR (its code, `codevar.anchored`): of a map only the anchors and the tokens that
    changed most at scale `source` run; its threshold is a count by scale, one for all layers.

    scales: at which the rule holds, if there is a count for them.
    score: "random" is the control: as many, with the same anchors.
    """
    selectors = {"importance": "sparsevar", "random": "sparsevar_random"}
    one_of("variant", score, tuple(selectors))
    plan, drop = original(model), {}
    for k in sorted({*scales} & {*kept}):
        tokens, count = plan.scales.tokens[k - 1], whole("kept", kept[k])
        if not 1 <= count <= tokens:
            raise ValueError(f"kept must be 1..{tokens} tokens at scale {k}, not {count}")
        # Half a token more than is dropped, as shares are rounded down.
        drop[k] = (tokens - count + 0.5) / tokens if count < tokens else 0.0
    return prune_tokens(plan, drop, None, selectors[score], source)


def ams_kv(
    model: VAR | Plan,
    scales: Iterable[int] | None = None,
    demanding: Collection[int] = (),
    last: int = 1,
) -> Plan:
    """AMS-KV (Section 4): the first two scales stay, of the others a window.

    scales: after which the rule holds; by default all.
    demanding: layers whose keys change much from scale to scale; they keep one scale more.
    """
    plan = original(model)
    scales = range(1, plan.scales.K + 1) if scales is None else scales
    depth = max(plan.steps[k - 1].model.config.depth for k in scales)
    others = [layer for layer in range(depth) if layer not in demanding]
    plan = keep_cache(plan, 2, last, others, scales)
    return keep_cache(plan, 2, last + 1, demanding, scales) if demanding else plan


def scalekv(
    model: VAR | Plan,
    scales: Iterable[int],
    uniform: int,
    drafters: Mapping[int, Iterable[int]],
    drafter_budgets: Mapping[int, int],
    score: str = "observed",
) -> Plan:
    """ScaleKV (Section 3): drafter layers keep much, refiner layers little; together as much as
    `uniform` tokens in each layer.

    scales: after which the rule holds, if there is a budget for them.
    drafters, drafter_budgets: layers, and what each keeps, by scale.
    score: "observed_maxpool" is the published code's, which is not its paper's; "random" and
        "recent" are controls.
    """
    plan = original(model)
    for k in sorted({*scales} & {*drafter_budgets}):
        depth, budget = plan.steps[k - 1].model.config.depth, drafter_budgets[k]
        chosen = sorted(drafters[k])
        rest = [layer for layer in range(depth) if layer not in chosen]
        refiner = refiner_budget(depth, uniform, len(chosen), budget)
        plan = evict_cache(plan, {k: budget}, score, chosen)
        plan = evict_cache(plan, {k: refiner}, score, rest)
    return plan


def hack(
    model: VAR | Plan,
    scales: Iterable[int],
    contextual: Mapping[int, Collection[int]],
    contextual_budget: int,
    structural_budget: int,
    score: str = "heads",
) -> Plan:
    """HACK (Section 4): contextual heads, which attend to the same keys from everywhere, keep the
    few that are attended to most; structural ones keep more, with the first two scales and the
    newest among it.

    scales: after which the rule holds.
    contextual: the heads, by layer; all others are structural.
    score: controls: "random_heads" are as many of each layer, drawn; "random" and "recent" keep
        any or the newest keys of as many in each head.
    """
    plan = original(model)
    one_of("variant", score, ("heads", "random_heads", "random", "recent"))
    by_attention = ("attended", "attended_structural")
    scores = (score, score) if score in ("random", "recent") else by_attention
    heads = plan.steps[min(scales) - 1].model.config.heads
    plan = evict_cache(plan, dict.fromkeys(scales, structural_budget), scores[1])
    for layer, chosen in contextual.items():
        if score == "random_heads":
            chosen = Random(layer).sample(range(heads), len(chosen))
        budgets = dict.fromkeys(scales, contextual_budget)
        plan = evict_cache(plan, budgets, scores[0], [layer], sorted(chosen))
    return plan


def refiner_budget(depth: int, uniform: int, drafters: int, drafter_budget: int) -> int:
    """Tokens that each refiner layer keeps, so that all layers together keep `uniform` each."""
    return (depth * uniform - drafters * drafter_budget) // (depth - drafters)


def skipvar(
    model: VAR | Plan,
    scales: Iterable[int],
    at: int,
    decision: Mapping[str, Any],
    score: str = "observed",
) -> Plan:
    """SkipVAR (Section 4): after scale `at` each image goes on whole, or without some of the last
    scales, or without guidance from some scale on.

    scales: those of the model that the decision is of; all, or it cannot know what it leaves out.
    decision: the parts of a `codevar.skipvar.Decision`, with the shares of each decision.
    score: controls: "random" draws each with its share, and by "only0", "only1", ... all go.
    """
    plan = original(model)
    K, ways = plan.scales.K, skipvar_plans(plan, at)
    one_of("variant", score, ("observed", "random", *(f"only{i}" for i in range(len(ways)))))
    if [*scales] != [*range(1, K + 1)]:
        raise ValueError("SkipVAR decides for one model alone")
    skip, guidance = (
        Regression(tuple(map(tuple, decision[stage]["weights"])), tuple(decision[stage]["bias"]))
        for stage in ("skip", "guidance")
    )
    mean, std, shares = (tuple(decision[name]) for name in ("mean", "std", "shares"))
    decide = Decision(mean, std, skip, guidance, shares if score == "random" else ())
    branching = branch(plan, at, decide, ways)
    return branching.paths[int(score[4:])] if score.startswith("only") else branching


def skipvar_plans(plan: Plan, at: int) -> list[Plan]:
    """What SkipVAR decides between, the whole plan first."""
    K = plan.scales.K
    skipped = [skip_scales(plan, range(k, K + 1)) for k in range(K, at, -1)]
    return [plan, *skipped, *(unguided(plan, range(k, K + 1)) for k in range(at + 1, K + 1))]


#: Methods whose settings are calibrated: each takes a plan, scales of one model and its settings.
CALIBRATED: dict[str, Callable[..., Plan]] = {
    "scalekv": scalekv,
    "ams_kv": ams_kv,
    "hack": hack,
    "sparsevar": sparsevar,
    "skipvar": skipvar,
}
