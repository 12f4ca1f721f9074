"""A method of one's own: VARiant's subnet that grows thinner from scale to scale.

python bench.py run examples/my_experiment.toml --plugin examples/my_method.py
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bench.study.cases import VARCase, register
from codevar import plan


@register
class Funnel(VARCase):
    """All layers on scales 1..bridge_scales, then `fewer` layers less at each further scale."""

    method: Literal["funnel"] = "funnel"
    bridge_scales: int = Field(7, ge=1, le=9)
    fewer: int = Field(2, ge=1, le=8)
    color, marker = "#117733", "P"
    label_format: ClassVar = "Funnel N={bridge_scales} -{fewer} (d{depth})"

    def method_plan(self, *models):
        """Which model predicts each scale, with which of its layers."""
        found = plan.original(models[0])
        for step, k in enumerate(range(self.bridge_scales + 1, found.scales.K + 1), 1):
            depth = max(2, self.depth - step * self.fewer)
            found = plan.subnet(found, depth, [k])
        return found
