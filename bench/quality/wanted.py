"""Sample sets as they are asked for: one for each case that makes other images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.study import savings
from bench.study.cases import Case, with_batch
from bench.study.names import weights_of

# Keys of a case that change no image.
FREE = ("batch_size", "device", "memory_limit_gib")


@dataclass(frozen=True)
class Wanted:
    """seed: of the set; each image's own follows from it."""

    case: Case
    seed: int
    per_class: int
    format: Literal["png", "npz"]

    @property
    def values(self) -> dict[str, Any]:
        """What of a manifest follows from this, without a look at any weights."""
        settings = savings.settings_hashes([self.case])
        return {
            **({"settings_sha256": settings} if settings else {}),
            "case": self.case.model_dump(),
            "label": self.case.label,
            "preset": dict(self.case)["sampling"],
            "seed": self.seed,
            "per_class": self.per_class,
            "format": self.format,
        }


def drawn_by(case: Case) -> str:
    """What of a case makes its images: alike for cases that differ in `FREE` alone."""
    return case.model_dump_json(exclude={*FREE})


def sets_of(
    cases: Sequence[Case],
    per_class: int,
    format: Literal["png", "npz"],
    batch_size: int,
    seed: int | None = None,
) -> dict[str, Wanted]:
    """By a name that is good for a folder.  Cases that differ in `FREE` alone are one set.

    seed: instead of the cases' own.
    """
    found: dict[str, Wanted] = {}
    seen: set[str] = set()
    for case in cases:
        if drawn_by(case) in seen:
            continue
        seen.add(drawn_by(case))
        case = with_batch(case, batch_size)
        name = slug(case)
        if name in found:  # of two folders of weights, say, with the same last name
            name = f"{name}-{case.key}"
        own = case.seed if seed is None else seed
        found[name] = Wanted(case, own, per_class, format)
    return found


def slug(case: Case) -> str:
    """code-n-6-d30-d16-published-fp16: what a case is called, and what else is not as usual."""
    parts = [case.label, case.stack, case.precision]
    others = {"attention": "", "weights": "", "sampling": "preset ", "seed": "seed "}
    for key, word in others.items():
        value = getattr(case, key)
        if value != type(case).model_fields[key].default:
            told = Path(weights_of(case)).name if key == "weights" else value
            parts.append(f"{word}{told}")
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")
