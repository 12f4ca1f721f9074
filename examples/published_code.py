"""The published code of VAR and CoDe as it is, beside ours.

python bench.py run examples/published_var.toml --plugin examples/published_code.py --set repo=PATH

PATH is your checkout of github.com/FoundationVision/VAR or github.com/czg1225/CoDe; it is imported
from there.  weights: "seeded", the same as ours, or a folder with the published .pth files.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator

from bench.methods.adapter import Adapter, Sampler
from bench.study.cases import register
from codevar.checkpoints import seeded_tensor
from codevar.sampling_settings import PRESETS, Sampling

K = 10  # scales


class Published(Adapter):
    """What both repositories have in common."""

    repo: str = Field(min_length=1)
    depth: int = Field(30, ge=1, le=60)
    preset: ClassVar[Sampling]
    color: ClassVar = "#882255"

    @field_validator("repo")
    @classmethod
    def _is_a_checkout(cls, repo):
        if not Path(repo, "models", "__init__.py").is_file():
            raise ValueError(f"repo: {repo} has no models/__init__.py, as VAR and CoDe have")
        return str(Path(repo).resolve())

    @property
    def has_scales(self):
        """Both call the quantiser after each."""
        return True

    @property
    def steps(self):
        """Scales."""
        return str(K)

    def built(self, device, build, **depths):
        """The checkout's VQVAE and transformers, with their weights."""
        sys.path.insert(0, self.repo)
        with redirect_stdout(sys.stderr):
            models = importlib.import_module("models")
            if Path(models.__file__).parent.parent != Path(self.repo):
                raise ImportError(f"models of {models.__file__} are there already: one repo a run")
            vqvae, *transformers = getattr(models, build)(device=device, **depths)
        names = ["vae_ch160v4096z32", *(f"var_d{depth}" for depth in depths.values())]
        for model, name in zip((vqvae, *transformers), names, strict=True):
            if self.weights == "seeded":
                for key, weight in model.named_parameters():
                    numbers = seeded_tensor(key, tuple(weight.shape), self.seed)
                    weight.data.copy_(torch.from_numpy(numbers))
            else:
                file = Path(self.weights, f"{name}.pth")
                model.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
            model.eval().requires_grad_(False)
        return vqvae, transformers

    def followed(self, vqvae, transformers, decode):
        """A sampler that marks each scale and leaves the image decoder to `images`.

        decode: of labels, seed, and settings by scale.
        """
        quantizer, device = vqvae.quantize, next(vqvae.parameters()).device

        def run(labels, seed, mark, settings):
            add, last = quantizer.get_next_autoregressive_input, []

            def add_and_mark(k, *args):
                added = add(k, *args)
                mark(k + 1)
                return added

            def keep(f_hat):
                last.append(f_hat)
                return f_hat.new_zeros(1)

            quantizer.get_next_autoregressive_input, vqvae.fhat_to_img = add_and_mark, keep
            try:
                decode(torch.tensor(labels, device=device), seed, settings)
            finally:
                del quantizer.get_next_autoregressive_input, vqvae.fhat_to_img
            return last[0]

        def tokens(labels):
            found = []
            hook = quantizer.embedding.register_forward_hook(
                lambda module, given, out: found.append(given[0])
            )
            run(labels, 0, lambda k: None, Sampling(self.preset.cfg, top_k=1, top_p=0))
            hook.remove()
            return torch.cat(found, dim=1)

        def cache_bytes():
            layers = [block.attn for model in transformers for block in model.blocks]
            held = [part for layer in layers for part in (layer.cached_k, layer.cached_v)]
            return sum(part.nbytes for part in held if part is not None)

        return Sampler(
            sample=lambda labels, seed, mark: run(labels, seed, mark, self.preset),
            networks=[vqvae, *transformers],
            images=lambda f_hat: vqvae.fhat_to_img(f_hat).add(1).mul(0.5),
            cache_bytes=cache_bytes,
            tokens=tokens,
        )


@register
class OriginalVAR(Published):
    """The published VAR, from your own checkout."""

    method: Literal["original_var"] = "original_var"
    label_format: ClassVar = "Original VAR-d{depth}"
    preset: ClassVar = PRESETS["var"]
    marker: ClassVar = "o"

    def sampler(self, device):
        """One transformer for all scales."""
        vqvae, (var,) = self.built(device, "build_vae_var", depth=self.depth)

        def decode(labels, seed, s):
            var.autoregressive_infer_cfg(
                len(labels), labels, g_seed=seed, cfg=s.cfg, top_k=s.top_k, top_p=s.top_p
            )

        return self.followed(vqvae, [var], decode)


@register
class OriginalCoDe(Published):
    """The published CoDe, from your own checkout: a drafter, then a refiner."""

    method: Literal["original_code"] = "original_code"
    refiner_depth: int = Field(16, ge=1, le=60)
    draft_steps: int = Field(8, ge=1, le=9)
    label_format: ClassVar = "Original CoDe N={draft_steps} (d{depth}+d{refiner_depth})"
    preset: ClassVar = PRESETS["code"]
    marker: ClassVar = "s"

    def sampler(self, device):
        """A transformer for the first scales, another for the rest."""
        depths = {"depth_draft": self.depth, "depth_refine": self.refiner_depth}
        vqvae, (drafter, refiner) = self.built(device, "build_vae_var_ctf", **depths)

        def decode(labels, seed, s):
            by_scale = s.temperature if isinstance(s.temperature, tuple) else [s.temperature] * K
            same = {"B": len(labels), "label_B": labels, "g_seed": seed, "cfg": s.cfg}
            same |= {"top_k": [s.top_k] * K, "top_p": s.top_p, "temp": by_scale}
            f_hat, draft = drafter.autoregressive_infer_cfg_draft(exit_num=self.draft_steps, **same)
            refiner.autoregressive_infer_cfg_refine(
                draft=draft, f_hat=f_hat, entry_num=self.draft_steps, **same
            )

        return self.followed(vqvae, [drafter, refiner], decode)
