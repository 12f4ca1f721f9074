"""Decodes captured and replayed.  Graphs need a GPU (`tests/test_gpu.py`); here a tape stands for
them, so that what a capture would refuse or get wrong shows on any machine."""

from __future__ import annotations

import copy
import gc
import logging
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import codevar
from bench.predict import simulate
from codevar import Sampling, graphs
from codevar.decoding import generate
from codevar.plan import (
    code,
    evict_cache,
    original,
    prune_tokens,
    quantise_cache,
    skip_scales,
    swap_scale,
    unguided,
    variant,
)
from tests import tiny
from tests.codevar import tape

COMPILED = codevar.stack("compiled")
LAUNCHED = replace(COMPILED, graphs=False)
SCALES = len(tiny.PATCH_SIZES)

PLANS = {
    "var": lambda big, small: original(big),
    "code": lambda big, small: code(big, small, 2),
    "variant": lambda big, small: variant(big, 2, 2),
    "swap": lambda big, small: swap_scale(big, small, 3),
    "guided late, pruned at random, skipped": lambda big, small: skip_scales(
        unguided(prune_tokens(big, {4: 0.5}, selector="random", restore_from=2), [1]), [3]
    ),
    "evicted, in 8 bits": lambda big, small: quantise_cache(evict_cache(big, 4, "random"), 8),
    "unguided in the end, observed": lambda big, small: unguided(evict_cache(big, 17), [4]),
}


@pytest.fixture(autouse=True)
def taped(monkeypatch):
    monkeypatch.setattr(graphs, "can_capture", lambda device: True)
    monkeypatch.setattr(graphs, "undisturbed", lambda *_: nullcontext())
    monkeypatch.setattr(graphs, "REGISTERS", True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", tape.Graph)
    monkeypatch.setattr(torch.cuda, "graph", tape.capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    # A CPU sorts by NumPy, which no tape sees.
    monkeypatch.setattr("codevar.sampling.highest", lambda x, k: x.topk(k).values.flip(-1))


@pytest.fixture
def vqvae():
    return tiny.vqvae()


@pytest.fixture
def big():
    return tiny.var(depth=3, seed=0)


@pytest.fixture
def small():
    return tiny.var(depth=2, seed=1)


def graphs_of(plan):
    (known,) = graphs.known_of(original(plan))
    return known.graphs.graphs


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("seeds", [[1, 2, 3, 4], [[5, 6], [7, 8], [9, 5], [6, 7]]])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(more_smooth=True)])
def test_a_replay_makes_what_a_decode_does(big, small, vqvae, name, seeds, sampling):
    plan = PLANS[name](big, small)
    made = []
    for labels, seed in zip([[1, 2], [3, 4], [5, 6], [0, 9]], seeds, strict=True):
        calls = []
        options = {"sampling": sampling, "seed": seed}
        got = generate(plan, vqvae, labels, stack=COMPILED, on_scale=calls.append, **options)
        made.append((got, generate(plan, vqvae, labels, stack=LAUNCHED, **options)))
        assert calls == list(range(SCALES + 1))
    for got, wanted in made:  # in the end, so that no replay has written over what came before
        assert torch.equal(got.tokens, wanted.tokens)
        assert torch.equal(got.f_hat, wanted.f_hat)
        assert got.kv_cache_bytes == wanted.kv_cache_bytes
    assert len({tuple(got.tokens.flatten().tolist()) for got, _ in made}) == len(made)
    assert [graph.replays for graph in graphs_of(plan)] == [3] * SCALES


def test_the_first_of_a_kind_is_only_decoded(big, vqvae):
    plan = original(big)
    generate(plan, vqvae, [1], stack=COMPILED)
    generate(plan, vqvae, [1, 2], stack=COMPILED)
    assert graphs.known_of(plan) == []
    generate(plan, vqvae, [3, 4], stack=COMPILED)
    assert len(graphs.known_of(plan)) == 1
    assert graphs_of(plan)[0].replays == 1


def test_another_plan_or_setting_is_another_kind(big, small, vqvae):
    """Each is decoded three times, in turn; no one replays another's graphs."""
    kinds = [
        (plan(big, small), sampling, labels)
        for plan in PLANS.values()
        for sampling in (Sampling(), Sampling(cfg=3.0, top_k=5))
        for labels in ([1, 2], [1, 2, 3])
    ]
    for seed in range(3):
        for plan, sampling, labels in kinds:
            run = (plan, vqvae, labels, sampling, seed)
            got, wanted = generate(*run, stack=COMPILED), generate(*run, stack=LAUNCHED)
            assert torch.equal(got.tokens, wanted.tokens)
        assert len(graphs.known_of(plan)) == (4 if seed else 0)


def test_the_oldest_kinds_are_forgotten(big, vqvae, monkeypatch):
    monkeypatch.setattr(graphs, "KINDS", 2)
    for batch in (1, 1, 2, 2, 1, 3, 3):  # 2 was used longest ago
        generate(original(big), vqvae, [0] * batch, stack=COMPILED)
    kept = [len(known.graphs.labels_2B) // 2 for known in graphs.known_of(original(big))]
    assert kept == [1, 3]


def test_an_edited_decode_is_not_captured(big, vqvae):
    for _ in range(3):
        generate(
            original(big), vqvae, [1], stack=COMPILED, choose=lambda logits, k: logits.argmax(-1)
        )
        generate(original(big), vqvae, [1], stack=COMPILED, add=lambda f_hat, h, k: f_hat + h)
    assert graphs.known_of(original(big)) == []


def test_modern_has_no_graphs(big, vqvae):
    for _ in range(3):
        generate(original(big), vqvae, [1], stack=codevar.stack("modern"))
    assert graphs.known_of(original(big)) == []


@pytest.mark.parametrize("fits", [0, 2])
def test_where_memory_runs_out_it_decodes_and_warns_once(big, vqvae, monkeypatch, caplog, fits):
    """Before the first graph, or with two made."""

    class Full(tape.Graph):
        def register_generator_state(self, generator):
            if len(made) == fits:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB\nmore")
            made.append(self)
            super().register_generator_state(generator)

    made = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Full)
    with caplog.at_level(logging.WARNING):
        got = [generate(original(big), vqvae, [1, 2], seed=3, stack=COMPILED) for _ in range(4)]
    wanted = generate(original(big), vqvae, [1, 2], seed=3, stack=LAUNCHED)
    assert all(torch.equal(one.tokens, wanted.tokens) for one in got)
    assert len(made) == fits  # and nobody tries again
    (told,) = [r.getMessage() for r in caplog.records if r.name == graphs.__name__]
    assert told.endswith("CUDA out of memory. Tried to allocate 2 MiB")
    reason = "CUDA out of memory. Tried to allocate 2 MiB"
    assert graphs.known_of(original(big)) == [graphs.Known(reason=reason)]


def test_a_failed_capture_gives_the_pool_back(big, small, vqvae, monkeypatch):
    """Or what it took would be missing where kernels are launched; others capture again."""
    for _ in range(2):
        generate(original(big), vqvae, [1], stack=COMPILED)
    fails = lambda *_: (_ for _ in ()).throw(RuntimeError("no memory"))  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(tape.Graph, "register_generator_state", fails)
        for _ in range(2):
            generate(original(small), vqvae, [1], stack=COMPILED)
    assert graphs.known_of(original(small)) == [graphs.Known(reason="no memory")]
    assert graphs.known_of(original(big)) == []
    for _ in range(2):
        generate(original(big), vqvae, [1], stack=COMPILED)
    assert len(graphs_of(original(big))) == SCALES


@pytest.mark.parametrize("dies", ["first", "second"])
def test_graphs_go_with_their_models(vqvae, dies):
    models = {"first": tiny.var(depth=3), "second": tiny.var(depth=2)}
    for _ in range(3):
        generate(code(*models.values(), 2), vqvae, [1], stack=COMPILED)
    before = len(graphs.ALIVE)
    del models[dies]
    (left,) = models.values()
    generate(original(left), vqvae, [1], stack=COMPILED)
    gc.collect()
    assert len(graphs.ALIVE) == before - 1


def heavier(module):
    module = copy.deepcopy(module)
    module.weight.data.mul_(1.5)
    return module


CHANGES = {
    "moved": lambda model: model.to(torch.float16).to(torch.float32),
    "assigned": lambda model: model.load_state_dict(
        {name: weight * 1.5 for name, weight in model.state_dict().items()}, assign=True
    ),
    "swapped": lambda model: setattr(model.head.weight, "data", model.head.weight.data * 1.5),
    "exchanged": lambda model: setattr(model, "head", heavier(model.head)),
    "without a bias": lambda model: setattr(model.head, "bias", None),
    "written to": lambda model: model.head.weight.data.mul_(1.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_new_weights_are_not_decoded_with_old_graphs(big, vqvae, change):
    for _ in range(3):
        generate(original(big), vqvae, [1, 2], seed=0, stack=COMPILED)
    CHANGES[change](big)
    for seed in range(3):
        got = generate(original(big), vqvae, [1, 2], seed=seed, stack=COMPILED)
        wanted = generate(original(big), vqvae, [1, 2], seed=seed, stack=LAUNCHED)
        assert torch.equal(got.tokens, wanted.tokens)
    assert len(graphs_of(original(big))) == SCALES  # captured again where need be


def test_inference_mode_is_a_kind_of_its_own(big, vqvae):
    """Its tensors cannot be written to outside of it."""
    for _ in range(3):
        with torch.inference_mode():
            generate(original(big), vqvae, [1], seed=0, stack=COMPILED)
        generate(original(big), vqvae, [1], seed=0, stack=COMPILED)
    assert len(graphs.known_of(original(big))) == 2


class Captures(TorchDispatchMode):
    """What a capture refuses, on fake tensors of a GPU: to wait for a value, or to fetch one."""

    started = False

    def on_scale(self, k):
        self.started = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            assert not self.started
            return 0
        if func is torch.ops.aten.exponential_.default:
            return args[0]
        out = func(*args, **(kwargs or {}))
        if self.started:
            used = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            assert {x.device.type for x in used if x.ndim} <= {"cuda"}, func
        return out


@pytest.mark.parametrize("seed", [0, [0, 1, 2]])
@pytest.mark.parametrize("how", ["published", "modern", "compiled"])
@pytest.mark.parametrize("smooth", [False, True])
def test_nothing_after_the_start_waits_for_a_gpu_or_fetches_from_the_host(seed, how, smooth):
    """Of a model that comes back and of a refiner, with as many codes as published."""
    stack = codevar.stack(how, "fp16")
    with torch.device("meta"):
        models = [codevar.VAR(codevar.VARConfig(depth, width=128)) for depth in (2, 3)]
        vqvae = codevar.VQVAE(codevar.VQVAEConfig()).cast(stack.weights)
    for model in models:
        stack.prepare(model.to(stack.weights), "cuda")
    mode, sampling = Captures(), Sampling(more_smooth=smooth)
    with simulate.simulated("cuda", "auto"):
        for network in (*models, vqvae):
            simulate.fill(network, "cuda")
        with mode:
            plan = swap_scale(code(*models, 6), models[0], 9)
            generate(plan, vqvae, [0, 1, 2], sampling, seed, stack, on_scale=mode.on_scale)
    assert mode.started
