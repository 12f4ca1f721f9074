"""VAR as published, and with one scale by another model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from bench.study.cases import Depth, VARCase, register

if TYPE_CHECKING:
    from codevar.plan import Plan
    from codevar.var import VAR


@register
class Original(VARCase):
    """VAR as published."""

    method: Literal["var"] = "var"
    label_format: ClassVar = "VAR-d{depth}"

    def method_plan(self, *models: VAR) -> Plan:
        from codevar.plan import original

        return original(models[0])


@register
class Swap(VARCase):
    """One scale by another model."""

    method: Literal["swap"] = "swap"
    other_depth: Depth = 16
    scale: int
    label_format: ClassVar = "VAR-d{depth}, scale {scale} by d{other_depth}"
    depth_keys: ClassVar = ("depth", "other_depth")
    scale_keys: ClassVar = {"scale": (1, 0)}

    def method_plan(self, *models: VAR) -> Plan:
        from codevar.plan import swap_scale

        base, other = models
        return swap_scale(base, other, self.scale)
