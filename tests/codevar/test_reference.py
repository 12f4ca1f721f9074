"""Every array of the published code's reference cases, through the public API, on both stacks."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import codevar
from codevar import Sampling
from codevar.plan import code, original, subnet, swap_scale, variant
from tests.conftest import reference_state_dict

GREEDY = Sampling(cfg=3.0, top_k=1, top_p=0)
TIE = 1e-3  # guided logits closer than this may swap with another order of float32 sums
CHECKED: set[str] = set()  # names of cases.npz; the last test wants them all


@pytest.fixture(params=["published", "modern"])
def stack(request):
    return codevar.stack(request.param)


@pytest.fixture(scope="module")
def ready():
    """Models made ready for a stack, each once."""
    made = {}

    def of(model, request):
        stack = request.getfixturevalue("stack") if "stack" in request.fixturenames else None
        if stack is None or stack.name == "published":
            return model
        if model not in made:
            made[model] = stack.prepare(copy.deepcopy(model))
        return made[model]

    return of


@pytest.fixture
def drafter(drafter, ready, request):
    return ready(drafter, request)


@pytest.fixture
def refiner(refiner, ready, request):
    return ready(refiner, request)


@pytest.fixture
def check(cases):
    def expected(name):
        CHECKED.add(name)
        return cases[name]

    def tokens(result, name, margins=None):
        """Equal, up to the first tie of an image, after which anything may follow."""
        wanted = expected(name).astype(np.int64)
        differ = result.tokens.numpy() != wanted
        if margins is not None:
            differ &= np.cumsum(expected(margins) < TIE, axis=1) == 0
        assert not differ.any(), f"{name}: first at {np.argwhere(differ)[0]}"

    def image(result, name):
        ours = (result.images * 255).round().to(torch.int16).numpy()
        assert np.abs(ours - expected(name).astype(np.int16)).max() <= 1

    def greedy(result, stem, suffix=""):
        tokens(result, f"{stem}_tokens{suffix}", f"{stem}_margins{suffix}")
        if f"{stem}_image{suffix}" in cases.files:
            image(result, f"{stem}_image{suffix}")

    expected.tokens, expected.image, expected.greedy = tokens, image, greedy
    return expected


def test_vqvae(check, vqvae, image_input):
    tokens = vqvae.encode(image_input)
    np.testing.assert_array_equal(tokens, check("vqvae_tokens"))
    images = vqvae.decode(tokens)
    np.testing.assert_allclose(images, check("vqvae_reconstruction"), atol=5e-4)
    inputs = vqvae.teacher_forcing_input(tokens)
    np.testing.assert_allclose(inputs, check("teacher_forcing_input"), atol=1e-3)


def test_teacher_forcing(check, vqvae, drafter, refiner, labels, cases):
    tokens = torch.from_numpy(cases["vqvae_tokens"].astype(np.int64))
    inputs = vqvae.teacher_forcing_input(tokens)
    with torch.no_grad():
        logits, small = drafter(labels, inputs), refiner(labels, inputs)
    np.testing.assert_allclose(logits[:, ::8], check("teacher_forcing_logits"), atol=1e-4)

    def per_scale(of_token_BL):
        return [of_token_BL[:, s].mean().item() for s in drafter.scales.slices]

    p, q = logits.log_softmax(-1), small.log_softmax(-1)
    ce = -p.gather(-1, tokens[..., None])[..., 0]
    np.testing.assert_allclose(per_scale(ce), check("teacher_forcing_ce_per_scale"), atol=1e-4)
    for name, (a, b) in {"teacher_student": (p, q), "student_teacher": (q, p)}.items():
        kl = (a.exp() * (a - b)).sum(-1)
        np.testing.assert_allclose(per_scale(kl), check(f"kl_{name}_per_scale"), atol=1e-4)


def test_var(check, vqvae, drafter, labels, stack):
    check.greedy(codevar.decode(drafter, vqvae, labels, GREEDY, stack=stack), "var_greedy")
    sampling = Sampling(cfg=1.5, top_k=40, top_p=0.96)
    result = codevar.decode(drafter, vqvae, labels, sampling, seed=7, stack=stack)
    check.tokens(result, "var_sampled_tokens_seed7_k40_p096_cfg15")


@pytest.mark.parametrize("N", range(1, 10))
def test_code(check, vqvae, drafter, refiner, labels, stack, N):
    plan = code(drafter, refiner, draft_steps=N)
    check.greedy(codevar.decode(plan, vqvae, labels, GREEDY, stack=stack), "code_greedy", f"_N{N}")


@pytest.mark.parametrize("N", [2, 5])
def test_code_reversed(check, vqvae, drafter, refiner, labels, stack, N):
    result = codevar.decode(code(refiner, drafter, N), vqvae, labels, GREEDY, stack=stack)
    check.greedy(result, "code_reversed_greedy", f"_N{N}")


@pytest.mark.parametrize("k", [2, 6, 10])
def test_swap_scale(check, vqvae, drafter, refiner, labels, stack, k):
    plan = swap_scale(drafter, refiner, scale=k)
    result = codevar.decode(plan, vqvae, labels, GREEDY, stack=stack)
    check.greedy(result, "single_scale_swap_greedy", f"_k{k}")


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("N", [6, 7, 9, 10])
def test_variant(check, vqvae, drafter, labels, stack, d, N):
    plan = variant(drafter, depth=d, bridge_scales=N)
    result = codevar.decode(plan, vqvae, labels, GREEDY, stack=stack)
    check.greedy(result, "variant_greedy", f"_d{d}_N{N}")


@pytest.mark.parametrize(("where", "scales"), [("early", range(1, 4)), ("mid", range(4, 7))])
def test_subnet(check, vqvae, drafter, labels, stack, where, scales):
    plan = subnet(drafter, depth=3, scales=scales)
    result = codevar.decode(plan, vqvae, labels, GREEDY, stack=stack)
    check.greedy(result, f"variant_{where}_greedy", "_d3")


@pytest.mark.parametrize(("name", "from_scale"), [("subnet", 5), ("bridge", 6)])
def test_hybrid(check, vqvae, drafter, refiner, labels, meta, stack, name, from_scale):
    thin = subnet(drafter, meta["subnet_depth_in_hybrids"], range(from_scale, 11))
    plan = code(refiner, thin, draft_steps=4)
    result = codevar.decode(plan, vqvae, labels, GREEDY, stack=stack)
    check.greedy(result, f"hybrid_{name}_refiner_greedy")


def test_shared_adaln(check, vqvae, labels, meta, stack):
    var = codevar.load_var(reference_state_dict(*meta["shared_adaln"]), device="cpu")
    assert var.config.shared_adaln
    result = codevar.decode(var, vqvae, labels, GREEDY, stack=stack)
    check.greedy(result, "shared_adaln_greedy")


def test_flat_logits(check, vqvae, labels, meta, stack):
    weights = reference_state_dict(*meta["drafter"])
    for name in ("head.weight", "head.bias"):
        weights[name] = weights[name] * np.float32(0.1)
    var = codevar.load_var(weights, device="cpu")
    plain = Sampling(cfg=2.0, top_k=60, top_p=0.9)
    warm = replace(plain, temperature=(1.1,) * 7 + (1.0,) * 3)
    smooth = replace(plain, more_smooth=True)
    for sampling, stem, suffix in (
        (plain, "flat_sampled", ""),
        (warm, "flat_sampled", "_temp"),
        (smooth, "flat_smooth", ""),
    ):
        result = codevar.decode(var, vqvae, labels, sampling, seed=9, stack=stack)
        check.tokens(result, f"{stem}_tokens_seed9_k60_p09{suffix}")
        if sampling is not plain:
            check.image(result, f"{stem}_image_seed9_k60_p09{suffix}")


@pytest.mark.parametrize("name", ["var", "code_N8"])
def test_inpainting(check, vqvae, drafter, refiner, labels, image_input, stack, name):
    plan = original(drafter) if name == "var" else code(drafter, refiner, draft_steps=8)
    mask = torch.zeros(256, 256)
    mask[64:192, 64:192] = 1
    result = codevar.edit(plan, vqvae, image_input, labels, mask, GREEDY, stack=stack)
    check.greedy(result, f"inpaint_{name}_greedy")


def test_every_case_was_checked(cases, request):
    if len(request.session.items) < 40:
        pytest.skip("only some of this file's tests were asked for")
    assert set(cases.files) - {"meta"} == CHECKED
