"""Image decoders: published names fit, and the network is the one that VAR's VQVAE has too."""

from __future__ import annotations

import re

import pytest
import torch

from bench.methods.image_decoders import CODE_CHANNELS, ImageDecoder, renamed
from codevar import VQVAE, VQVAEConfig
from codevar.checkpoints import seeded_tensor

WIDTHS = (32, 64)
OWN = {"kl_16": 16, "vq_16": 256}  # channels of the decoder's input


def published(name: str) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    """A state dict with the names of the decoder's own code, and the network that they are of:
    that of VAR, which `tests/codevar/test_reference.py` holds against its published code."""
    config = VQVAEConfig(width=32, multipliers=(1, 2), channels=OWN[name])
    var = VQVAE(config)
    shapes = {n: tuple(t.shape) for n, t in var.state_dict().items()}
    var.load_state_dict({n: torch.from_numpy(seeded_tensor(n, s, 5)) for n, s in shapes.items()})
    if name == "kl_16":
        del var.decoder.up[1].attn[:]  # its decoder attends in the middle alone
    tensors = {}
    for key, tensor in var.state_dict().items():
        if not key.startswith(("encoder.", "decoder.")):
            continue
        if name == "kl_16" and key.startswith("encoder.conv_out."):
            tensor = torch.cat((tensor, tensor))  # mean and variance
        key = key if name == "kl_16" else llamagens(key)
        if ".qkv." in key:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            tensors |= {key.replace(".qkv.", f".{part}."): chunk for part, chunk in parts}
        else:
            tensors[key] = tensor
    inner = CODE_CHANNELS if name == "vq_16" else 16
    outer = 2 * inner if name == "kl_16" else inner
    rest = {
        "quant_conv.weight": (outer, 32 if name == "kl_16" else 256, 1, 1),
        "quant_conv.bias": (outer,),
        "post_quant_conv.weight": (OWN[name], inner, 1, 1),
        "post_quant_conv.bias": (OWN[name],),
    }
    if name == "vq_16":
        rest["quantize.embedding.weight"] = (16384, CODE_CHANNELS)
    tensors |= {n: torch.from_numpy(seeded_tensor(n, shape, 6)) for n, shape in rest.items()}
    return tensors, var.decoder.requires_grad_(False)


def llamagens(key: str) -> str:
    """LlamaGen's name of a part of the same network, in the order in which it runs."""
    key = re.sub(r"mid\.(block_1|attn_1|block_2)", lambda m: f"mid.{PLACES[m[1]]}", key)
    key = re.sub(r"^encoder\.down\.(\d)\.", r"encoder.conv_blocks.\1.", key)
    key = re.sub(r"^decoder\.up\.(\d)\.", lambda m: f"decoder.conv_blocks.{1 - int(m[1])}.", key)
    return key.replace(".block.", ".res.")


PLACES = {"block_1": 0, "attn_1": 1, "block_2": 2}


@pytest.mark.parametrize("name", ["kl_16", "vq_16"])
def test_a_published_file_gives_the_published_network(name):
    tensors, network = published(name)
    decoder = ImageDecoder(name, WIDTHS).requires_grad_(False)
    decoder.load_state_dict(renamed(tensors | {"loss.disc.weight": torch.ones(1)}))
    generator = torch.Generator().manual_seed(0)
    if name == "kl_16":
        made = torch.randn(2, 16, 4, 4, generator=generator)
        latents = made / 0.2325
    else:
        made = torch.randint(16384, (2, 16), generator=generator)
        codes = torch.nn.functional.normalize(tensors["quantize.embedding.weight"], dim=1)
        latents = codes[made].transpose(1, 2).reshape(2, CODE_CHANNELS, 4, 4)
    weight, bias = tensors["post_quant_conv.weight"], tensors["post_quant_conv.bias"]
    pixels = network(torch.nn.functional.conv2d(latents, weight, bias))
    expected = pixels.clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(decoder(made), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.05


def test_old_names_of_stable_diffusions_attention_are_read():
    decoder = ImageDecoder("sd_vae", WIDTHS)
    old = {}
    for key, tensor in decoder.state_dict().items():
        key = key.removeprefix("network.").replace(".to_out.0.", ".proj_attn.")
        for short, long in (("q", "query"), ("k", "key"), ("v", "value")):
            key = key.replace(f".to_{short}.", f".{long}.")
        old[key] = tensor
    assert any(".query." in key for key in old)
    decoder.load_state_dict(renamed(old))


@pytest.mark.parametrize(("name", "millions"), [("sd_vae", 83.7), ("kl_16", 66.5), ("vq_16", 71.9)])
def test_published_sizes(name, millions):
    with torch.device("meta"):
        decoder = ImageDecoder(name)
    assert sum(p.numel() for p in decoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
