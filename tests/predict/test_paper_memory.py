"""CoDe's Table 1 gives baselines more memory than `predict` does: it counts the image decoder."""

from unittest import mock

import pytest
import torch
from torch import nn

from bench.methods.baseline import networks
from bench.predict.prediction import CUBLAS_BYTES, predict
from bench.predict.simulate import PRIME, watched
from bench.study import papers
from bench.study.cases import make_case
from bench.study.units import MIB

IMAGES, CHANNELS = 64, 128


def paper_mib(row: str) -> int:
    return int(papers.load("code_table1").numbers("total_mib", "method")[row,])


def swish(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """As MAR, AiM and LlamaGen write it; torch's SiLU keeps no sigmoid."""
    return x * torch.sigmoid(x)


def decoder_bytes(block: nn.Module, side: int, autocast: bool) -> int:
    """What a residual block of the image decoder needs at full resolution, for all images."""
    dtype = torch.float16 if autocast else torch.float32

    def decode(on_scale):
        on_scale(0)
        pixels = torch.empty(PRIME, CHANNELS, side, side, device="cuda", dtype=dtype)
        with torch.no_grad(), torch.autocast("cuda", enabled=autocast, cache_enabled=False):
            block(pixels, None)
        on_scale(1)

    with mock.patch.object(nn.SiLU, "forward", swish):
        return watched([block], decode, "cuda", "auto").peak_bytes(IMAGES)[0]


@pytest.mark.parametrize(
    ("method", "row", "precision", "side", "autocast"),
    [
        ("mar", "MAR-B", "float32", 256, True),
        ("aim", "AiM-XL", "float32", 256, False),
        ("llamagen", "LlamaGen-XXL", "fp16", 384, False),
    ],
)
def test_scripts_with_their_image_decoder_need_what_the_paper_says(
    method, row, precision, side, autocast
):
    """precision: of the transformer and its cache.  The image decoder's weights are float32, and
    the cache is still there while it runs.  autocast: around all, as in MAR's demo."""
    case = make_case(
        {"method": method, "batch_size": IMAGES, "device": "cuda"}
        | {"stack": "modern", "precision": precision}
    )
    model, decoder = networks(case)
    weights = sum(p.numel() for p in model.parameters())
    copies = 2 * weights if autocast else 0  # in half precision, kept until autocast ends
    need = (
        weights * (4 if precision == "float32" else 2)
        + sum(p.nbytes for p in decoder.parameters())
        + copies
        + max(predict(case).kv_cache_bytes)
        + decoder_bytes(decoder.network.decoder.up_blocks[-1].resnets[-1], side, autocast)
        + CUBLAS_BYTES
    )
    assert need / MIB == pytest.approx(paper_mib(row), rel=0.02)
