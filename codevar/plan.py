"""Plans: for each scale, which model predicts it, with which of its layers.

Every method of the papers is a plan, and every function here returns one.  Where a function
takes a model it takes a plan too, so they compose:

    code(drafter, subnet(refiner, depth=2, scales=range(7, 11)), draft_steps=6)

Scales count from 1, layers from 0.  All raise ValueError, in one line, for what cannot be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from codevar import plan_data
from codevar.anchored import least_kept, middle
from codevar.checks import shown, whole
from codevar.scales import Scales
from codevar.steps import (
    Eviction,
    Rule,
    Step,
    Tokens,
    Window,
    equidistant,
    head_groups,
    holds,
    numbers,
)
from codevar.var import VAR

#: (images (B, 3, H, W) of the last scale but one, and of the last; (B,) what tells them apart, for
#: random choices) -> (B,) of which plan each goes on by.
Decide = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Branch:
    """After scale `at` each image goes on by the one of the plans that is decided."""

    at: int
    decide: Decide
    plans: tuple[Plan, ...]


@dataclass(frozen=True)
class Plan:
    """One step for each scale, coarse to fine.

    branch: how images go on after some scale, if not by these steps.
    """

    steps: tuple[Step, ...]
    branch: Branch | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.steps, tuple) or not all(isinstance(s, Step) for s in self.steps):
            raise ValueError(f"steps must be a tuple of Step, not {shown(self.steps)}")
        if not self.steps:
            raise ValueError("a plan needs a step for each scale")
        first, *others = self.models
        for other in others:
            _must_agree(first, other)
        if len(self.steps) != self.scales.K:
            raise ValueError(f"{len(self.steps)} steps for {self.scales.K} scales")
        if self.steps[0].skip:
            raise ValueError("scale 1 cannot be skipped")
        if self.steps[0].tokens and self.steps[0].tokens.drop > 0:
            raise ValueError("scale 1 cannot be pruned: it is one token")
        for model in self.models:
            _check_cache(model, [step for step in self.steps if step.model is model])
        _check_restored(self)
        if self.branch:
            for plan in self.branch.plans:
                _check_branch(self.steps, plan, self.branch.at)

    @property
    def scales(self) -> Scales:
        """The pyramid, which all models of a plan share."""
        return self.steps[0].model.scales

    @property
    def models(self) -> list[VAR]:
        """Each model once, in order of first use."""
        plans = (self, *(self.branch.plans if self.branch else ()))
        return list(dict.fromkeys(step.model for plan in plans for step in plan.steps))

    @property
    def paths(self) -> tuple[Plan, ...]:
        """The plan itself or, where it branches, one for each way that all images may go."""
        if not self.branch:
            return (self,)
        branch = self.branch
        return tuple(replace(self, branch=replace(branch, plans=(p,))) for p in branch.plans)

    def to_dict(self, relative: bool = False) -> dict[str, Any]:
        """The plan as data (`codevar.plan_data`), which JSON and TOML can hold.

        relative: layers and budgets as shares, so that models of any size can follow it.
        """
        if self.branch:
            raise ValueError("a plan that branches cannot be told as data")
        return plan_data.to_dict(self.steps, relative)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], models: Sequence[VAR]) -> Plan:
        """The plan that the data tells, of these models.  Raises ValueError."""
        return cls(plan_data.from_dict(data, models))


def original(model: VAR | Plan) -> Plan:
    """VAR as published: all layers at every scale."""
    return _plan_of("model", model)


def code(drafter: VAR | Plan, refiner: VAR | Plan, draft_steps: int) -> Plan:
    """CoDe: the drafter predicts scales 1..N, the refiner the rest (CoDe, Eq. 2 and 3).

    With the small model as drafter it is the paper's reversed order (Fig. 3c).
    """
    drafts, refines = _part_of("drafter", drafter), _part_of("refiner", refiner)
    _must_agree(drafts.models[0], refines.models[0])
    K = drafts.scales.K
    draft_steps = whole("draft_steps", draft_steps)
    if not 1 <= draft_steps < K:
        raise ValueError(f"draft_steps must be 1..{K - 1}, not {draft_steps}")
    return Plan(drafts.steps[:draft_steps] + refines.steps[draft_steps:])


def variant(model: VAR | Plan, depth: int, bridge_scales: int) -> Plan:
    """VARiant: all layers on the bridge scales 1..N, the equidistant subnet after (Eq. 3)."""
    K = original(model).scales.K
    bridge_scales = whole("bridge_scales", bridge_scales)
    if not 0 <= bridge_scales <= K:
        raise ValueError(f"bridge_scales must be 0..{K}, not {bridge_scales}")
    return subnet(model, depth, range(bridge_scales + 1, K + 1))


def subnet(model: VAR | Plan, depth: int, scales: Iterable[int]) -> Plan:
    """The equidistant subnet on the given scales, everything as before elsewhere (VARiant,
    Table 1: range(1, 4) is early, range(4, 7) mid, range(7, 11) late)."""
    plan = original(model)
    # Every step is asked, so that a depth which does not fit is refused whatever the scales.
    layers = {step: equidistant(step.layers, depth) for step in plan.steps}
    return _changed(plan, scales, lambda step, k: {"layers": layers[step]})


def swap_scale(base: VAR | Plan, other: VAR | Plan, scale: int) -> Plan:
    """The base throughout, but one scale by another model (CoDe, Table 4 and Fig. 3a)."""
    plan, swapped = _part_of("base", base), _part_of("other", other)
    _must_agree(plan.models[0], swapped.models[0])
    (scale,) = _scales([whole("scale", scale)], plan.scales.K)
    steps = list(plan.steps)
    steps[scale - 1] = swapped.steps[scale - 1]
    return Plan(tuple(steps))


def unguided(model: VAR | Plan, scales: Iterable[int]) -> Plan:
    """No guidance at these scales: the half of the batch without a class does not run.  Where it
    comes back it reads what it has missed in one pass."""
    return _changed(model, scales, lambda step, k: {"guided": False})


def skip_scales(model: VAR | Plan, scales: Iterable[int]) -> Plan:
    """These scales predict nothing: their tokens are -1, and the image goes on without them."""
    return _changed(model, scales, lambda step, k: {"skip": True})


def prune_tokens(
    model: VAR | Plan,
    drop: Mapping[int, float],
    layers: Iterable[int] | None = None,
    selector: str = "fastvar",
    restore_from: int | None = None,
    restorer: str = "area",
) -> Plan:
    """Some tokens of a scale are left out of the layers (FastVAR): `Tokens`.

    drop: the share that is left out, by scale.
    """
    if not isinstance(drop, Mapping):
        raise ValueError(f"drop must be shares by scale, {{9: 0.4}}, not {shown(drop)}")
    among = _layers(layers)
    how = (selector, restore_from, among, restorer)
    rules = {k: Tokens(share, *how) for k, share in drop.items()}
    return _changed(model, rules, lambda step, k: {"tokens": rules[k]})


def keep_cache(
    model: VAR | Plan,
    first: int,
    last: int,
    layers: Iterable[int] | None = None,
    scales: Iterable[int] | None = None,
) -> Plan:
    """The first scales and the last stay in the cache, the others go once they are read.

    scales: after which the rule holds; by default all.
    """
    rule, K = Window(first, last, _layers(layers)), original(model).scales.K
    return _with_rules(model, dict.fromkeys(range(1, K + 1) if scales is None else scales, rule))


def evict_cache(
    model: VAR | Plan,
    budget: int | Mapping[int, int],
    score: str = "observed",
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
) -> Plan:
    """A layer keeps so many tokens a row and head, those of the highest score: `Eviction`.

    heads: of those layers; of several rules for a head the last one holds.
    budget: one for all scales, or by scale, and then nothing is evicted after the others.
    """
    K = original(model).scales.K
    budgets = budget if isinstance(budget, Mapping) else dict.fromkeys(range(1, K + 1), budget)
    among = _layers(layers), None if heads is None else numbers("heads", heads)
    rules = {k: Eviction(most, score, *among) for k, most in budgets.items()}
    return _with_rules(model, rules)


def quantise_cache(model: VAR | Plan, bits: int) -> Plan:
    """Keys and values of earlier scales are kept in 8 or 4 bits, symmetric, with a factor for each
    token and head; 16 leaves them as they are.  The scale in hand is attended as it is."""
    every = range(1, original(model).scales.K + 1)
    return _changed(model, every, lambda step, k: {"cache": replace(step.cache, bits=bits)})


def early_exit(model: VAR | Plan, depth: Mapping[int, int]) -> Plan:
    """Only the first layers run, so many by scale."""
    if not isinstance(depth, Mapping):
        raise ValueError(f"depth must be layers by scale, {{9: 20}}, not {shown(depth)}")

    def first_layers(step: Step, k: int) -> dict[str, Any]:
        if not 1 <= whole("depth", depth[k]) <= len(step.layers):
            raise ValueError(f"depth must be 1..{len(step.layers)}, not {depth[k]}")
        return {"layers": step.layers[: depth[k]]}

    return _changed(model, depth, first_layers)


def branch(model: VAR | Plan, at: int, decide: Decide, plans: Sequence[Plan]) -> Plan:
    """After scale `at`, which the plan predicts, each image goes on by one of the plans.

    Until there all are alike.  What a plan goes on with, the first one must have kept: scales that
    it does not skip, halves, maps to restore from.
    """
    plan = original(model)
    _scales([whole("at", at)], plan.scales.K)
    if not 2 <= at < plan.scales.K:
        raise ValueError(f"at must be 2..{plan.scales.K - 1}, not {at}")
    if not plans or not all(isinstance(p, Plan) and not p.branch for p in (plan, *plans)):
        raise ValueError("a branch needs plans, and none that branches itself")
    return replace(plan, branch=Branch(at, decide, tuple(plans)))


def reads(plan: Plan) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """What is read: (scale that is predicted, half of the batch, scales read), all from 0.

    Each half of a model reads all that it has not read yet, up to the scale it predicts, but for
    what is skipped.  Half 0 has the classes, half 1 none.
    """
    read: Counter[tuple[VAR, int]] = Counter()
    for k, step in enumerate(plan.steps):
        for half in () if step.skip else range(1 + step.guided):
            scales = range(read[step.model, half], k + 1)
            yield k, half, tuple(s for s in scales if not plan.steps[s].skip)
            read[step.model, half] = k + 1


def _plan_of(name: str, model: VAR | Plan) -> Plan:
    if isinstance(model, Plan):
        return model
    if not isinstance(model, VAR):
        raise ValueError(f"{name} must be a VAR or a plan, not {shown(model)}")
    step = Step(model, tuple(range(model.config.depth)))
    return Plan((step,) * model.scales.K)


def _part_of(name: str, model: VAR | Plan) -> Plan:
    plan = _plan_of(name, model)
    if plan.branch:
        raise ValueError(f"{name} branches, so it cannot be part of another plan: branch last")
    return plan


def _must_agree(one: VAR, other: VAR) -> None:
    for name in ("patch_sizes", "vocab", "channels", "classes"):
        values = getattr(one.config, name), getattr(other.config, name)
        if values[0] != values[1]:
            raise ValueError(
                f"the models of a plan must agree in {name}: {values[0]} and {values[1]}"
            )


def _layers(layers: Iterable[int] | None) -> tuple[int, ...] | None:
    return None if layers is None else numbers("layers", layers)


def _check_cache(model: VAR, steps: Sequence[Step]) -> None:
    """One model's cache has one precision, and how much of each scale is in it is known."""
    if len({step.cache.bits for step in steps}) > 1:
        raise ValueError("the cache of a model must have the same bits at every scale")
    for layer in range(model.config.depth):
        rules = (rule for step in steps for rule in step.cache.rules)
        if len({type(rule) for rule in rules if holds(rule, layer)}) > 1:
            raise ValueError(f"layer {layer} has both a window and a budget: choose one")


def _check_restored(plan: Plan) -> None:
    """A layer restores from a map that it has computed whole."""
    whole_maps: set[tuple[VAR, int, int, int]] = set()
    for k, half, scales in reads(plan):
        step = plan.steps[k]
        if step.tokens and step.tokens.anchored and step.tokens.drop > 0:
            _check_anchored(plan, k)
        for layer in step.layers:
            prunes, here = step.prunes(layer), (step.model, half, layer)
            whole_maps |= {(*here, s) for s in scales if s != k or not prunes}
            source = None
            if step.tokens and not step.tokens.anchored:
                source = step.tokens.restore_from
            if prunes and source is not None and (*here, source - 1) not in whole_maps:
                raise ValueError(
                    f"layer {layer} cannot restore scale {k + 1} from scale {source}: "
                    "it has not computed that one whole before"
                )


def _check_anchored(plan: Plan, k: int) -> None:
    """The anchors of scale k (from 0) are kept, and its model has predicted the scale that it looks
    back at, whole and with all the halves that run now."""
    step, tokens = plan.steps[k], plan.scales.tokens[k]
    assert step.tokens
    kept, source = step.tokens.kept(tokens), whole("restore_from", step.tokens.restore_from)
    if kept < least_kept(tokens):
        raise ValueError(
            f"scale {k + 1} keeps {kept} tokens, but {step.tokens.selector} has "
            f"{least_kept(tokens)} anchors there"
        )
    before = plan.steps[source - 1] if 1 <= source <= k else None
    if (
        before is None
        or (before.model, before.skip) != (step.model, False)
        or before.guided < step.guided
        or any(before.prunes(layer) for layer in before.layers)
        or not set(middle(step.model.config.depth)) <= set(before.layers)
    ):
        raise ValueError(
            f"scale {k + 1} cannot look back at scale {source}: "
            "its model has not predicted that one whole before"
        )


def _check_branch(steps: tuple[Step, ...], plan: Plan, at: int) -> None:
    """A plan can go on after scale `at` with what the steps have left."""
    if plan.steps[:at] != steps[:at]:
        raise ValueError(f"the plans of a branch must be alike up to scale {at}")
    ours, theirs = Plan(steps), plan
    done = _visited(ours, range(at))
    on, over = (_visited(p, range(at, plan.scales.K)) for p in (ours, theirs))
    halves = [{(model, half) for model, half, *_ in done | later} for later in (on, over)]
    begun = {model for model, *_ in done} & {model for model, *_ in over}
    unlike = [{h for h in which if h[0] in begun} for which in halves]
    kept = {visit for visit in over if visit[:3] in {v[:3] for v in done}}
    if not {v[:3] for v in kept} <= {v[:3] for v in on} or unlike[0] != unlike[1]:
        raise ValueError("a plan of a branch needs keys that the branching plan gives up before")
    pairs = {(model, layer) for model, _, layer, _ in kept}
    if any(head_groups(steps, *pair) != head_groups(plan.steps, *pair) for pair in pairs):
        raise ValueError("a plan of a branch keeps other heads of a layer together than the rest")
    if not {v for v in over if v[3] and v[3] <= at} <= on:
        raise ValueError("a plan of a branch restores from a map that is not kept for it")


def _visited(plan: Plan, scales: range) -> set[tuple[VAR, int, int, int | None]]:
    """(model, half, layer, scale that it restores from) of what predicts these scales, from 0."""
    found: set[tuple[VAR, int, int, int | None]] = set()
    for k, half, _ in reads(plan):
        step = plan.steps[k]
        if k in scales:
            found |= {(step.model, half, layer, None) for layer in step.layers}
        if k in scales and step.tokens and step.tokens.restore_from:
            source = step.tokens.restore_from
            found |= {(step.model, half, layer, source) for layer in step.sources}
    return found


def _changed(
    model: VAR | Plan, scales: Iterable[int], change: Callable[[Step, int], dict[str, Any]]
) -> Plan:
    """The plan with the steps of these scales changed, those of the others as they are."""
    plan = original(model)
    chosen = _scales(scales, plan.scales.K)
    steps = enumerate(plan.steps, 1)
    changed = tuple(replace(s, **change(s, k)) if k in chosen else s for k, s in steps)
    if not plan.branch:
        return Plan(changed)
    plans = tuple(_changed(p, chosen, change) for p in plan.branch.plans)
    return Plan(changed, replace(plan.branch, plans=plans))


def _with_rules(model: VAR | Plan, rules: Mapping[int, Rule]) -> Plan:
    def added(step: Step, k: int) -> dict[str, Any]:
        return {"cache": replace(step.cache, rules=(*step.cache.rules, rules[k]))}

    return _changed(model, rules, added)


def _scales(scales: Iterable[int], K: int) -> tuple[int, ...]:
    chosen = numbers("scales", scales)
    for k in chosen:
        if not 1 <= k <= K:
            raise ValueError(f"scale must be 1..{K}, not {k}")
    return chosen
