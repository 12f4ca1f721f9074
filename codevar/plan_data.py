"""A plan as data: what can be written to a file, published, and run on other models.

    {"steps": [
        {"scales": "1-6"},                                    # model 1, all of its layers
        {"scales": "7-8", "model": 2, "layers": 0.5},         # half of its layers, evenly spread
        {"scales": "9", "model": 2, "layers": "0-7", "guided": False,
         "tokens": {"drop": 0.4, "restore_from": 8}},
        {"scales": "10", "skip": True},
    ]}

Every key is one of `codevar.steps`: of `Step`, `Tokens`, `CacheRules` and its rules.  What is left
out has its default there.  Models are numbered from 1, in the order of first use or as they are
given; scales from 1, layers from 0.  Two keys may be relative, so that a plan fits models of other
sizes: `layers` as a share (VARiant's Eq. 2) and `budget` as a share of the pyramid's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import groupby
from typing import Any, TypeVar, get_args

from codevar.checks import shown, whole
from codevar.spans import read_spans, write_spans
from codevar.steps import CacheRules, Rule, Step, Tokens, equidistant
from codevar.var import VAR

Part = TypeVar("Part")
STEP = ("scales", "model", "layers", "guided", "tokens", "cache", "skip")


def to_dict(steps: Sequence[Step], relative: bool = False) -> dict[str, Any]:
    """The steps of a plan as data; `from_dict` with its models gives them back.

    relative: layers as shares of the depth and budgets as shares of the tokens.  Raises ValueError
    for layers that are no even spread, and for rules that hold for some layers only.
    """
    models = list(dict.fromkeys(step.model for step in steps))
    told = [_step_to_dict(step, models, relative) for step in steps]
    runs = [list(run) for _, run in groupby(range(len(told)), key=lambda k: told[k])]
    return {"steps": [{"scales": write_spans(k + 1 for k in run), **told[run[0]]} for run in runs]}


def from_dict(data: Mapping[str, Any], models: Sequence[VAR]) -> tuple[Step, ...]:
    """The steps with these models.  Raises ValueError, one line with the scales, for what cannot
    be."""
    if not isinstance(data, Mapping) or set(data) != {"steps"} or not _is_list(data["steps"]):
        raise ValueError(f'a plan must be {{"steps": [...]}}, not {shown(data)}')
    K, steps = models[0].scales.K, dict[int, Step]()
    for entry in data["steps"]:
        scales = entry.get("scales") if isinstance(entry, Mapping) else None
        try:
            step, chosen = _step_from_dict(entry, models), read_spans(scales)
        except ValueError as e:
            raise ValueError(f"scales {shown(scales)}: {e}") from None
        if twice := sorted(set(chosen) & set(steps)):
            raise ValueError(f"scale {twice[0]} is told twice")
        steps |= dict.fromkeys(chosen, step)
    if sorted(steps) != list(range(1, K + 1)):
        raise ValueError(f"the steps must be of scales 1-{K}, not {write_spans(sorted(steps))}")
    return tuple(steps[k] for k in range(1, K + 1))


def _step_to_dict(step: Step, models: Sequence[VAR], relative: bool) -> dict[str, Any]:
    depth, tokens = step.model.config.depth, step.model.scales.L
    told: dict[str, Any] = {"model": models.index(step.model) + 1}
    if len(step.layers) < depth:
        told["layers"] = _share(step, depth) if relative else write_spans(step.layers)
    told |= {"guided": step.guided, "skip": step.skip}
    if step.tokens:
        told["tokens"] = _part_to_dict(step.tokens, relative)
    if step.cache != CacheRules():
        rules = [_part_to_dict(rule, relative) for rule in step.cache.rules]
        for rule in rules if relative else []:
            rule |= {"budget": rule["budget"] / tokens} if "budget" in rule else {}
        told["cache"] = {"bits": step.cache.bits, "rules": rules}
    defaults = {"model": 1, "guided": True, "skip": False}
    return {key: value for key, value in told.items() if value != defaults.get(key)}


def _share(step: Step, depth: int) -> float:
    if step.layers != equidistant(tuple(range(depth)), len(step.layers)):
        raise ValueError(f"layers {write_spans(step.layers)} of {depth} are no even spread")
    return len(step.layers) / depth


def _part_to_dict(part: Tokens | Rule, relative: bool) -> dict[str, Any]:
    told = {f.name: value for f in fields(part) if (value := getattr(part, f.name)) != f.default}
    for key in {"layers", "heads"} & {*told}:
        if relative:
            raise ValueError(f"a rule for some {key} only says nothing of a model of other sizes")
        told[key] = write_spans(told[key])
    return told


def _step_from_dict(entry: Any, models: Sequence[VAR]) -> Step:
    if not isinstance(entry, Mapping) or not set(entry) <= {*STEP}:
        raise ValueError(f"a step has the keys {', '.join(STEP)}, not {shown(entry)}")
    number = whole("model", entry.get("model", 1))
    if not 1 <= number <= len(models):
        raise ValueError(f"model must be 1..{len(models)}, not {number}")
    model = models[number - 1]
    for key in ("guided", "skip"):
        if not isinstance(entry.get(key, False), bool):
            raise ValueError(f"{key} must be true or false, not {shown(entry[key])}")
    tokens, cache = entry.get("tokens"), entry.get("cache", {})
    if not isinstance(cache, Mapping) or not set(cache) <= {"bits", "rules"}:
        raise ValueError(f"cache has the keys bits, rules, not {shown(cache)}")
    return Step(
        model=model,
        layers=_layers(entry.get("layers", 1.0), model.config.depth),
        guided=entry.get("guided", True),
        tokens=None if tokens is None else _part(tokens, (Tokens,)),
        cache=CacheRules(
            tuple(_rule(rule, model) for rule in cache.get("rules", [])), cache.get("bits", 16)
        ),
        skip=entry.get("skip", False),
    )


def _layers(wanted: Any, depth: int) -> tuple[int, ...]:
    every = tuple(range(depth))
    if isinstance(wanted, str):
        return tuple(read_spans(wanted))
    if not isinstance(wanted, float | int) or isinstance(wanted, bool) or not 0 < wanted <= 1:
        raise ValueError(f'layers must be a share in (0, 1] or like "0-7", not {shown(wanted)}')
    return every if wanted == 1 else equidistant(every, max(2, round(wanted * depth)))


def _rule(told: Any, model: VAR) -> Rule:
    if isinstance(told, Mapping) and isinstance(share := told.get("budget"), float):
        if not 0 < share <= 1:
            raise ValueError(f"budget must be tokens or a share in (0, 1], not {share}")
        told = {**told, "budget": round(share * model.scales.L)}
    return _part(told, get_args(Rule))


def _part(told: Any, kinds: Sequence[type[Part]]) -> Part:
    """Of those kinds the one that has these keys."""
    for kind in kinds:
        needed = {f.name for f in fields(kind) if f.default is MISSING}  # type: ignore[arg-type]
        known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
        if isinstance(told, Mapping) and needed <= set(told) <= known:
            among = {key: told[key] for key in ("layers", "heads") if key in told}
            read = {
                key: tuple(read_spans(text)) if text != "" else () for key, text in among.items()
            }
            return kind(**{**told, **read})
    keys = " or ".join(", ".join(f.name for f in fields(kind)) for kind in kinds)  # type: ignore[arg-type]
    raise ValueError(f"must have the keys {keys}, not {shown(told)}")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
