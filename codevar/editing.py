"""Inpainting and class-conditional editing without training (CoDe, Section 4.2, Fig. 7).

Shapes: B images, H W pixels, h w cells of the feature map, Z channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from codevar.checks import array_of, kind_of, labels_of
from codevar.decoding import default_stack, generate, images_of
from codevar.noise import Seed
from codevar.outputs import Decoded
from codevar.plan import Plan, original
from codevar.sampling_settings import Sampling
from codevar.stacks import Stack
from codevar.var import VAR
from codevar.vqvae import VQVAE


@torch.no_grad()
def edit(
    plan: Plan | VAR,
    vqvae: VQVAE,
    images: torch.Tensor,
    labels: torch.Tensor | Sequence[int],
    mask: torch.Tensor,
    sampling: Sampling | None = None,
    seed: Seed = 0,
    stack: Stack | None = None,
) -> Decoded:
    """Images with new content under the mask, the rest kept.

    images: (B, 3, H, W) in [0, 1].  labels: B classes; the images' own for inpainting, others
    for editing.  mask: (H, W) or (B, H, W) at any size, not 0 where new content is wanted.
    The other arguments are those of `decode`.  Tokens under the kept part are drawn but have
    no effect.

    Raises ValueError for shapes that do not fit each other, images not in [0, 1] and labels that
    are no classes.
    """
    plan, images, mask = original(plan), array_of("images", images), array_of("mask", mask)
    kind_of("vqvae", vqvae, VQVAE)
    if images.ndim == 0:
        raise ValueError(f"images must be (B, 3, H, W), not {tuple(images.shape)}")
    stack = stack or default_stack(plan)
    labels = labels_of(labels, plan.steps[0].model.config.classes)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    new_B1hw = mask_of_cells(mask, vqvae)
    if len(new_B1hw) not in (1, len(images)):
        raise ValueError(f"{len(images)} images but {len(new_B1hw)} masks")
    tokens_BL = vqvae.encode(images.to(vqvae.device))
    kept = list(vqvae.quantize.partial_sums(tokens_BL, vqvae.scales))

    def blend(f_hat_BZhw: torch.Tensor, h_BZhw: torch.Tensor, k: int) -> torch.Tensor:
        return (f_hat_BZhw + h_BZhw) * new_B1hw + kept[k] * (1 - new_B1hw)

    made = generate(plan, vqvae, labels, sampling, seed, stack, add=blend)
    return Decoded(made.tokens, images_of(made, vqvae, stack))


def mask_of_cells(mask: torch.Tensor, vqvae: VQVAE) -> torch.Tensor:
    """(B or 1, 1, h, w) float mask of the feature map's cells, 0 or 1, by nearest neighbour."""
    if mask.ndim not in (2, 3):
        raise ValueError(f"mask must be (H, W) or (B, H, W), not {tuple(mask.shape)}")
    side = vqvae.scales.patch_sizes[-1]
    mask_B1HW = (mask.to(vqvae.device) != 0).float().reshape(-1, 1, *mask.shape[-2:])
    return F.interpolate(mask_B1HW, size=(side, side), mode="nearest")
