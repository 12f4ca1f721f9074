"""CLIP's and DINOv2's features, for CMMD and FD-DINOv2 (Stein et al., 2023).

Weights are a file of tensors that the user names.  torch-fidelity would fetch code
(`torch.hub.load`) or run what the file holds (`torch.jit.load`); here its module for CLIP, and
timm's for DINOv2, are filled from plain tensors.  Images are resized and normalised as
torch-fidelity does it.

Shapes: B images, H W pixels, D features.
"""

from pathlib import Path
from typing import Any

import torch
from torch_fidelity.feature_extractor_clip import build_model
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x,
)

from bench.quality.features import Extractor, Layers, file_sha256, read_tensors
from bench.study.errors import UsageError
from codevar.files import first_line

#: Mean and standard deviation of each colour, of values in 0..1.
CLIP_COLOURS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DINO_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DINO_SIDE = 224
DINO_SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}


def clip(weights: Path, device: torch.device) -> Extractor:
    """pool: CLIP's embedding of images.  weights: the state dict of any of OpenAI's models."""
    try:
        network = build_model(read_tensors(weights), torch.float32).visual.to(device)
    except (KeyError, RuntimeError) as e:
        raise UsageError(f"{weights}: no state dict of CLIP ({first_line(e)})") from None
    return _extractor(
        "clip", weights, network, network.input_resolution, CLIP_COLOURS, network.output_dim, device
    )


def dinov2(weights: Path, device: torch.device) -> Extractor:
    """pool: DINOv2's class token.  weights: the state dict of a ViT/14 of any size."""
    try:
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn
    except ImportError:
        raise UsageError("DINOv2 needs timm: pip install -e '.[baselines]'") from None
    tensors = read_tensors(weights)
    try:
        width = tensors["cls_token"].shape[-1]
        network: Any = timm.create_model(
            f"vit_{DINO_SIZES[width]}_patch14_dinov2",
            pretrained=False,
            num_classes=0,
            img_size=DINO_SIDE,
        )
        network.load_state_dict(checkpoint_filter_fn(tensors, network))
    except (KeyError, RuntimeError) as e:
        raise UsageError(f"{weights}: no state dict of DINOv2 ({first_line(e)})") from None
    network = network.eval().to(device)
    return _extractor("dinov2", weights, network, DINO_SIDE, DINO_COLOURS, width, device)


def _extractor(
    name: str,
    weights: Path,
    network: Any,
    side: int,
    colours: tuple[tuple[float, ...], tuple[float, ...]],
    width: int,
    device: torch.device,
) -> Extractor:
    mean_311, std_311 = (255 * torch.tensor(c, device=device)[:, None, None] for c in colours)

    def layers(images_B3HW: torch.Tensor) -> Layers:
        resized = interpolate_bilinear_2d_like_tensorflow1x(
            images_B3HW.float(), size=(side, side), align_corners=False
        )
        return {"pool": network((resized - mean_311) / std_311)}

    return Extractor(name, file_sha256(weights), False, {"pool": width}, layers, device)
