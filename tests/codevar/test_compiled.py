"""The `compiled` stack: the same tokens, one set of graphs for every scale, and no silent way back
to eager."""

from __future__ import annotations

import copy
import functools
import logging

import numpy as np
import pytest
import torch

import codevar
from codevar import Sampling, compiled
from codevar.plan import code
from tests import tiny

GREEDY = Sampling(cfg=3.0, top_k=1, top_p=0)
CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    bool(compiled.cannot_compile(CPU)), reason="torch.compile does not work here"
)


def ready(model, precision="float32"):
    stack = codevar.stack("compiled", precision)
    return stack.prepare(copy.deepcopy(model).to(stack.weights)), stack


@needs_compiler
def test_the_reference_tokens_by_a_few_graphs(cases, drafter, refiner, vqvae, labels):
    """Of each function one graph for a single token, if there is such a pass, and one for more;
    they serve every scale and batch.  What would need another raises here."""
    torch.compiler.reset()
    before = graphs()
    (large, stack), (small, _) = ready(drafter), ready(refiner)
    plan = code(large, small, draft_steps=6)
    made = codevar.decode(plan, vqvae, labels, GREEDY, stack=stack)
    decided = np.cumsum(cases["code_greedy_margins_N6"] < 1e-3, axis=1) == 0  # up to the first tie
    differ = made.tokens.numpy() != cases["code_greedy_tokens_N6"]
    assert not (differ & decided).any()
    assert decided.mean() > 0.5
    assert 0 < graphs() - before <= 3 * (2 + 2)
    with torch.compiler.set_stance("fail_on_recompile"):
        codevar.decode(plan, vqvae, [1], stack=stack)
        codevar.decode(plan, vqvae, [1, 2, 3, 4, 5, 6], stack=stack)


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@needs_compiler
def test_a_graph_too_many_raises_instead_of_running_eagerly():
    doubled = compiled.compiled(lambda x: x * 2)
    with torch._dynamo.config.patch(recompile_limit=1):
        doubled(torch.ones(2, 3, 4))
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            doubled(torch.ones(2, 3, 5))


@needs_compiler
@pytest.mark.parametrize("shared_adaln", [False, True])
@pytest.mark.parametrize("l2_norm", [False, True])
def test_every_kind_of_model(shared_adaln, l2_norm):
    var, vqvae = tiny.var(3, shared_adaln=shared_adaln, l2_norm=l2_norm), tiny.vqvae()
    wanted = codevar.decode(var, vqvae, [1, 2], seed=3)
    fast, stack = ready(var)
    got = codevar.decode(fast, vqvae, [1, 2], seed=3, stack=stack)
    assert torch.equal(got.tokens, wanted.tokens)


@needs_compiler
def test_it_rounds_no_more_than_modern_does():
    """What comes out for a product is rounded once, from float32."""
    norm, add_and_norm, heads_of = compiled.compiled_chains(torch.bfloat16)
    x_BLC, part_B1C = torch.randn(4, 9, 64), torch.randn(4, 1, 64)
    out_BLC, qkv_BL3C = torch.randn(4, 9, 64).bfloat16(), torch.randn(4, 9, 192).bfloat16()
    log_scale = torch.randn(1, 2, 1, 1)
    eager = compiled.eager
    h = eager.modulated_norm(x_BLC, part_B1C, part_B1C)
    torch.testing.assert_close(norm(x_BLC, 1 + part_B1C, part_B1C), h.bfloat16())
    x, h = eager.add_and_norm(x_BLC, out_BLC.float(), part_B1C, part_B1C, part_B1C)
    got_x, got_h = add_and_norm(x_BLC.clone(), out_BLC, part_B1C, 1 + part_B1C, part_B1C)
    assert got_x.dtype == torch.float32  # the sum stays as precise as it was
    torch.testing.assert_close(got_x, x)
    torch.testing.assert_close(got_h, h.bfloat16())
    wanted = [part.bfloat16() for part in eager.heads_of(qkv_BL3C, log_scale)]
    for got, part in zip(heads_of(qkv_BL3C, log_scale), wanted, strict=True):
        torch.testing.assert_close(got, part)


@pytest.fixture(params=["disabled", "no compiler"])
def nothing_compiles(request, monkeypatch):
    """cannot_compile, asked anew; how it is told."""
    torch.compiler.reset()
    compiled.cannot_compile.cache_clear()
    if request.param == "disabled":
        with torch._dynamo.config.patch(disable=True):
            yield "TORCHDYNAMO_DISABLE"
    else:
        cold = {"cpp.cxx": (None, "no-such-c++"), "force_disable_caches": True}
        with torch._inductor.config.patch(cold):
            yield "no-such-c++"
    torch.compiler.reset()
    compiled.cannot_compile.cache_clear()


def test_without_a_compiler_it_runs_as_modern_and_says_so(nothing_compiles, caplog):
    var, vqvae = tiny.var(2), tiny.vqvae()
    modern = codevar.stack("modern").prepare(copy.deepcopy(var))
    wanted = codevar.decode(modern, vqvae, [1, 2], seed=3)
    with caplog.at_level(logging.WARNING):
        fast, stack = ready(var)
    (told,) = [r.getMessage() for r in caplog.records if r.name == compiled.__name__]
    assert nothing_compiles in told
    assert "as modern" in told
    assert len(told.splitlines()) == 1
    got = codevar.decode(fast, vqvae, [1, 2], seed=3, stack=stack)
    assert torch.equal(got.tokens, wanted.tokens)


def test_modern_needs_none(nothing_compiles, caplog):
    codevar.stack("modern").prepare(tiny.var(2))
    assert not caplog.messages


def test_on_a_gpu_one_bias_is_made_once_for_queries_keys_and_values():
    """What shapes predict; a CPU's packed weights have it anyway."""
    stack = codevar.stack("compiled", "fp16")
    var = tiny.var(2, dtype=torch.float16)
    compiled.merge_biases(var)
    wanted = sum(p.numel() for p in var.parameters())
    with torch.device("meta"):
        shapes = codevar.VAR(var.config).to(torch.float16)
    assert sum(p.numel() for p in stack.prepare(shapes, "cuda").parameters()) == wanted
    plain, merged = tiny.var(2), tiny.var(2)
    compiled.merge_biases(merged)
    labels, inputs = torch.tensor([1, 2]), torch.randn(2, plain.scales.L - 1, 16)
    torch.testing.assert_close(merged(labels, inputs), plain(labels, inputs))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_compiled_traces_whole_for_every_scale_and_does_what_it_says(
    precision, monkeypatch
):
    """Without a compiler: torch's tracers, then eager operators.  A break in a graph raises, and a
    graph for each shape would be counted."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    traced = list(map(compiled.compiled, compiled.chains(precision, in_place=False)))
    plain = compiled.chains(precision, in_place=False)
    numbers = torch.Generator().manual_seed(0)
    before = graphs()
    for rows, tokens in ((2, 1), (2, 4), (6, 9), (8, 256)):

        def random(*shape, like=torch.float32):
            return torch.randn(shape, generator=numbers).to(like)

        x, out = random(rows, tokens, 64), random(rows, tokens, 64)
        gamma, gain, shift = (random(rows, 1, 64) for _ in range(3))
        qkv, scale = random(rows, tokens, 192, like=precision), random(1, 4, 1, 1)
        given = (x, gain, shift), (x, out, gamma, gain, shift), (qkv, scale)
        for arguments, fast, wanted in zip(given, traced, plain, strict=True):
            torch.testing.assert_close(fast(*arguments), wanted(*arguments))
    assert graphs() - before <= 3 * 2  # one token, several
