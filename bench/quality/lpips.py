"""LPIPS (Zhang et al., 2018): how different two images look to VGG16.

torch-fidelity's module fetches its weights and reads them with what code they hold; here it is
filled from two files of tensors.

Shapes: B images, H W pixels.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch_fidelity import sample_similarity_lpips
from torchvision.models.vgg import cfgs, make_layers

from bench.quality.features import read_tensors
from bench.study.errors import UsageError
from codevar.files import first_line

#: torchvision's VGG16 and the weights of its layers, as both are published.
VGG, LAYERS = "vgg16-397923af.pth", "weights-vgg16-lpips.pth"

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (B, 3, H, W) twice -> (B,)


def load(folder: Path, device: torch.device) -> Distance:
    """The distance of images in 0..255, by the weights in `folder`.  Raises UsageError."""
    vgg = make_layers(cfgs["D"], batch_norm=False)
    try:
        tensors = read_tensors(folder / VGG)
        of_features = {k.removeprefix("features."): x for k, x in tensors.items() if "feat" in k}
        vgg.load_state_dict(of_features)
        of_layers = read_tensors(folder / LAYERS)
        with patch.multiple(
            sample_similarity_lpips,
            load_state_dict_from_url=lambda *_, **__: of_layers,
            torchvision_load_pretrained_vgg16=lambda: SimpleNamespace(features=vgg),
        ):
            network = sample_similarity_lpips.SampleSimilarityLPIPS("lpips").to(device)
    except RuntimeError as e:
        raise UsageError(f"{folder}: no weights of LPIPS ({first_line(e)})") from None

    def distance(x_B3HW: torch.Tensor, y_B3HW: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found = network(x_B3HW.float().to(device), y_B3HW.float().to(device))
        return found.double().cpu().flatten()

    return distance
