"""The model that plans are searched for, and what a plan would cost it: by prediction alone."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property

from bench.methods.meta import meta_plan, vqvae_config
from bench.predict.ceilings import Ceilings
from bench.predict.floor import floor_of
from bench.predict.prediction import flops, kv_cache_bytes, params_bytes, predict
from bench.search.space import Saving, Steps, plan_of, published, savings
from bench.study.cases import VARCase, is_ours, make_case, methods, planned
from bench.study.errors import UsageError
from bench.study.units import MIB
from codevar.stacks import stack

FORM = re.compile(r"(mini|d(\d+)(\+d(\d+))?),(\d+),(published|modern|compiled)")
#: What a budget can be of: how its figure is printed.
COSTS = {"latency_s": "{:.4g} s", "memory_mib": "{:,.0f} MiB", "flops": "{:.4g} FLOPs"}
WITHIN = 0.02  # costs that count as the same
FAR = 0.1  # of what is to be saved


def said(costs: Mapping[str, float]) -> str:
    """Costs in words."""
    return ", ".join(COSTS[name].format(value) for name, value in costs.items()) + " (predicted)"


class Target:
    """A model, a batch size, a stack, and a budget.

    text: "d30+d16,64,modern", the large model with or without a small one; "mini,..." the mini
    world's.  limits: the most of each of COSTS.  top: ceilings of the machine; for a limit on
    latency, which is the floor by them.  Raises UsageError for what cannot be.
    """

    def __init__(
        self,
        text: str,
        limits: Mapping[str, float],
        device: str,
        precision: str,
        top: Ceilings | None = None,
    ) -> None:
        found = FORM.fullmatch(text)
        if not found:
            raise UsageError(f"--for {text}: write MODEL,BATCH,STACK, like d30+d16,64,modern")
        if not limits:
            raise UsageError("a search needs a budget: --max-latency, --max-memory or --max-flops")
        known = top and top.device == device and {p.precision for p in top.products}
        if "latency_s" in limits and not {precision, "float32"} <= (known or set()):
            raise UsageError(
                f"--max-latency: no profile tells how fast {device} is in {precision}; "
                "`bench.py profile` measures it, --profile names one"
            )
        self.text, self.limits, self.top = text, dict(limits), top
        large, small = found[2], found[4]
        sizes = {"depth": int(large), "other_depth": int(small or large)} if large else {}
        self.settings = {
            **({"weights": "mini", "sampling": "mini"} if found[1] == "mini" else sizes),
            "batch_size": int(found[5]),
            "stack": found[6],
            "device": device,
            "precision": precision,
        }
        self.small = found[1] == "mini" or small is not None
        self.scales = self.case([{"scales": "1"}]).scale_count
        self._costs: dict[str, dict[str, float]] = {}
        self._memory_margin = 0.0  # MiB that a decode took over weights and cache, the most so far

    def case(self, steps: Steps, name: str = "plan") -> VARCase:
        """A plan as a case of the model."""
        made = make_case({**self.settings, "method": "plan", "name": name, "by_scale": steps})
        return planned([made], name)[0]

    def costs(self, steps: Steps) -> dict[str, float]:
        """What the budget is of.  Memory is that of weights and cache: `exact` has all of it."""
        key = json.dumps(steps)
        if key not in self._costs:
            case = self.case(steps)
            plan, run = meta_plan(case), stack(case.stack, case.precision, case.attention)
            found = {}
            if "latency_s" in self.limits:
                assert self.top
                found["latency_s"] = sum(floor_of(case, self.top).seconds)
            if "memory_mib" in self.limits:
                weights = params_bytes(plan, vqvae_config(case), run)
                cache = kv_cache_bytes(plan, case.batch_size, run)
                found["memory_mib"] = (weights + max(cache)) / MIB
            if "flops" in self.limits:
                found["flops"] = float(sum(flops(plan, case.batch_size, run)))
            self._costs[key] = found
        return self._costs[key]

    def exact(self, steps: Steps) -> dict[str, float]:
        """The same with a decode's whole memory, which takes seconds to simulate."""
        found = dict(self.costs(steps))
        if "memory_mib" in found:
            found["memory_mib"] = predict(self.case(steps)).total_bytes / MIB
        return found

    def rivals(self) -> dict[str, Steps]:
        """The published plans by name, and the plan of each plugin's method at its defaults.

        Raises UsageError for one whose plan fits no model but its own.
        """
        found = published(self.scales, self.small)
        for method, kind in methods().items():
            if not issubclass(kind, VARCase) or is_ours(kind):
                continue
            own = {key: value for key, value in self.settings.items() if key in kind.model_fields}
            (case,) = planned([make_case({**own, "method": method})], method)
            try:
                found[case.label] = meta_plan(case).to_dict(relative=True)["steps"]
            except ValueError as e:
                raise UsageError(f"{method}: cannot be searched against: {e}") from None
        return found

    def within(self, costs: Mapping[str, float]) -> bool:
        """Whether they are in the budget."""
        return all(costs[name] <= most for name, most in self.limits.items())

    def cost(self, costs: Mapping[str, float]) -> float:
        """The figure that plans are compared at: of the first limit."""
        return costs[next(iter(self.limits))]

    @cached_property
    def savings(self) -> list[Saving]:
        """All there are for it."""
        return savings(self.case([{"scales": "1"}]).patch_sizes, self.small)

    def check(self) -> None:
        """Raises UsageError for a budget that no plan fits, or that the whole model fits."""
        whole, least = (self.exact(plan_of(s, self.scales)) for s in ([], self.savings))
        if self.within(whole):
            raise UsageError(f"{self.text} fits the budget as it is: it takes {said(whole)}")
        if not self.within(least):
            raise UsageError(
                f"no plan of {self.text} fits {said(self.limits).removesuffix(' (predicted)')}: "
                f"the least is {said(least)}"
            )

    def gain(self, saving: Saving) -> float:
        """What it saves alone, as shares of the limits."""
        whole, less = (self.costs(plan_of(s, self.scales)) for s in ([], [saving]))
        return sum((whole[name] - less[name]) / most for name, most in self.limits.items())

    def overshoots(self, saving: Saving) -> bool:
        """Whether it alone saves far more than the budget asks."""
        whole = self.costs(plan_of([], self.scales))
        asked = sum(max(0, whole[name] / most - 1) for name, most in self.limits.items())
        return self.gain(saving) > (1 + FAR) * asked

    def fitted(self, order: Sequence[Saving]) -> Steps:
        """The plan with the first of these savings that bring it into the budget, and then without
        any that it can do without: a plan from which nothing can be taken back."""

        def fits(some: Sequence[Saving]) -> bool:
            costs = dict(self.costs(plan_of(some, self.scales)))
            if "memory_mib" in costs:
                costs["memory_mib"] += self._memory_margin
            return self.within(costs)

        while True:
            count = bisect.bisect_left(range(len(order)), True, key=lambda n: fits(order[:n]))
            chosen = list(order[:count])
            for saving in reversed(order[:count]):
                without = [one for one in chosen if one is not saving]
                chosen = without if fits(without) else chosen
            steps = plan_of(chosen, self.scales)
            exact = self.exact(steps)
            if self.within(exact) or count == len(order):
                return steps
            self._memory_margin = exact["memory_mib"] - self.costs(steps)["memory_mib"]
