"""What a searched plan may leave out, and the plans that were published.

A saving is one thing left out at one scale, or from a scale on.  A set of savings is a plan; of
two of a kind at a scale the stronger holds.  Plans are written as `codevar.plan_data` reads them:
model 1 is the large one, model 2 the small one, layers are shares, so that they fit any depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from codevar.spans import write_spans

Steps = list[dict[str, Any]]  # `by_scale` of a case of method "plan"

LAYERS = (0.5, 0.25)  # shares that a scale may run
TOKENS = (0.6, 0.3)  # shares that a scale may keep: FastVAR's 0.4 dropped, and more
BITS = (8, 4)
WINDOW = {"first": 2, "last": 1}
LEAST_TOKENS = 0.05  # a scale with a smaller share of the pyramid has no tokens to save
VERSION = 1  # of this space; a search goes on only in its own


@dataclass(frozen=True)
class Saving:
    """kind: the key of a step that it changes.  keeps: what is left of it at these scales."""

    kind: str
    scales: tuple[int, ...]
    keeps: float = 0

    @property
    def name(self) -> str:
        """As records call it."""
        return f"{self.kind} {self.keeps:g} at {write_spans(self.scales)}"


def savings(patch_sizes: Sequence[int], small: bool) -> list[Saving]:
    """All of a pyramid.  small: whether there is a second model."""
    K, tokens = len(patch_sizes), [side**2 for side in patch_sizes]
    every = range(1, K + 1)
    large = [k for k in every if tokens[k - 1] >= LEAST_TOKENS * sum(tokens)]
    found = [Saving("layers", (k,), share) for k in every for share in LAYERS]
    found += [Saving("guided", (k,)) for k in every]
    found += [Saving("tokens", (k,), share) for k in large for share in TOKENS]
    found += [Saving("cache", (k,)) for k in large if k < K]
    found += [Saving("bits", tuple(every), bits) for bits in BITS]
    found += [Saving("skip", (k,)) for k in every if k > K / 2]
    if small:  # drafts by one and refines by the other, either way round
        found += [Saving("model", tuple(range(k, K + 1))) for k in every]
        found += [Saving("model", tuple(range(1, k))) for k in every if k > 1]
    return found


def plan_of(chosen: Iterable[Saving], scales: int) -> Steps:
    """The plan that leaves these out."""
    kept: list[dict[str, float]] = [{} for _ in range(scales)]
    for saving in chosen:
        for k in saving.scales:
            here = kept[k - 1]
            here[saving.kind] = min(saving.keeps, here.get(saving.kind, saving.keeps))
    steps: Steps = []
    for here in kept:
        step: dict[str, Any] = {"model": 2} if "model" in here else {}
        if "skip" in here:  # by the model before, so that no other is loaded for nothing
            step = {"skip": True, **{key: steps[-1][key] for key in ("model",) if key in steps[-1]}}
        else:
            step |= {"layers": here["layers"]} if "layers" in here else {}
            step |= {"guided": False} if "guided" in here else {}
            if "tokens" in here:
                step["tokens"] = {"drop": round(1 - here["tokens"], 4), **source(step, steps)}
        cache: dict[str, Any] = {"rules": [WINDOW]} if "cache" in here else {}
        cache |= {"bits": int(here["bits"])} if "bits" in here else {}
        steps.append(step | ({"cache": cache} if cache else {}))
    return merged(steps)


def source(step: dict[str, Any], before: Steps) -> dict[str, int]:
    """The nearest scale that the same layers have computed whole: left-out tokens are restored from
    it, or get nothing where there is none."""

    def whole(one: dict[str, Any]) -> bool:
        same = one.get("model", 1) == step.get("model", 1)
        layers = one.get("layers", 1) in (1, step.get("layers", 1))
        halves = one.get("guided", True) or not step.get("guided", True)
        return same and layers and halves and not ({"skip", "tokens"} & set(one))

    found = [k for k, one in enumerate(before, 1) if whole(one)]
    return {"restore_from": found[-1]} if found else {}


def merged(steps: Steps) -> Steps:
    """Scales that are alike as one step."""
    runs = [list(run) for _, run in groupby(range(len(steps)), key=lambda k: steps[k])]
    return [{"scales": write_spans(k + 1 for k in run), **steps[run[0]]} for run in runs]


def published(scales: int, small: bool) -> dict[str, Steps]:
    """The papers' plans by name, in the same terms, without training: CoDe and the reverse, one
    scale swapped (its Table 4), VARiant's subnets, less guidance, FastVAR, caches.

    What a file of calibrated settings says is of one model, so such methods are not among them.
    """

    def rest(n: int, **says: Any) -> Steps:
        return [{"scales": f"1-{n}"}, {"scales": f"{n + 1}-{scales}", **says}]

    K, every = scales, f"1-{scales}"
    found = {"VAR, the small model": [{"scales": every, "model": 2}]} if small else {}
    for n in range(1, K) if small else ():
        found[f"CoDe N={n}"] = rest(n, model=2)
        found[f"CoDe reversed N={n}"] = [
            {"scales": f"1-{n}", "model": 2},
            {"scales": f"{n + 1}-{K}"},
        ]
    for k in range(1, K) if small else ():
        swapped: Steps = [{"model": 2} if i == k else {} for i in range(1, K + 1)]
        found[f"scale {k} by the small model"] = merged(swapped)
    for d in (16, 8, 4, 2):
        for n in range(K - 4, K):
            found[f"VARiant {d}/30 N={n}"] = rest(n, layers=round(d / 30, 4))
    for n in range(K - 3, K):
        found[f"guidance off from {n + 1}"] = rest(n, guided=False)
    for n in (K - 1, K - 2):
        found[f"skip from {n + 1}"] = rest(n, skip=True)
    found["FastVAR"] = merged(
        [{}] * (K - 2) + [{"tokens": {"drop": drop, "restore_from": K - 2}} for drop in (0.4, 0.5)]
    )
    found["window 2+1"] = [{"scales": every, "cache": {"rules": [WINDOW]}}]
    for bits in BITS:
        found[f"cache of {bits} bits"] = [{"scales": every, "cache": {"bits": bits}}]
    return found
