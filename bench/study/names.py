"""How cases and weights are called in tables and pictures."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from bench.study.cases import MINI, MINI_FILE, Case, VARCase


def weights_name(weights: str) -> str:
    """How a reader is told which weights: of a file of a training its folder, which says more than
    "model", and how far it had come: "variant_d4 after 17 %"."""
    path = Path(weights.removeprefix(MINI_FILE))
    if path.suffix not in (".safetensors", ".pth"):
        return str(path)
    done = re.fullmatch(r"model_(\d+)", path.stem)
    if done:
        return f"{path.parent.name} after {done[1]} %"
    return path.parent.name if path.stem == "model" else path.stem


def is_finetuned(case: Case) -> bool:
    """Whether its models were trained for the method."""
    return case.weights.endswith("finetuned")


def is_training_free(case: Case) -> bool:
    """Whether it hands scales over between models, or layers, that were not trained for it."""
    base = case.weights in (MINI, "published")
    return isinstance(case, VARCase) and case.method != "var" and base


def trained_as(case: Case) -> str:
    """Which weights, in a reader's words, for rows that differ in them."""
    if is_finetuned(case):
        return "fine-tuned"
    return "training-free" if is_training_free(case) else Path(weights_name(case.weights)).name


def set_apart(case: Case, cases: Iterable[Case], columns: Sequence[str] = ()) -> dict[str, str]:
    """What sets it apart from cases of the same label that are alike in `columns`, by key:
    "cfg 2.5"."""
    own = case.model_dump()
    same = [other.model_dump() for other in cases if other.label == case.label]
    likes = [values for values in same if all(values[key] == own[key] for key in columns)]
    apart = (key for key in own if any(values[key] != own[key] for values in likes))
    return {key: f"{key} {'-' if own[key] is None else own[key]}" for key in apart}


def name_of(
    case: Case, cases: Iterable[Case], columns: Sequence[str] = (), without: Collection[str] = ()
) -> str:
    """Its label and what sets it apart, but for the keys `without`, as a picture tells it:
    "VAR-d16, fp16"."""
    told = {
        key: value if isinstance(value := getattr(case, key), str) else words
        for key, words in set_apart(case, cases, columns).items()
        if key not in without
    }
    if "weights" in told:
        told["weights"] = trained_as(case)
    return ", ".join([case.label, *told.values()])
