"""A stand-in for the published repositories of VAR and CoDe: what an adapter touches of them, by
the same names and calls, over this project's networks, with a loop of its own and no cache.

Shapes: B images, l tokens of a scale, V codes, Z channels, h w cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

import codevar
from codevar.vqvae import Quantizer


class VectorQuantizer2(Quantizer):
    def get_next_autoregressive_input(self, si, SN, f_hat, h_BChw):
        scales = codevar.Scales(codevar.PATCH_SIZES_256)
        f_hat = f_hat + self.feature_map(h_BChw.flatten(2).mT, si, scales)
        return f_hat, self.input_map(f_hat, si + 1, scales) if si + 1 < SN else f_hat


class VQVAE(codevar.VQVAE):
    """With a small network: an image is the first channels, enlarged."""

    def __init__(self) -> None:
        super().__init__(codevar.VQVAEConfig(width=32, multipliers=(1, 1), res_blocks=1))
        self.quantize.__class__ = VectorQuantizer2

    def fhat_to_img(self, f_hat):
        return F.interpolate(f_hat[:, :3].float(), size=(256, 256)).tanh()


class VAR(codevar.VAR):
    def __init__(self, vae, depth) -> None:
        super().__init__(codevar.VARConfig.published(depth))
        self.vae_proxy = (vae,)
        for block in self.blocks:
            block.attn.cached_k = block.attn.cached_v = None

    @torch.no_grad()
    def decoded(self, label_B, seed, cfg, top_k, top_p, temp, which, f_hat, maps):
        """f_hat and the maps that were read, after these scales."""
        rng = torch.Generator(label_B.device).manual_seed(seed)
        scales, vae = self.scales, self.vae_proxy[0]
        labels_2B = torch.cat((label_B, torch.full_like(label_B, self.config.classes)))
        for si in which:
            inputs = torch.zeros(len(label_B), scales.L - 1, self.config.channels)
            read = torch.cat(maps, dim=1) if maps else inputs[:, :0]
            inputs[:, : read.shape[1]] = read
            for block in self.blocks:  # of a size that a test can tell
                block.attn.cached_k = block.attn.cached_v = read
            logits_2BlV = self(labels_2B, inputs.repeat(2, 1, 1))[:, scales.slices[si]].float()
            cond, uncond = logits_2BlV.chunk(2)
            t = cfg * si / (scales.K - 1)
            logits_BlV = (1 + t) * cond - t * uncond
            if top_k[si]:
                least = logits_BlV.topk(top_k[si]).values[..., -1:]
                logits_BlV[logits_BlV < least] = -torch.inf
            odds = (logits_BlV / temp[si]).softmax(dim=-1).flatten(0, 1)
            idx_Bl = torch.multinomial(odds, 1, generator=rng).view(len(label_B), -1)
            pn = scales.patch_sizes[si]
            h_BChw = vae.quantize.embedding(idx_Bl).mT.unflatten(2, (pn, pn))
            f_hat, new = vae.quantize.get_next_autoregressive_input(si, scales.K, f_hat, h_BChw)
            maps.append(new)
        for block in self.blocks:
            block.attn.cached_k = block.attn.cached_v = None
        return f_hat, maps

    def blank(self, label_B):
        side = self.scales.patch_sizes[-1]
        return torch.zeros(len(label_B), self.config.channels, side, side)

    def autoregressive_infer_cfg(self, B, label_B, g_seed=None, cfg=1.5, top_k=0, top_p=0.0):
        assert len(label_B) == B
        how = (g_seed, cfg, [top_k] * 10, top_p, [1.0] * 10, range(10))
        f_hat, _ = self.decoded(label_B, *how, self.blank(label_B), [])
        return self.vae_proxy[0].fhat_to_img(f_hat).add_(1).mul_(0.5)

    def autoregressive_infer_cfg_draft(
        self, B, label_B, g_seed=None, cfg=1.5, top_k=0, top_p=0.0, exit_num=7, temp=None
    ):
        how = (g_seed, cfg, top_k, top_p, temp, range(exit_num))
        return self.decoded(label_B, *how, self.blank(label_B), [])

    def autoregressive_infer_cfg_refine(
        self, B, label_B, g_seed=None, cfg=1.5, top_k=0, top_p=0.0, draft=None, f_hat=None,
        entry_num=7, temp=None,
    ):  # fmt: skip
        how = (g_seed, cfg, top_k, top_p, temp, range(entry_num, 10))
        f_hat, _ = self.decoded(label_B, *how, f_hat, draft)
        return self.vae_proxy[0].fhat_to_img(f_hat).add_(1).mul_(0.5)


def build_vae_var(device, depth=16):
    vae = VQVAE().to(device)
    return vae, VAR(vae, depth).to(device)


def build_vae_var_ctf(device, depth_draft=16, depth_refine=30):
    vae = VQVAE().to(device)
    return vae, VAR(vae, depth_draft).to(device), VAR(vae, depth_refine).to(device)
