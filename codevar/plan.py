"""Plans: for each scale, which model predicts it, with which of its layers.

Every method of the papers is a plan, and every function here returns one.  Where a function
takes a model it takes a plan too, so they compose:

    code(drafter, subnet(refiner, depth=2, scales=range(7, 11)), draft_steps=6)

Scales count from 1, layers from 0.  All raise ValueError, in one line, for what cannot be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from codevar.checks import shown, whole
from codevar.scales import Scales
from codevar.var import VAR


@dataclass(frozen=True)
class Step:
    """What predicts one scale."""

    model: VAR
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.model, VAR):
            raise ValueError(f"a step's model must be a VAR, not {shown(self.model)}")
        object.__setattr__(self, "layers", _numbers("layers", self.layers))


@dataclass(frozen=True)
class Plan:
    """One step for each scale, coarse to fine."""

    steps: tuple[Step, ...]

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
        for step in self.steps:
            known = range(step.model.config.depth)
            rising = list(step.layers) == sorted(set(step.layers))
            if not step.layers or not rising or not set(step.layers) <= set(known):
                raise ValueError(f"layers must rise within 0..{known[-1]}, not {step.layers}")

    @property
    def scales(self) -> Scales:
        return self.steps[0].model.scales

    @property
    def models(self) -> list[VAR]:
        """Each model once, in order of first use."""
        return list(dict.fromkeys(step.model for step in self.steps))


def original(model: VAR | Plan) -> Plan:
    """VAR as published: all layers at every scale."""
    return _plan_of("model", model)


def code(drafter: VAR | Plan, refiner: VAR | Plan, draft_steps: int) -> Plan:
    """CoDe: the drafter predicts scales 1..N, the refiner the rest (CoDe, Eq. 2 and 3).

    With the small model as drafter it is the paper's reversed order (Fig. 3c).
    """
    drafts, refines = _plan_of("drafter", drafter), _plan_of("refiner", refiner)
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
    chosen = _scales(scales, plan.scales.K)
    # Every step is asked, so that a depth which does not fit is refused whatever the scales.
    subnets = [Step(s.model, equidistant(s.layers, depth)) for s in plan.steps]
    return Plan(
        tuple(
            sub if k in chosen else step
            for k, (sub, step) in enumerate(zip(subnets, plan.steps, strict=True), 1)
        )
    )


def swap_scale(base: VAR | Plan, other: VAR | Plan, scale: int) -> Plan:
    """The base throughout, but one scale by another model (CoDe, Table 4 and Fig. 3a)."""
    plan, swapped = _plan_of("base", base), _plan_of("other", other)
    _must_agree(plan.models[0], swapped.models[0])
    (scale,) = _scales([whole("scale", scale)], plan.scales.K)
    steps = list(plan.steps)
    steps[scale - 1] = swapped.steps[scale - 1]
    return Plan(tuple(steps))


def equidistant(layers: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """`depth` of the layers, evenly spread, first and last among them (VARiant, Eq. 2)."""
    depth = whole("subnet depth", depth)
    if not 2 <= depth <= len(layers):
        raise ValueError(f"subnet depth must be 2..{len(layers)}, not {depth}")
    return tuple(layers[i * (len(layers) - 1) // (depth - 1)] for i in range(depth))


def _plan_of(name: str, model: VAR | Plan) -> Plan:
    if isinstance(model, Plan):
        return model
    if not isinstance(model, VAR):
        raise ValueError(f"{name} must be a VAR or a plan, not {shown(model)}")
    step = Step(model, tuple(range(model.config.depth)))
    return Plan((step,) * model.scales.K)


def _must_agree(one: VAR, other: VAR) -> None:
    for name in ("patch_sizes", "vocab", "channels", "classes"):
        values = getattr(one.config, name), getattr(other.config, name)
        if values[0] != values[1]:
            raise ValueError(
                f"the models of a plan must agree in {name}: {values[0]} and {values[1]}"
            )


def _scales(scales: Iterable[int], K: int) -> tuple[int, ...]:
    chosen = _numbers("scales", scales)
    for k in chosen:
        if not 1 <= k <= K:
            raise ValueError(f"scale must be 1..{K}, not {k}")
    return chosen


def _numbers(name: str, values: Iterable[int]) -> tuple[int, ...]:
    try:
        numbers = tuple(values)
    except TypeError:
        raise ValueError(f"{name} must be a list of whole numbers, not {shown(values)}") from None
    return tuple(whole(f"each of the {name}", number) for number in numbers)
