"""Do two methods make the same decisions?  Both decode greedily with the same weights; one is led
along the other's tokens, so that a tie changes nothing after it.  Somebody else's code cannot be
led, so it leads.

Shapes: B images, L tokens of all scales, l of one, V codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from bench.methods.loaded import Loaded, LoadedAdapter
from bench.study import plugins
from bench.study.errors import UsageError
from bench.study.printing import Printed
from codevar import Scales
from codevar.decoding import generate

#: Two best logits closer than this are a tie: either may win, by the order of sums.
TIE = 1e-2


@dataclass(frozen=True)
class Led:
    """A greedy decode led along tokens; along its own if there were none.

    best_BL: the best token of each place.  margins_BL: its logit less that of the next; 0 where
    that is not known.
    """

    best_BL: torch.Tensor
    margins_BL: torch.Tensor


@dataclass(frozen=True)
class Conformance:
    """Where two methods decide differently.

    apart: (scale from 1, token in it from 0, image, ours, theirs, margin of ours, of theirs) of
    each, in the order of scales.  tied: how many differ within a tie.
    """

    images: int
    scales: Scales
    apart: list[tuple[int, int, int, int, int, float, float]]
    tied: int


def decode_greedily(loaded: Loaded, labels: Sequence[int], along: Led | None = None) -> Led:
    """The best token of every place and by how much."""
    slices = loaded.plan.scales.slices
    best: list[torch.Tensor] = []
    margins: list[torch.Tensor] = []

    def choose(logits_BlV: torch.Tensor, k: int) -> torch.Tensor:
        two_Bl2, tokens_Bl2 = logits_BlV.topk(2)
        best.append(tokens_Bl2[..., 0])
        margins.append(two_Bl2[..., 0] - two_Bl2[..., 1])
        return best[-1] if along is None else along.best_BL[:, slices[k]]

    sampling = replace(loaded.case.sampling_settings(), top_k=0, top_p=0.0)
    plan, how = loaded.plan, loaded.how
    made = generate(plan, loaded.vqvae, labels, sampling, 0, how, choose=choose)
    skipped = made.tokens < 0  # a skipped scale decides nothing
    found = torch.cat(best, dim=1), torch.cat(margins, dim=1)
    best_BL, margins_BL = made.tokens.clone(), torch.full_like(made.tokens, 0, dtype=torch.float32)
    best_BL[~skipped], margins_BL[~skipped] = found[0].flatten(), found[1].float().flatten()
    return Led(best_BL, margins_BL)


def tokens_of(loaded: LoadedAdapter, labels: Sequence[int]) -> Led:
    """What somebody else's code decodes greedily; by which margins is not known.  Raises
    UsageError for code that gives images only."""
    sampler = loaded.sampler
    if sampler.tokens is None:
        raise UsageError(f"{loaded.case.label} gives images only, and no tokens to compare")
    with plugins.one_line(loaded.case):
        tokens_BL = sampler.tokens(labels)
    return Led(tokens_BL, torch.zeros_like(tokens_BL, dtype=torch.float32))


def conformance(
    ours: Loaded, theirs: Loaded | LoadedAdapter, labels: Sequence[int], tie: float
) -> Conformance:
    """Ours led along theirs.  Raises UsageError for models that share no tokens."""
    other_maps = UsageError(f"{ours.case.label} and {theirs.case.label} have other token maps")
    scales = ours.plan.scales
    if isinstance(theirs, LoadedAdapter):
        leader = tokens_of(theirs, labels)
        if tuple(leader.best_BL.shape) != (len(labels), scales.L):
            raise other_maps
    else:
        skips = [[step.skip for step in loaded.plan.steps] for loaded in (ours, theirs)]
        if scales != theirs.plan.scales or skips[0] != skips[1]:
            raise other_maps
        leader = decode_greedily(theirs, labels)
    led = decode_greedily(ours, labels, leader)
    differ = (led.best_BL != leader.best_BL).cpu()
    decided = torch.maximum(led.margins_BL, leader.margins_BL).cpu() >= tie
    level_L = scales.level_of_token()
    apart = []
    for image, place in (differ & decided).nonzero().tolist():
        k = int(level_L[place])
        apart.append(
            (
                k + 1,
                place - scales.slices[k].start,
                image,
                int(led.best_BL[image, place]),
                int(leader.best_BL[image, place]),
                float(led.margins_BL[image, place]),
                float(leader.margins_BL[image, place]),
            )
        )
    return Conformance(len(labels), scales, sorted(apart), int((differ & ~decided).sum()))


def verdict(found: Conformance, ours: str, theirs: str) -> str:
    """In one line, whether they conform or where they part first."""
    if not found.apart:
        return f"{ours} decides as {theirs} does"
    k, token, image, own, other, margin, its = found.apart[0]
    leads = f", which leads by {its:.3g}" if its else ""
    return (
        f"{ours} and {theirs} part at scale {k}, token {token}, image {image}: {own}, which leads "
        f"by {margin:.3g}, against {other}{leads}"
    )


def printed(found: Conformance, notes: Sequence[str]) -> Printed:
    """A row a scale."""
    rows: list[dict[str, Any]] = [
        {
            "scale": k + 1,
            "tokens": found.images * found.scales.tokens[k],
            "other": sum(scale == k + 1 for scale, *_ in found.apart),
        }
        for k in range(found.scales.K)
    ]
    data = pd.DataFrame(rows)
    notes = [*notes, f"Other: decided otherwise.  Ties left out: {found.tied}."]
    return Printed("Decisions by scale", data, data.astype(str), notes)
