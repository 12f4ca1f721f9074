"""CoDe: a large model drafts coarse scales, a small one (or its subnet) refines."""

from __future__ import annotations

from typing import ClassVar, Literal

import codevar
from bench.methods.plans.variant import Subnetted
from bench.study.cases import Depth, VARCase, register


@register
class CoDe(VARCase):
    """A drafter of `depth` for scales 1..draft_steps, a refiner after."""

    method: Literal["code"] = "code"
    refiner_depth: Depth = 16
    draft_steps: int
    label_format: ClassVar = "CoDe N={draft_steps} (d{depth}+d{refiner_depth})"
    depth_keys: ClassVar = ("depth", "refiner_depth")
    scale_keys: ClassVar = {"draft_steps": (1, 1)}
    recipes: ClassVar = frozenset({"code-drafter", "code-refiner"})

    @property
    def steps(self) -> str:
        """Scales drafted and refined: "6+4"."""
        return f"{self.draft_steps}+{self.scale_count - self.draft_steps}"

    def finetuned(self) -> tuple[str, ...]:
        """Names of the drafter and refiner trained for this N; none where no file was published."""
        if not self.in_mini_world and self.depths != (30, 16):
            return ()
        return f"drafter_{self.draft_steps}", f"refiner_{self.draft_steps}"

    def method_plan(self, *models: codevar.VAR) -> codevar.plan.Plan:
        """The plan with a drafter and a refiner."""
        drafter, refiner = models
        return codevar.plan.code(drafter, refiner, self.draft_steps)


@register
class CoDeVARiant(CoDe, Subnetted):
    """CoDe whose refiner is itself a subnet."""

    method: Literal["code_variant"] = "code_variant"  # type: ignore[assignment]
    label_format: ClassVar = (
        "CoDe N={draft_steps} (d{depth}+d{refiner_depth} by {subnet_depth} layers)"
    )
    thinned_key: ClassVar = "refiner_depth"
    recipes: ClassVar = CoDe.recipes | Subnetted.recipes

    def finetuned(self) -> tuple[str, ...]:
        """As CoDe's in the mini world; none was published."""
        return super().finetuned() if self.in_mini_world else ()

    def method_plan(self, *models: codevar.VAR) -> codevar.plan.Plan:
        """CoDe's plan whose refiner runs some of its layers."""
        drafter, refiner = models
        late = range(self.draft_steps + 1, self.scale_count + 1)
        thinned = codevar.plan.subnet(refiner, self.subnet_depth, late)
        return codevar.plan.code(drafter, thinned, self.draft_steps)
