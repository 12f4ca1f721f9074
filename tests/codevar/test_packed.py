"""Weights in the layout of a CPU's kernels."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

import codevar
from codevar.packed import ROWS, MKLLinear, OneDNNLinear, PackedLinear, attend, can_pack, packed
from tests import tiny

pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="no oneDNN in this torch")


@pytest.mark.parametrize("rows", [1, 2, 50])
@pytest.mark.parametrize("gelu", [False, True])
def test_a_packed_layer_is_the_layer(rows, gelu):
    layer = torch.nn.Linear(48, 80)
    x = torch.randn(2, rows, 48)
    wanted = layer(x)
    if gelu:
        wanted = F.gelu(wanted, approximate="tanh")
    got = OneDNNLinear(layer.weight, layer.bias, gelu=gelu)(x)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.fixture
def by_mkl(monkeypatch):
    """As on a CPU of MKL's maker, with layers of any size."""
    if not torch.backends.mkl.is_available():
        pytest.skip("no MKL in this torch")
    monkeypatch.setattr("codevar.packed.mkl_is_faster", lambda: True)
    monkeypatch.setattr("codevar.packed.LARGE", 1)


@pytest.mark.parametrize("bias", [False, True])
def test_mkl_takes_any_number_of_rows_of_a_layer_packed_for_one(bias, by_mkl):
    layer = torch.nn.Linear(200, 300, bias=bias)
    fast = packed(layer.weight, layer.bias)
    assert type(fast) is MKLLinear
    for rows in (1, 2, 7, ROWS - 1, ROWS, ROWS + 1, 4 * ROWS):
        x = torch.randn(2, rows, 400)[..., ::2]  # not contiguous
        torch.testing.assert_close(fast(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="no bf16 kernels for this CPU")
def test_threads_that_attend_at_once_leave_float32_as_precise_as_it_was():
    q_BHLc, k_BHKc, v_BHKc = torch.randn(3, 2, 4, 64, 32).bfloat16()
    before = torch.backends.mkldnn.matmul.fp32_precision
    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(lambda _: attend(q_BHLc, k_BHKc, v_BHKc), range(200)):
            pass
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_mkl_packs_what_is_float32_and_has_nothing_behind_it(by_mkl):
    var = codevar.stack("modern").prepare(tiny.var(2))
    layers = [module for module in var.modules() if isinstance(module, PackedLinear)]
    assert [isinstance(layer, OneDNNLinear) for layer in layers].count(True) == 2
    assert all(isinstance(block.ffn.fc1, OneDNNLinear) for block in var.blocks)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="no bf16 kernels for this CPU")
def test_in_half_precision_mkl_packs_the_head(by_mkl):
    stack = codevar.stack("modern", "bf16")
    var = stack.prepare(tiny.var(2, dtype=stack.weights))
    assert [name for name, module in var.named_modules() if isinstance(module, MKLLinear)] == [
        "head"
    ]


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="no bf16 kernels for this CPU")
@pytest.mark.parametrize("rows", [1, 2, 50])
def test_a_packed_layer_can_keep_what_bf16_would_round_away(rows):
    layer = torch.nn.Linear(48, 80, dtype=torch.bfloat16)
    x = torch.randn(rows, 48).bfloat16()
    wanted = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    got = OneDNNLinear(layer.weight, layer.bias, unrounded=True)(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("shared_adaln", [False, True])
@torch.no_grad()
def test_half_precision_rounds_neither_condition_nor_logits(shared_adaln, precision):
    stack = codevar.stack("modern", precision)
    var = tiny.var(2, shared_adaln=shared_adaln, dtype=stack.weights)
    x, cond = torch.randn(2, 5, var.config.width), var.class_emb(torch.tensor([0, 1]))
    exact = copy.deepcopy(var).float()
    for model in (var, stack.prepare(copy.deepcopy(var))):
        gamma = model.modulation(1, model.block_condition(cond))[0]
        wanted = exact.modulation(1, exact.block_condition(cond.float()))[0]
        assert not torch.equal(gamma, gamma.to(stack.weights).float())
        torch.testing.assert_close(gamma, wanted, atol=1e-2, rtol=1e-2)
        logits = model.logits(x, cond)
        assert not torch.equal(logits, logits.to(stack.weights).float())


@pytest.mark.parametrize("shared_adaln", [False, True])
@pytest.mark.parametrize("library", ["", "by_mkl"])
def test_a_model_made_ready_decodes_the_same(shared_adaln, library, request):
    if library:
        request.getfixturevalue(library)
    var, vqvae = tiny.var(3, shared_adaln=shared_adaln), tiny.vqvae()
    stack = codevar.stack("modern")
    wanted = codevar.decode(var, vqvae, [1, 2], seed=3, stack=stack)
    fast = stack.prepare(copy.deepcopy(var))
    got = codevar.decode(fast, stack.prepare(vqvae), [1, 2], seed=3, stack=stack)
    assert torch.equal(got.tokens, wanted.tokens)
    torch.testing.assert_close(got.images, wanted.images, atol=1e-5, rtol=0)
    assert not any(isinstance(module, torch.nn.Linear) for module in fast.modules())


def test_a_model_is_made_ready_once():
    var, vqvae, stack = tiny.var(2), tiny.vqvae(), codevar.stack("modern")
    once = codevar.decode(stack.prepare(var), vqvae, [1], stack=stack)
    again = codevar.decode(stack.prepare(var), vqvae, [1], stack=stack)
    assert torch.equal(once.tokens, again.tokens)


@pytest.mark.parametrize("library", ["", "by_mkl"])
def test_a_prepared_model_weighs_no_more(library, request):
    if library:
        request.getfixturevalue(library)
    var = tiny.var(3)
    before = sum(p.nbytes for p in var.parameters())
    codevar.stack("modern").prepare(var)
    keys = sum(block.width * 4 for block in var.blocks)  # their bias of zeros is kept
    assert sum(p.nbytes for p in var.parameters()) == before + keys


def test_published_models_stay_as_they_are():
    var = tiny.var()
    codevar.stack("published").prepare(var)
    assert any(isinstance(module, torch.nn.Linear) for module in var.modules())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("packs", [True, False])
def test_published_refuses_a_model_that_was_prepared_for_modern(precision, packs, monkeypatch):
    """Where nothing is packed, as on a GPU, what stands between the products is modern's still."""
    monkeypatch.setattr("codevar.stacks.can_pack", lambda dtype: packs)
    packed = codevar.stack("modern").prepare(tiny.var())
    with tiny.refused("the published stack", "prepared for another stack"):
        codevar.decode(packed, tiny.vqvae(), [3], stack=codevar.stack("published", precision))


@pytest.mark.parametrize("keys", [1, 30, 300])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_pieces_is_attention(keys, masked, monkeypatch):
    # Several pieces, the last one shorter.
    monkeypatch.setattr("codevar.packed.PIECE", 4000 / torch.get_num_threads())
    q, k, v = (torch.randn(3, 5, n, 8).bfloat16() for n in (min(keys, 20), keys, keys))
    mask = torch.rand(q.shape[2], keys) < 0.7 if masked else None
    if masked:
        mask[:, 0] = True  # nobody sees nothing
    wanted = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=mask, scale=0.7
    )
    got = attend(q, k, v, attn_mask=mask, scale=0.7)
    torch.testing.assert_close(got.double(), wanted, atol=2e-2, rtol=2e-2)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="no bf16 kernels for this CPU")
@pytest.mark.parametrize("amx", [False, True])
def test_with_amx_attention_is_torchs(amx, monkeypatch):
    monkeypatch.setattr("codevar.packed.has_bf16", lambda: True)
    monkeypatch.setattr("codevar.packed.has_amx", lambda: amx)
    stack = codevar.stack("modern", "bf16")
    block = stack.prepare(tiny.var(2, dtype=stack.weights)).blocks[0]
    assert block.attn.attend is (F.scaled_dot_product_attention if amx else attend)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="no bf16 kernels for this CPU")
def test_a_backend_of_torchs_that_was_asked_for_runs(monkeypatch):
    monkeypatch.setattr("codevar.packed.has_bf16", lambda: True)
    monkeypatch.setattr("codevar.packed.has_amx", lambda: False)
    stack = codevar.stack("modern", "bf16", attention="flash")
    block = stack.prepare(tiny.var(2, dtype=stack.weights)).blocks[0]
    assert block.attn.attend is F.scaled_dot_product_attention


def test_attention_leaves_torch_as_it_was():
    before = torch.backends.mkldnn.matmul.fp32_precision
    attend(*(torch.randn(1, 1, 2, 4).bfloat16() for _ in range(3)))
    assert torch.backends.mkldnn.matmul.fp32_precision == before
