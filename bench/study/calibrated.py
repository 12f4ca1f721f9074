"""Files of settings that were measured on images of one model: `bench.py calibrate` writes them, an
experiment names them (`cache_policy = "scalekv mini_scalekv"`).

A file is JSON: the method, the sizes of the model that its settings are of, what they were measured
on (models, images, seed), and the settings, as functions of `codevar.methods` take them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.study import strangers
from bench.study.folders import EXPERIMENTS
from codevar.files import atomic_write

if TYPE_CHECKING:
    from codevar.config import VARConfig
    from codevar.plan import Plan

#: Keys of an experiment that take such a file, and the methods of each.
METHODS = {
    "prune": ("sparsevar",),
    "cache_policy": ("scalekv", "ams_kv", "hack"),
    "branch": ("skipvar",),
}
SHIPPED = EXPERIMENTS / "settings"
KEPT = "settings"  # the folder of a bundle that has the files it was measured with


def path_of(name: str) -> Path:
    """A file, or one of those that come with the project by its name; of what a stranger sent, the
    copy that came with it."""
    if (sent := strangers.folder()) and name.endswith(".json"):
        return sent / KEPT / Path(name).name
    return Path(name) if name.endswith(".json") else SHIPPED / f"{name}.json"


def read(method: str, name: str) -> dict[str, Any]:
    """The file's contents.  Raises ValueError, one line, for one that is missing, or is none, or
    of another method."""
    path = path_of(name)
    try:
        found = json.loads(path.read_text())
        of, *_ = found["method"], found["model"], found["measured_on"], found["settings"]
        if not isinstance(found["settings"], dict):
            raise ValueError
    except OSError as e:
        there = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.json")))
        raise ValueError(
            f"{path}: cannot be read ({e.strerror}); make it with calibrate, or name one of {there}"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: no file of settings; make one with calibrate") from None
    if of != method:
        raise ValueError(f"{path}: settings of {of}, not of {method}")
    return found


def write(
    path: Path,
    method: str,
    model: VARConfig,
    measured_on: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """measured_on: the data and its seed."""
    what = {"method": method, "model": dataclasses.asdict(model), "measured_on": measured_on}
    with atomic_write(path) as part:
        part.write_text(json.dumps(what | {"settings": settings}, indent=1) + "\n")


def applied(plan: Plan, method: str, name: str, variant: str | None) -> Plan:
    """The plan with the file's settings, at the scales of the model that they are of.

    variant: of the method, or its control.  Raises ValueError for a plan without that model.
    """
    from codevar import methods

    found = read(method, name)
    sizes = found["model"] | {"patch_sizes": tuple(found["model"]["patch_sizes"])}
    scales = [
        k for k, step in enumerate(plan.steps, 1) if dataclasses.asdict(step.model.config) == sizes
    ]
    if not scales:
        raise ValueError(
            f"{path_of(name)}: of a model of depth {sizes['depth']} and width {sizes['width']} "
            f"at {len(sizes['patch_sizes'])} scales, which this plan has not"
        )
    settings = by_number(found["settings"]) | ({"score": variant} if variant else {})
    try:
        return methods.CALIBRATED[method](plan, scales, **settings)
    except (KeyError, TypeError) as e:
        told = " ".join(str(e).split())
        raise ValueError(
            f"{path_of(name)}: settings that {method} does not take ({told})"
        ) from None


def dropped(name: str, tokens: list[int]) -> dict[int, float]:
    """The share of each scale's tokens that the file of a pruning leaves out."""
    kept = by_number(read("sparsevar", name)["settings"]).get("kept", {})
    counts = isinstance(kept, dict) and {type(part) for pair in kept.items() for part in pair}
    if counts not in (set(), {int}):
        raise ValueError(f"{path_of(name)}: kept must be counts of tokens by scale")
    return {k: 1 - count / tokens[k - 1] for k, count in kept.items() if 1 <= k <= len(tokens)}


def by_number(found: Any) -> Any:
    """The same with whole numbers for the keys that JSON made strings of."""
    if not isinstance(found, dict):
        return found
    return {int(k) if k.isdigit() else k: by_number(v) for k, v in found.items()}
