"""Losses of tokens, by scale, and of the VQVAE.

Shapes: B images, L tokens of some scales, V codes, K scales, Z channels, h w cells.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from codevar.scales import Scales
from codevar.transfer import send
from codevar.vqvae import Quantizer


def cross_entropy(logits_BLV: torch.Tensor, tokens_BL: torch.Tensor) -> torch.Tensor:
    """(B, L) nats of each token (CoDe Eq. 5; VARiant Eq. 4)."""
    nats = F.cross_entropy(logits_BLV.flatten(0, 1), tokens_BL.flatten(), reduction="none")
    return nats.view(tokens_BL.shape)


def kl(p_logits_BLV: torch.Tensor, q_logits_BLV: torch.Tensor) -> torch.Tensor:
    """(B, L) KL(p || q) of each token, in nats."""
    p_BLV, q_BLV = p_logits_BLV.log_softmax(-1), q_logits_BLV.log_softmax(-1)
    return F.kl_div(q_BLV, p_BLV, reduction="none", log_target=True).sum(-1)


def by_scale(of_token_BL: torch.Tensor, scales: Scales, first: int, last: int) -> torch.Tensor:
    """(last - first + 1,) means over the tokens of the scales first..last (0-based), which are
    the positions of `of_token_BL`."""
    sizes = list(scales.tokens[first : last + 1])
    return torch.stack([part.mean() for part in of_token_BL.split(sizes, dim=1)])


def weighted(
    means_k: torch.Tensor, weights: Sequence[float], tokens: Sequence[int]
) -> torch.Tensor:
    """Sum over scales of weight x tokens x mean, divided by the tokens of all these scales: with
    weights of 1 the mean over tokens, as VAR weighs them.  The divisor does not depend on the
    weights, so that a weight that fades takes its scales out and does not turn the others up."""
    shares = torch.tensor([w * n / sum(tokens) for w, n in zip(weights, tokens, strict=True)])
    return (means_k * send(shares, means_k.device)).sum()


def quantised(
    quantizer: Quantizer, f_BZhw: torch.Tensor, scales: Scales, beta: float = 0.25
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The training form of the quantiser: (f_hat, its loss by scale (K,), tokens (B, L)).

    The loss of scale k is mse(f_hat, f stopped) + beta * mse(f_hat stopped, f), with f_hat the
    sum up to k; f_hat is returned straight-through: its gradient goes to f alone.
    """
    fixed = f_BZhw.detach()
    f_hat = torch.zeros_like(fixed)
    losses, tokens = [], []
    for k in range(scales.K):
        with torch.no_grad():
            tokens_Bl = quantizer.nearest(quantizer.input_map(fixed - f_hat, k, scales))
        f_hat = f_hat + quantizer.feature_map(quantizer.codes(tokens_Bl), k, scales)
        losses.append(F.mse_loss(f_hat, fixed) + beta * F.mse_loss(f_hat.detach(), f_BZhw))
        tokens.append(tokens_Bl)
    straight = f_BZhw + (f_hat.detach() - fixed)
    return straight, torch.stack(losses), torch.cat(tokens, dim=1)


def reconstruction(made: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """L1 + L2 + half the L1 of the differences between neighbours, which keeps textures sharp
    without a perceptual network.  Images in [-1, 1]."""
    off = made - images
    across, down = off.diff(dim=3).abs().mean(), off.diff(dim=2).abs().mean()
    return off.abs().mean() + off.square().mean() + 0.5 * (across + down)
