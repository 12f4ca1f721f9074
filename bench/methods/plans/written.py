"""A plan that an experiment writes out, scale by scale: a found one, or anybody's."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

import codevar
from bench.study.cases import Depth, VARCase, register
from codevar.checks import shown


def as_json(steps: Any) -> Any:
    """The tables of an experiment file as the text that a case and its record hold."""
    try:
        told = json.loads(steps) if isinstance(steps, str) else steps
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, list) or not all(isinstance(step, dict) for step in told):
        raise ValueError(f"by_scale must be a list of steps with their scales, not {shown(steps)}")
    return json.dumps(told, sort_keys=True)


@register
class Written(VARCase):
    """`by_scale` are the steps of `codevar.plan_data`; model 1 is of `depth`, 2 of `other_depth`.

    by_scale = [{scales = "1-8"}, {scales = "9", model = 2, layers = 0.5},
                {scales = "10", skip = true}]
    """

    method: Literal["plan"] = "plan"
    name: str = "plan"
    by_scale: Annotated[str, BeforeValidator(as_json)]
    other_depth: Depth = 16
    label_format: ClassVar = "{name} (d{depth})"
    depth_keys: ClassVar = ("depth", "other_depth")

    @property
    def data(self) -> dict[str, Any]:
        """For `codevar.plan.Plan.from_dict`."""
        return {"steps": json.loads(self.by_scale)}

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths of the models that a step names."""
        named = [step.get("model", 1) for step in self.data["steps"]]
        return (self.depth, self.other_depth) if 2 in named else (self.depth,)

    @property
    def label(self) -> str:
        """Its name with the depths of its models, its savings behind it."""
        other = f"+d{self.other_depth}" if len(self.depths) > 1 else ""
        return super().label.replace(f"(d{self.depth})", f"(d{self.depth}{other})", 1)

    def method_plan(self, *models: codevar.VAR) -> codevar.plan.Plan:
        """The plan that is written."""
        return codevar.plan.Plan.from_dict(self.data, models)
