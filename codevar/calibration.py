"""Settings of methods that are measured offline, on images that a model has made.

The model reads each image at once, as in training, and what its layers do is looked at.  Papers'
settings are of other models at 1024 pixels; these are measured anew for the model at hand.

Shapes: B images, H heads, L tokens of all scales, l of one, c per head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from codevar.anchored import anchors, importance, middle
from codevar.eviction import OBSERVERS
from codevar.methods import refiner_budget
from codevar.pruning import enlarged
from codevar.scales import Scales
from codevar.var import VAR
from codevar.vqvae import VQVAE

#: (labels (B,), tokens (B, L)): images that the model has made, batch after batch.
Images = Iterable[tuple[torch.Tensor, torch.Tensor]]
#: (layer, attention (B, H, L, L), keys (B, H, L, c)).
Seen = Callable[[int, torch.Tensor, torch.Tensor], None]


def watch_attention(model: VAR, vqvae: VQVAE, images: Images, seen: Seen) -> None:
    """Tells what each layer attends to in each image, of the half with a class.

    The model as loaded, not prepared for a stack.
    """

    def attend(q_BHLc, k_BHLc, v_BHLc, attn_mask, scale, layer):
        scores_BHLL = (q_BHLc @ k_BHLc.mT * scale).masked_fill_(~attn_mask, -torch.inf)
        attention_BHLL = scores_BHLL.softmax(dim=-1)
        seen(layer, attention_BHLL, k_BHLc)
        return attention_BHLL @ v_BHLc

    for labels_B, tokens_BL in images:
        with torch.no_grad(), ExitStack() as watched:
            for layer, block in enumerate(model.blocks):
                watching = mock.patch.object(block.attn, "attend", partial(attend, layer=layer))
                watched.enter_context(watching)
            model(labels_B, vqvae.teacher_forcing_input(tokens_BL))


def scalekv(model: VAR, vqvae: VQVAE, images: Images, budget: float) -> dict[str, Any]:
    """ScaleKV (Section 3.2): layers whose queries attend little to the map in hand and to single
    keys of its history are drafters; the others, refiners, give them of their budgets.

    budget: the uniform one, as a share of all tokens.
    """
    scales, depth = model.scales, model.config.depth
    index_kl = torch.zeros(scales.K, depth)

    def seen(layer: int, attention_BHLL: torch.Tensor, keys: torch.Tensor) -> None:
        for k, span in list(enumerate(scales.slices))[1:]:
            of_map = attention_BHLL[:, :, span]
            history_BHlm = of_map[..., : span.start]
            strongest = history_BHlm.topk(min(OBSERVERS["observed"], span.start)).values.sum(-1)
            index_kl[k, layer] += (of_map[..., span].sum(-1) * strongest).mean()

    watch_attention(model, vqvae, images, seen)
    uniform = round(budget * scales.L)
    drafters, budgets = {}, {}
    cut = [k for k in range(1, scales.K) if held(scales, k) > uniform]
    for i, k in enumerate(cut):
        refiner = max(
            OBSERVERS["observed"] + 1, round(uniform * (0.95 - 0.2 * i / max(1, len(cut) - 1)))
        )
        for count in range(1, depth):
            most = (depth * uniform - (depth - count) * refiner) // count
            if most <= held(scales, k):
                break
        z_l = (index_kl[k - 1] - index_kl[k - 1].mean()) / index_kl[k - 1].std()
        drafters[k], budgets[k] = sorted(z_l.argsort()[:count].tolist()), most
        assert refiner_budget(depth, uniform, count, most) >= refiner
    return {"uniform": uniform, "drafters": drafters, "drafter_budgets": budgets}


def ams_kv(model: VAR, vqvae: VQVAE, images: Images, budget: float) -> dict[str, Any]:
    """AMS-KV (Section 4): layers whose keys of one scale, enlarged, are least like those of the
    next demand a longer window.

    budget: the share of layers that do; the paper's threshold, as a fixed count.
    """
    scales, depth = model.scales, model.config.depth
    alike_l = torch.zeros(depth)

    def seen(layer: int, attention: torch.Tensor, k_BHLc: torch.Tensor) -> None:
        k_BLC = k_BHLc.transpose(1, 2).flatten(2)
        for before, now in list(zip(scales.slices, scales.slices[1:], strict=False))[2:]:
            grown_BlC = enlarged(k_BLC[:, before], now.stop - now.start)
            alike_l[layer] += F.cosine_similarity(grown_BlC, k_BLC[:, now], dim=-1).mean()

    watch_attention(model, vqvae, images, seen)
    return {"demanding": sorted(alike_l.argsort()[: round(budget * depth)].tolist()), "last": 1}


def hack(model: VAR, vqvae: VQVAE, images: Images, budget: float) -> dict[str, Any]:
    """HACK (Section 4.1): of all heads the half whose attention to a key changes least from query
    to query of a scale are contextual; they keep a quarter of the mean.  Both shares are ours.

    budget: what heads keep in the mean, as a share of all tokens.
    """
    scales = model.scales
    variance_lH = torch.zeros(model.config.depth, model.config.heads)

    def seen(layer: int, attention_BHLL: torch.Tensor, keys: torch.Tensor) -> None:
        for span in scales.slices[1:]:
            of_map_BHlm = attention_BHLL[:, :, span, : span.stop]
            variance_lH[layer] += of_map_BHlm.var(dim=2, correction=0).sum(-1).mean(0).cpu()

    watch_attention(model, vqvae, images, seen)
    order = variance_lH.flatten().argsort(stable=True)
    is_contextual_lH = torch.zeros(len(order), dtype=torch.bool)
    is_contextual_lH[order[: len(order) // 2]] = True
    rows = is_contextual_lH.unflatten(0, variance_lH.shape)
    mean, share = round(budget * scales.L), len(order) // 2 / len(order)
    contextual = max(1, mean // 4)
    return {
        "contextual": {i: row.nonzero()[:, 0].tolist() for i, row in enumerate(rows) if row.any()},
        "contextual_budget": contextual,
        "structural_budget": int((mean - share * contextual) / (1 - share)),
    }


def sparsevar(model: VAR, vqvae: VQVAE, images: Images, budget: float) -> dict[str, Any]:
    """SparseVAR (its code): of the last maps, as Infinity's last three of 13, as many tokens as, on
    average, changed more than a share of what the most changed one did, or are anchors.

    budget: that share.
    """
    scales, layers = model.scales, middle(model.config.depth)
    first = scales.K - max(1, round(3 * scales.K / 13))
    before, counts, seen = scales.slices[first - 1], torch.zeros(scales.K), 0
    for labels_B, tokens_BL in images:
        maps: list[torch.Tensor] = []

        def enters(
            _: nn.Module, x: tuple[torch.Tensor, ...], maps: list[torch.Tensor] = maps
        ) -> None:
            maps.append(x[0][:, before])

        hooks = [
            model.blocks[layer].register_forward_pre_hook(enters)
            for layer in (layers[0], layers[-1] + 1)
        ]
        with torch.no_grad():
            model(labels_B, vqvae.teacher_forcing_input(tokens_BL))
        for hook in hooks:
            hook.remove()
        change_BmC = maps[1] - maps[0]
        for k in range(first, scales.K):
            side = scales.patch_sizes[k]
            score_Bl = importance(change_BmC, len(labels_B), side)
            above_Bl = score_Bl > budget * score_Bl.amax(dim=1, keepdim=True)
            counts[k] += (above_Bl | anchors(side, above_Bl.device)).sum().item()
        seen += len(labels_B)
    kept = {k + 1: round(counts[k].item() / seen) for k in range(first, scales.K)}
    return {"kept": kept, "source": first}


def held(scales: Scales, k: int) -> int:
    """Tokens of scales 1..k."""
    return scales.slices[k - 1].stop


CALIBRATE: dict[str, Callable[..., dict[str, Any]]] = {
    "scalekv": scalekv,
    "ams_kv": ams_kv,
    "hack": hack,
    "sparsevar": sparsevar,
}
