"""From logits to tokens: guidance, top-k, top-p, temperature, the draw, and smoothing.

The settings of all scales are `codevar.sampling_settings.Sampling`.

Shapes: B images, l tokens of one scale, V codes, Z channels of a code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from codevar.noise import Noise, alike, exponentials


@dataclass(frozen=True)
class ScaleSampling:
    """The settings of one scale: `Sampling.at`."""

    guidance: float
    top_k: int
    top_p: float
    temperature: float
    ratio: float

    def filtered(self, logits_2BlV: torch.Tensor) -> torch.Tensor:
        """(B, l, V) logits that are left to draw from: guided, then top-k, then top-p.

        logits_2BlV: first half of the batch conditional, second half unconditional, float32; they
        are written over.
        """
        cond, uncond = logits_2BlV.chunk(2)
        return self.kept(cond.mul_(1 + self.guidance).sub_(uncond.mul_(self.guidance)))

    def combined(self, cond: torch.Tensor, uncond: torch.Tensor | None = None) -> torch.Tensor:
        """Guided logits, in memory of their own."""
        if uncond is None:
            return cond
        return (1 + self.guidance) * cond - self.guidance * uncond

    def guided(self, h_2BlC: torch.Tensor) -> torch.Tensor:
        """(B, l, C) what a linear head makes guided logits of: (1 + t) cond - t uncond can be
        taken before it as well as behind, for half the product and half the logits.

        h_2BlC: as above, float32.
        """
        cond, uncond = h_2BlC.chunk(2)
        return torch.lerp(uncond, cond, 1 + self.guidance)

    def kept(self, logits_BlV: torch.Tensor) -> torch.Tensor:
        """(B, l, V) guided logits, in place: -inf where top-k and then top-p leave nothing."""
        vocab = logits_BlV.shape[-1]
        k = min(self.top_k or vocab, vocab)
        if k < vocab or self.top_p > 0:
            worst_Bl1 = self._worst_kept(highest(logits_BlV, k))
            logits_BlV.masked_fill_(logits_BlV < worst_Bl1, -torch.inf)
        return logits_BlV

    def _worst_kept(self, rising_Blk: torch.Tensor) -> torch.Tensor:
        """(B, l, 1) the lowest logit to draw from, of those that top-k leaves."""
        if self.top_p == 0:
            return rising_Blk[..., :1]
        summed_Blk = rising_Blk.softmax(dim=-1).cumsum_(dim=-1)
        dropped_Bl1 = torch.full_like(summed_Blk[..., :1], 1 - self.top_p)
        first_Bl1 = torch.searchsorted(summed_Blk, dropped_Bl1, right=True)
        return rising_Blk.gather(-1, first_Bl1.clamp_max_(rising_Blk.shape[-1] - 1))


def highest(logits_BlV: torch.Tensor, k: int) -> torch.Tensor:
    """(B, l, k) the k highest of each row, rising."""
    if logits_BlV.device.type != "cpu":
        return logits_BlV.topk(k).values.flip(-1)
    rising_BlV = logits_BlV.clone()
    if type(rising_BlV) is torch.Tensor:  # and not one without data, whose memory is all there is
        rising_BlV.numpy().sort(axis=-1)  # without indices, and vectorised, unlike torch's
    return rising_BlV[..., -k:]


def draw(logits_BlV: torch.Tensor, temperature: float, noise: Noise) -> torch.Tensor:
    """(B, l) tokens drawn from softmax(logits / temperature).

    The race of exponentials inside `torch.multinomial`, written out: the same tokens from the
    same generator, but without its check of the weights, for which a GPU must stop and report.
    """
    p_BlV = logits_BlV.div(temperature).softmax(dim=-1)
    race_BlV = exponentials(p_BlV, noise)
    return torch.div(p_BlV, race_BlV, out=race_BlV).argmax(dim=-1)


def draw_as_published(
    logits_RnV: torch.Tensor,
    maps: Sequence[int],
    settings: Sequence[ScaleSampling],
    noise: Noise,
    guided: bool = True,
) -> torch.Tensor:
    """(B, l) tokens of the last map: guidance, `kept` and `draw` as the published code does them.

    At the hand-over CoDe's refiner has read several maps.  The published code draws for all of
    them, unguided but for the last, and has all their logits in hand meanwhile.  What is drawn for
    nothing has its own noise, so that a seed gives the same images on every stack.

    maps, settings: tokens and sampling of each map.  guided: whether a second half of the rows is
    unconditional.
    """
    *others, at = settings
    cond_BnV, *uncond_BnV = logits_RnV.chunk(1 + guided)
    if not others:
        guided_BlV = at.combined(cond_BnV, *uncond_BnV)
        del logits_RnV, cond_BnV, uncond_BnV
        return filter_and_draw_as_published(guided_BlV, at, noise)
    *others_BlV, last_BlV = cond_BnV.split(list(maps), dim=1)
    last_BlV.copy_(at.combined(last_BlV, *(u[:, -maps[-1] :] for u in uncond_BnV)))
    surplus = alike(noise)
    for other_BlV, other in zip(others_BlV, others, strict=True):
        filter_and_draw_as_published(other_BlV, other, surplus)
    return filter_and_draw_as_published(last_BlV, at, noise)


def filter_and_draw_as_published(
    logits_BlV: torch.Tensor, at: ScaleSampling, noise: Noise
) -> torch.Tensor:
    """(B, l) tokens, by sorts that carry indices.  It lets go of nothing before it has drawn, and
    memory peaks here: seven and a half maps of logits and what the loop holds (CoDe, Table 3,
    "running").

    The tokens are those of `kept` and `draw`, but that `kept` keeps all codes that are exactly as
    good as the worst that is kept.
    """
    if at.top_k > 0:
        best_Blk = logits_BlV.topk(min(at.top_k, logits_BlV.shape[-1]), sorted=False).values
        worse_BlV = logits_BlV < best_Blk.amin(dim=-1, keepdim=True)
        del best_Blk
        logits_BlV.masked_fill_(worse_BlV, -torch.inf)
    if at.top_p > 0:
        rising_BlV, order_BlV = logits_BlV.sort(dim=-1, descending=False)
        drop_BlV = rising_BlV.softmax(dim=-1).cumsum_(dim=-1) <= 1 - at.top_p
        drop_BlV[..., -1] = False
        logits_BlV.masked_fill_(drop_BlV.scatter(-1, order_BlV, drop_BlV), -torch.inf)
    scaled_BlV = logits_BlV.div(at.temperature)
    p_BlV = scaled_BlV.softmax(dim=-1)
    race_BlV = exponentials(p_BlV, noise, as_published=True)
    return torch.div(p_BlV, race_BlV, out=race_BlV).argmax(dim=-1)


def smooth_codes(
    logits_BlV: torch.Tensor, ratio: float, codebook_VZ: torch.Tensor, noise: Noise
) -> torch.Tensor:
    """(B, l, Z) Gumbel-softmax mixtures of codes, ever sharper along the pyramid."""
    temperature = max(0.27 * (1 - 0.95 * ratio), 0.005)
    gumbel = -exponentials(logits_BlV, noise).log_()
    weights = ((logits_BlV * (1 + ratio) + gumbel) / temperature).softmax(dim=-1)
    return weights @ codebook_VZ
