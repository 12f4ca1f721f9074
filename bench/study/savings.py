"""What a case leaves out of its method's plan, as an experiment writes it.

Each key is a number or a string, since a list is an axis:

    guidance_off_from = 9                         # no guidance from scale 9 on
    skip_scales = "9-10"                          # or "7", or "7,9-10"
    prune = "fastvar 9:0.4,10:0.5 from 8 in 1-29" # or "random ... zeros"; all layers without "in"
    prune = "mine 9:0.4 nearest 8"                # a selector and a restorer of one's own
    prune = "sparsevar mini_sparsevar"            # of a file, as "scalekv ..." below
    cache_policy = "window 2+1"                   # or "observed 64 in 1-29", "random 64", ...
    cache_policy = "scalekv mini_scalekv"         # of a file of `bench.study.calibrated`
    cache_bits = 8
    early_exit = "9:20,10:16"
    branch = "skipvar mini_skipvar"               # or "... random", or "... only3": all go that way
    weight_bits = "W8A8"                          # or "W8A16"

Scales count from 1, layers from 0.  Nothing here needs torch until a plan is made.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bench.study import calibrated
from codevar.spans import FORM, read_spans

if TYPE_CHECKING:
    from bench.study.cases import Case, VARCase
    from codevar.plan import Plan

WITHIN = rf"(?: in (?P<layers>{FORM}))?"
FILE = r"(?P<method>{}) (?P<file>\S+)(?: (?P<variant>[a-z0-9_]+))?"
NAME = r"[a-z][a-z0-9_]*"
BY_SCALE = r"\d+:[\d.]+(?:,\d+:[\d.]+)*"


def _file(key: str) -> str:
    """A calibrated method, its file and, where another than the method's, its variant."""
    return FILE.format("|".join(calibrated.METHODS[key]))


#: What each key is where nothing is left out.
NONE: dict[str, Any] = {
    "guidance_off_from": None,
    "skip_scales": None,
    "prune": None,
    "cache_policy": None,
    "cache_bits": 16,
    "early_exit": None,
    "weight_bits": 16,
    "branch": None,
}
KEYS = tuple(NONE)
FORMS = {
    "skip_scales": (rf"(?P<scales>{FORM})", '"9-10"'),
    "prune": (
        rf"(?P<selector>{NAME}) (?P<drop>{BY_SCALE}) (?:(?P<restorer>{NAME}) (?P<source>\d+)|zeros)"
        rf"{WITHIN}|{_file('prune')}",
        '"fastvar 9:0.4,10:0.5 from 8", "random 10:0.5 zeros in 1-15" or "sparsevar FILE"',
    ),
    "cache_policy": (
        r"(?:window (?P<first>\d+)\+(?P<last>\d+)"
        rf"|(?!window)(?P<score>{NAME}) (?P<budget>\d+)){WITHIN}|{_file('cache_policy')}",
        '"window 2+1", "observed 64 in 1-15" or "scalekv mini_scalekv"',
    ),
    "early_exit": (rf"(?P<depth>{BY_SCALE})", '"9:20,10:16"'),
    "branch": (_file("branch"), '"skipvar mini_skipvar"'),
}


def parsed(key: str, text: str) -> dict[str, Any]:
    """The parts of a key's text.  Raises ValueError, one line with the key."""
    form, example = FORMS[key]
    match = re.fullmatch(form, text)
    if not match:
        raise ValueError(f"{key} must be like {example}, not {text!r}")
    parts = match.groupdict()
    for numbers in filter(None, (parts.get("scales"), parts.get("layers"))):
        try:
            read_spans(numbers)
        except ValueError as e:
            raise ValueError(f"{key} {e}") from None
    return parts


def check(case: VARCase, scales: int) -> None:
    """Raises ValueError, one line with the key, for a text that cannot be read."""
    off = case.guidance_off_from
    if off is not None and not 1 <= off <= scales:
        raise ValueError(f"guidance_off_from must be 1..{scales}, not {off}")
    for key in FORMS:
        if (text := getattr(case, key)) is not None:
            parts = parsed(key, text)
            if parts.get("file"):
                calibrated.read(parts["method"], parts["file"])


def settings_hashes(cases: Iterable[Case]) -> dict[str, str]:
    """SHA-256 of each file of settings that the cases name, by its name.  The same name may hold
    other settings later, and a case's key tells no difference."""
    texts = {(key, getattr(case, key, None)) for case in cases for key in calibrated.METHODS}
    names = {parsed(key, text).get("file") for key, text in texts if text}
    paths = {name: calibrated.path_of(name) for name in names if name}
    return {name: hashlib.sha256(paths[name].read_bytes()).hexdigest() for name in sorted(paths)}


def label(case: VARCase) -> str:
    """What a label says of it: ", no guidance from 9, int8 cache"; nothing if nothing is left
    out.  Where pruned tokens are restored from, and in which layers, is left to the table."""
    words = {
        "guidance_off_from": "no guidance from {}",
        "skip_scales": "without scale {}",
        "prune": "{}",
        "cache_policy": "cache {}",
        "early_exit": "exit {}",
        "branch": "{}",
    }
    said = {key: value for key in words if (value := getattr(case, key))}
    if case.prune:
        said["prune"] = re.sub(r" (from|in) \S+", "", case.prune)
    told = [words[key].format(value) for key, value in said.items()]
    told += [f"int{case.cache_bits} cache"] * (case.cache_bits < 16)
    told += [f"{case.weight_bits}{' emulated' * (case.weight_bits == 'W8A16')}"] * (
        case.weight_bits != 16
    )
    return "".join(f", {part}" for part in told)


def whole(values: dict[str, Any]) -> dict[str, Any]:
    """The keys and values of a case that leaves nothing out, and is otherwise the same."""
    return values | {key: value for key, value in NONE.items() if key in values}


def controls(case: VARCase) -> Iterator[dict[str, Any]]:
    """The keys and values of what a case is to be held against: the same without its idea.

    Of a choice of tokens, as many at random; of what the others get, zeros; of what makes fewer
    FLOPs, skipped scales of about as many tokens; of fewer layers, as many spread evenly; of a
    decision for each image, as many of each drawn; of all, the whole case by another seed.
    """
    values = case.model_dump()
    if whole(values) == values:
        return
    tokens = [side * side for side in case.patch_sizes]
    left_out = 0.0
    if case.guidance_off_from:
        left_out = sum(tokens[case.guidance_off_from - 1 :]) / 2
    if case.prune:
        p = parsed("prune", case.prune)
        drop = by_scale(p["drop"]) if p["drop"] else calibrated.dropped(p["file"], tokens)
        within = p["layers"] and sum(i < case.depth for i in read_spans(p["layers"])) / case.depth
        left_out += sum(share * tokens[k - 1] for k, share in drop.items()) * (within or 1)
        sparse = p["method"] or p["selector"].startswith("sparsevar")
        if p["file"] and p["variant"] != "random":
            yield values | {"prune": f"{p['method']} {p['file']} random"}
        elif p["selector"] == "sparsevar":
            yield values | {"prune": case.prune.replace("sparsevar", "sparsevar_random", 1)}
        elif not sparse and p["selector"] != "random":
            yield values | {"prune": case.prune.replace(p["selector"], "random", 1)}
        if p["source"] and not sparse:
            yield values | {"prune": re.sub(rf" {p['restorer']} \d+", " zeros", case.prune)}
    if left_out and not case.skip_scales:
        yield whole(values) | {"skip_scales": skipped_instead(tokens, left_out)}
    if case.cache_policy:
        p = parsed("cache_policy", case.cache_policy)
        budget, within = p["budget"], f" in {p['layers']}" if p["layers"] else ""
        if p["first"]:
            last = len(tokens) - 1 - int(p["last"])  # as much as the last scale finds
            budget = sum(n for k, n in enumerate(tokens[:-1]) if k < int(p["first"]) or k >= last)
        chance = {"random", "recent"}
        if p["method"] == "ams_kv":  # every layer alike
            yield values | {"cache_policy": "window 2+1"}
        elif not {p["score"], p["variant"]} & {*chance, "random_heads"}:
            for score in [*sorted(chance), *["random_heads"] * (p["method"] == "hack")]:
                policy = f"{p['method']} {p['file']} {score}"
                yield values | {
                    "cache_policy": policy if p["file"] else f"{score} {budget}{within}"
                }
    if case.early_exit and case.method == "var":
        depths = by_scale(parsed("early_exit", case.early_exit)["depth"])
        subnet = {"subnet_depth": max(2, round(sum(depths.values()) / len(depths)))}
        subnet["bridge_scales"] = min(depths) - 1
        yield values | subnet | {"method": "variant", "early_exit": None}
    if case.branch and not parsed("branch", case.branch)["variant"]:
        yield values | {"branch": f"{case.branch} random"}
    yield whole(values) | {"seed": case.seed + 1}


def skipped_instead(tokens: list[int], left_out: float) -> str:
    """The scale, or the last scales, that have about as many tokens as are left out."""
    K = len(tokens)
    ends = {f"{k}-{K}": sum(tokens[k - 1 :]) for k in range(2, K)}
    found = {str(k): tokens[k - 1] for k in range(2, K + 1)} | ends
    return min(found, key=lambda scales: abs(found[scales] - left_out))


def applied(plan: Plan, case: VARCase) -> Plan:
    """The plan without what the case leaves out.  Raises ValueError for what cannot be."""
    from codevar import plan as plans

    if case.skip_scales:
        plan = plans.skip_scales(plan, read_spans(case.skip_scales))
    if case.guidance_off_from:
        plan = plans.unguided(plan, range(case.guidance_off_from, plan.scales.K + 1))
    if case.early_exit:
        depths = by_scale(parsed("early_exit", case.early_exit)["depth"])
        plan = plans.early_exit(plan, {k: int(depth) for k, depth in depths.items()})
    if case.prune:
        p = parsed("prune", case.prune)
        source = p["source"] and int(p["source"])
        layers = p["layers"] and read_spans(p["layers"])
        if p["file"]:
            plan = calibrated.applied(plan, p["method"], p["file"], p["variant"])
        else:
            restorer = "area" if p["restorer"] in (None, "from") else p["restorer"]
            how = (p["selector"], source, restorer)
            plan = plans.prune_tokens(plan, by_scale(p["drop"]), layers, *how)
    if case.cache_policy:
        p = parsed("cache_policy", case.cache_policy)
        layers = p["layers"] and read_spans(p["layers"])
        if p["file"]:
            plan = calibrated.applied(plan, p["method"], p["file"], p["variant"])
        elif p["budget"]:
            plan = plans.evict_cache(plan, int(p["budget"]), p["score"], layers)
        else:
            plan = plans.keep_cache(plan, int(p["first"]), int(p["last"]), layers)
    if case.cache_bits < 16:
        plan = plans.quantise_cache(plan, case.cache_bits)
    if case.branch:  # last, as each of its plans leaves out what the others do
        p = parsed("branch", case.branch)
        plan = calibrated.applied(plan, p["method"], p["file"], p["variant"])
    return plan


def by_scale(text: str) -> dict[int, float]:
    """Of "9:0.4,10:0.5": 0.4 at 9 and 0.5 at 10."""
    pairs = (part.split(":") for part in text.split(","))
    return {int(scale): float(number) for scale, number in pairs}
