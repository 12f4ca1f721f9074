"""VARiant: scales by a subnet, equidistant layers of the same model."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

import codevar
from bench.study.cases import VARCase, register
from codevar.spans import read_spans


class Subnetted(VARCase):
    """Methods that leave out layers.

    thinned_key: key of the depth of the model whose layers are left out.
    """

    subnet_depth: Annotated[int, Field(ge=2, le=60)]
    thinned_key: ClassVar[str] = "depth"
    recipes: ClassVar = frozenset({"variant"})

    @model_validator(mode="after")
    def _subnet_fits(self) -> Subnetted:
        most = getattr(self, self.thinned_key)
        if self.subnet_depth > most:
            raise ValueError(f"subnet_depth must be 2..{most}, not {self.subnet_depth}")
        return self


@register
class VARiant(Subnetted):
    """All layers on scales 1..bridge_scales, `subnet_depth` equidistant ones after."""

    method: Literal["variant"] = "variant"
    bridge_scales: int = 6
    label_format: ClassVar = "VARiant-d{subnet_depth} N={bridge_scales} (d{depth})"
    scale_keys: ClassVar = {"bridge_scales": (0, 0)}

    @property
    def steps(self) -> str:
        """Scales of the bridge and of the subnet: "7+3"."""
        return f"{self.bridge_scales}+{self.scale_count - self.bridge_scales}"

    def finetuned(self) -> tuple[str, ...]:
        """Name of the supernet trained for this depth, in the mini world."""
        return (f"variant_d{self.subnet_depth}",) if self.in_mini_world else ()

    def method_plan(self, *models: codevar.VAR) -> codevar.plan.Plan:
        """All layers in the bridge, the subnet after it."""
        return codevar.plan.variant(models[0], self.subnet_depth, self.bridge_scales)


def as_written(scales: Any) -> Any:
    """ "3" too, which reads as a number."""
    return str(scales) if type(scales) is int else scales


@register
class Subnet(Subnetted):
    """`subnet_depth` equidistant layers on some scales ("1-3", "4-6,10"), all elsewhere."""

    method: Literal["subnet"] = "subnet"
    scales: Annotated[str, BeforeValidator(as_written)]
    label_format: ClassVar = "VARiant-d{subnet_depth} at {scales} (d{depth})"

    def chosen(self) -> list[int]:
        """The scales, from 1.  Raises ValueError."""
        return read_spans(self.scales)

    @model_validator(mode="after")
    def _scales_fit(self) -> Subnet:
        try:
            fit = set(self.chosen()) <= set(range(1, self.scale_count + 1))
        except ValueError:
            fit = False
        if not fit:
            known = f"in 1..{self.scale_count}"
            raise ValueError(f"scales must be like 7-10 or 1-3,5, {known}, not {self.scales!r}")
        return self

    def method_plan(self, *models: codevar.VAR) -> codevar.plan.Plan:
        """The subnet at the chosen scales, all layers at the others."""
        return codevar.plan.subnet(models[0], self.subnet_depth, self.chosen())
