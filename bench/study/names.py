"""How cases and weights are called in tables and pictures."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bench.study import strangers
from bench.study.cases import MINI, MINI_FILE, Case, VARCase
from codevar.files import PUBLISHED, SHIPPED


def weights_name(weights: str) -> str:
    """Display name of the weights; of a training, its folder and how far it had come:
    "variant_d4 after 17 %"."""
    return " + ".join(_file_name(part) for part in weights.removeprefix(MINI_FILE).split("+"))


def _file_name(weights: str) -> str:
    path = Path(weights)
    if path.suffix not in (".safetensors", ".pth"):
        return str(path)
    done = re.fullmatch(r"model_(\d+)", path.stem)
    if done:
        return f"{path.parent.name} after {done[1]} %"
    return path.parent.name if path.stem == "model" else path.stem


@functools.cache
def recipe_of(name: str) -> str | None:
    """The recipe that trained a model: of a published one by its name, of a file by its card, which
    is in a .safetensors and beside a .pth; None where nothing says."""
    if name in PUBLISHED:
        role = name.partition("_")[0]
        return f"code-{role}" if role in ("drafter", "refiner") else "var"
    if name not in SHIPPED and strangers.folder():
        return None
    path = SHIPPED.get(name) or Path(name)
    with suppress(OSError, ValueError, KeyError, TypeError, SafetensorError):
        if path.suffix == ".safetensors":  # which has its card in itself
            with safe_open(path, "numpy") as file:
                card = (file.metadata() or {})["card"]
        else:
            card = path.with_suffix(".json").read_text(encoding="utf-8")
        return str(json.loads(card)["recipe"]["recipe"])
    return None


def recipes_of(case: Case) -> list[str | None]:
    """The recipes of the models that the case loads; none of random weights and baselines, nor
    where a folder of checkpoints says nothing."""
    if not isinstance(case, VARCase) or case.weights == "seeded":
        return []
    if not (case.in_mini_world or case.own_files() or case.weights in ("published", "finetuned")):
        return []
    return [recipe_of(name) for name in case.model_names()]


def is_finetuned(case: Case) -> bool:
    """Whether models that it loads were trained for the method."""
    return isinstance(case, VARCase) and not case.recipes.isdisjoint(recipes_of(case))


def is_training_free(case: Case) -> bool:
    """Whether it hands scales over between models, or layers, that were trained as plain VARs."""
    return case.method != "var" and {*recipes_of(case)} == {"var"}


def weights_of(case: Case) -> str:
    """Display name of the weights that are loaded: "published" for a plain VAR's "finetuned"."""
    name = weights_name(case.weights)
    if name.endswith("finetuned") and not is_finetuned(case):
        return MINI if case.in_mini_world else "published"
    return name


def trained_as(case: Case) -> str:
    """Which weights, in a reader's words, for rows that differ in them."""
    if is_finetuned(case):
        return "fine-tuned"
    return "training-free" if is_training_free(case) else Path(weights_of(case)).name


def weights_in_words(case: Case) -> str:
    """Which weights, in front of the word: "random", "mini world's fine-tuned"."""
    kinds = {"seeded": "random", "finetuned": "fine-tuned"}
    kinds |= {"mini": "mini world's", "mini-finetuned": "mini world's fine-tuned"}
    return kinds.get(weights_of(case), Path(weights_of(case)).name)


def distinguishing_settings(
    case: Case, cases: Iterable[Case], columns: Sequence[str] = ()
) -> dict[str, str]:
    """What sets it apart from cases of the same label that are alike in `columns`, by key:
    "cfg 2.5"."""
    own = case.model_dump()
    same = [other.model_dump() for other in cases if other.label == case.label]
    likes = [values for values in same if all(values[key] == own[key] for key in columns)]
    apart = (key for key in own if any(values[key] != own[key] for values in likes))
    return {key: f"{key} {'-' if own[key] is None else own[key]}" for key in apart}


def name_of(
    case: Case, cases: Sequence[Case], columns: Sequence[str] = (), without: Collection[str] = ()
) -> str:
    """Its label and what sets it apart, but for the keys `without`, as pictures and tables tell
    it: "VAR-d16, fp16".  One that is training-free says so whatever the others are."""
    told = {
        key: value if isinstance(value := getattr(case, key), str) else words
        for key, words in distinguishing_settings(case, cases, columns).items()
        if key not in without
    }
    if "weights" in told or ("weights" not in without and is_training_free(case)):
        told["weights"] = how = trained_as(case)
        same = [c.weights for c in cases if c.label == case.label and trained_as(c) == how]
        if len({*same}) > 1:
            told["weights"] = f"{Path(weights_of(case)).name}, {how}"
    return ", ".join([case.label, *told.values()])
