"""VAR as published, and with one scale by another model."""

from __future__ import annotations

from typing import ClassVar, Literal

import codevar
from bench.study.cases import Depth, VARCase, register


@register
class Original(VARCase):
    """VAR as published."""

    method: Literal["var"] = "var"
    label_format: ClassVar = "VAR-d{depth}"

    def method_plan(self, *models: codevar.VAR) -> codevar.plan.Plan:
        """All layers of one model at every scale."""
        return codevar.plan.original(models[0])


@register
class Swap(VARCase):
    """One scale by another model."""

    method: Literal["swap"] = "swap"
    other_depth: Depth = 16
    scale: int
    label_format: ClassVar = "VAR-d{depth}, scale {scale} by d{other_depth}"
    depth_keys: ClassVar = ("depth", "other_depth")
    scale_keys: ClassVar = {"scale": (1, 0)}

    def method_plan(self, *models: codevar.VAR) -> codevar.plan.Plan:
        """One model, another at the one scale."""
        base, other = models
        return codevar.plan.swap_scale(base, other, self.scale)
