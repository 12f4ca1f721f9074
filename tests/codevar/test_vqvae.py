"""The VQVAE: shapes, ranges, and that its parts agree with each other and with the loop."""

from __future__ import annotations

import pytest
import torch

import codevar
from codevar import PATCH_SIZES_512, VQVAEConfig
from tests import tiny

PYRAMIDS = [tiny.PATCH_SIZES, (1, 3, 8), (2, 4), PATCH_SIZES_512]


@pytest.fixture(scope="module")
def small_vqvae():
    return tiny.vqvae()


def random_tokens(count=2):
    return torch.randint(0, 128, (count, 30), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("patch_sizes", PYRAMIDS)
def test_encode_and_decode_shapes_and_ranges(patch_sizes):
    vqvae, side = tiny.vqvae(patch_sizes), 2 * patch_sizes[-1]
    tokens = vqvae.encode(tiny.images(side=side))
    assert tokens.shape == (2, sum(p * p for p in patch_sizes))
    assert tokens.dtype == torch.long
    assert tokens.min() >= 0
    assert tokens.max() < 128
    images = vqvae.decode(tokens)
    assert images.shape == (2, 3, side, side)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0


def test_one_vqvae_serves_every_pyramid():
    weights = tiny.vqvae().state_dict()
    vqvae = codevar.load_vqvae(weights, device="cpu", patch_sizes=(1, 3, 8))
    assert vqvae.encode(tiny.images(side=16)).shape == (2, 1 + 9 + 64)


def test_images_are_decoded_from_the_last_partial_sum(small_vqvae):
    tokens = random_tokens()
    sums = list(small_vqvae.quantize.partial_sums(tokens, small_vqvae.scales))
    assert len(sums) == 4
    assert torch.equal(small_vqvae.decode(tokens), small_vqvae.decode_features(sums[-1]))


def test_of_many_images_a_few_at_a_time_go_through_the_decoder(small_vqvae, monkeypatch):
    tokens, seen = random_tokens(7), []
    wanted = small_vqvae.decode(tokens)
    small_vqvae.decoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(codevar.vqvae, "PIXELS", 3 * wanted[0, 0].numel())
    images = small_vqvae.decode(tokens)
    small_vqvae.decoder._forward_pre_hooks.clear()
    assert seen == [3, 3, 1]
    torch.testing.assert_close(images, wanted)


def test_partial_sums_depend_on_the_scales_so_far_only(small_vqvae):
    tokens, changed = random_tokens(), random_tokens()
    changed[:, 5:14] = (changed[:, 5:14] + 1) % 128
    sums = [
        list(small_vqvae.quantize.partial_sums(t, small_vqvae.scales)) for t in (tokens, changed)
    ]
    assert [torch.equal(a, b) for a, b in zip(*sums, strict=True)] == [True, True, False, False]


def test_teacher_forcing_input_is_what_the_decode_loop_feeds(small_vqvae):
    model, fed = tiny.var(), []
    hook = model.word_embed.register_forward_pre_hook(lambda _, args: fed.append(args[0]))
    tokens = codevar.decode(model, small_vqvae, [3, 7]).tokens
    hook.remove()
    inputs = small_vqvae.teacher_forcing_input(tokens)
    assert inputs.shape == (2, 29, 16)
    torch.testing.assert_close(torch.cat(fed, dim=1), inputs)


def test_encoding_takes_the_nearest_codes(small_vqvae):
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    wanted = torch.cdist(x, small_vqvae.quantize.embedding.weight[None]).argmin(-1)
    assert torch.equal(small_vqvae.quantize.nearest(x), wanted)


def test_encoding_leaves_no_code_that_would_bring_the_last_scale_closer(small_vqvae):
    features = small_vqvae.features(tiny.images(1))
    scales, quantizer = small_vqvae.scales, small_vqvae.quantize
    tokens = small_vqvae.encode(tiny.images(1))
    *_, before, _ = quantizer.partial_sums(tokens, scales)
    rest = (features - before).flatten(2).transpose(1, 2)
    assert torch.equal(tokens[:, 14:], quantizer.nearest(rest))


@pytest.mark.parametrize(
    "shape", [(2, 3, 16, 16), (2, 3, 8, 7), (2, 1, 8, 8), (3, 8, 8), (2, 8, 8, 3)]
)
def test_images_of_another_size_are_refused(small_vqvae, shape):
    with tiny.refused("(B, 3, 8, 8)", str(shape)):
        small_vqvae.encode(torch.rand(shape))


def test_images_of_whole_numbers_are_refused(small_vqvae):
    with tiny.refused("[0, 1]", "not torch.uint8"):
        small_vqvae.encode(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("scaled", "said"),
    [
        (lambda images: images * 255, "not [0, 255]"),
        (lambda images: images * 2 - 1, "not [-1, 1]"),
        (lambda images: images * 1.1, "not [0, 1.1]"),
        (lambda images: images * torch.nan, "not [nan, nan]"),
    ],
)
def test_images_out_of_range_are_refused(small_vqvae, scaled, said):
    images = tiny.images()
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    with tiny.refused("images must be in [0, 1]", said):
        small_vqvae.encode(scaled(images))
    with tiny.refused("images must be in [0, 1]", said):
        codevar.edit(tiny.var(), small_vqvae, scaled(images), [3, 7], torch.ones(8, 8))


def test_images_may_be_out_of_range_by_rounding(small_vqvae):
    images = tiny.images()
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    wanted = small_vqvae.encode(images)
    for rounded in (images * 1.000001, images - 1e-6):
        assert torch.equal(small_vqvae.encode(rounded), wanted)


@pytest.mark.parametrize("shape", [(2, 29), (2, 31), (30,), (2, 1, 30)])
def test_tokens_that_do_not_fill_the_scales_are_refused(small_vqvae, shape):
    with tiny.refused("(B, 30)", str(shape)):
        small_vqvae.decode(torch.zeros(shape, dtype=torch.long))


def test_tokens_do_not_depend_on_the_precision_of_the_networks():
    vqvae = tiny.vqvae()
    features = vqvae.features(tiny.images())
    tokens = vqvae.encode(tiny.images())
    assert vqvae.cast(torch.bfloat16) is vqvae
    assert vqvae.dtype == torch.bfloat16
    assert {p.dtype for p in vqvae.quantize.parameters()} == {torch.float32}
    assert torch.equal(vqvae.quantize.encode(features, vqvae.scales), tokens)
    images = vqvae.decode(tokens)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, tiny.vqvae().decode(tokens), atol=0.1, rtol=0)


def test_the_quantiser_runs_without_tf32_and_leaves_the_rest_as_it_was(small_vqvae, monkeypatch):
    conv, ran_in = torch.backends.cudnn.conv, []
    forward = torch.nn.Conv2d.forward

    def spying(self, x):
        ran_in.append((type(self).__name__, conv.fp32_precision))
        return forward(self, x)

    before = conv.fp32_precision
    monkeypatch.setattr(torch.nn.Conv2d, "forward", spying)
    small_vqvae.decode(small_vqvae.encode(tiny.images()))
    assert set(ran_in) == {("Phi", "ieee"), ("Conv2d", before)}
    assert conv.fp32_precision == before != "ieee"


@pytest.mark.parametrize(
    "config",
    [
        VQVAEConfig(**tiny.SMALL_VQVAE),
        VQVAEConfig(width=32, multipliers=(1, 2, 4), res_blocks=2, vocab=64, channels=8, phis=3),
    ],
)
def test_config_is_read_off_the_tensors(config):
    shapes = {n: tuple(t.shape) for n, t in tiny.state_dict(codevar.VQVAE, config).items()}
    assert VQVAEConfig.from_shapes(shapes) == config
