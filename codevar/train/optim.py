"""Optimisers and their rates."""

import math

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from codevar.train.recipes import OptimizerConfig

#: Never decayed, as in VAR's own training; nor are biases, gains and the VQVAE's codes.
_NEVER_DECAYED = ("embedding.weight", "lvl_embed.weight", "pos_1LC", "pos_start", "ada_gss")

SECOND_WARMUP = 20  # steps at least, of a run that goes on from weights alone


def make_optimizers(
    model: nn.Module, config: OptimizerConfig, device: torch.device
) -> list[Optimizer]:
    """The optimisers of a model; each group holds its rate as `base_lr` (see `set_rate`)."""
    matrices, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if config.name == "muon" and name.startswith("blocks.") and parameter.ndim == 2:
            matrices.append(parameter)
        elif sum(n > 1 for n in parameter.shape) >= 2 and not name.endswith(_NEVER_DECAYED):
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    fused = device.type == "cuda"
    optimizers: list[Optimizer] = [
        AdamW([g for g in groups if g["params"]], config.lr, config.betas, fused=fused)
    ]
    if matrices:
        optimizers.append(Muon(matrices, config.muon_lr, config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def set_rate(
    optimizers: list[Optimizer], config: OptimizerConfig, step: int, steps: int, begun: int = 0
) -> float:
    """Sets the rates of a step (from 0) and gives the share of the full rate.

    begun: the step at which the optimisers were new, which then warm up a second time.
    """
    share = rate(config, step, steps)
    if begun:
        warmup = max(SECOND_WARMUP, round(config.warmup * steps))
        share *= min(1.0, (step - begun + 1) / (warmup + 1))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * share
    return share


def rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Share of the full rate: a linear warm-up, then constant, or falling in a line or by a
    cosine over the last `cooldown` of the steps."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (steps - step) / max(1, steps - warmup)
    done = max(0.0, 1 - left / config.cooldown)
    match config.decay:
        case "linear":
            return 1 - (1 - config.final) * done
        case "cosine":
            return config.final + (1 - config.final) * (1 + math.cos(math.pi * done)) / 2
    return 1.0
