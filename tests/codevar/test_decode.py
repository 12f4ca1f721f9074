"""The loop: memory, reading, hooks, seeds, precisions, and any sizes of models."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import codevar
from codevar import Sampling, Scales
from codevar.decoding import generate
from codevar.plan import Plan, Step, code, original, subnet, swap_scale, variant
from codevar.stacks import STACKS
from codevar.work import room, work
from tests import tiny

GREEDY = Sampling(cfg=1.5, top_k=1, top_p=0)
LABELS = [3, 7]


@pytest.fixture(scope="module")
def big():
    return tiny.var(depth=3, seed=0)


@pytest.fixture(scope="module")
def small():
    return tiny.var(depth=2, seed=1)


@pytest.fixture(scope="module")
def small_vqvae():
    return tiny.vqvae()


# Memory


def recording(stack, kept):
    """The stack with a cache that notes, by heads and layer, what memory it last gave out."""

    class Recording(stack.cache):
        def append(self, slot, *pass_):
            (k_BHLc, v_BHLc), parts = super().append(slot, *pass_)
            kept[k_BHLc.shape[1], slot[0]] = [
                StorageWeakRef(x.untyped_storage()) for x in (k_BHLc, v_BHLc)
            ]
            return (k_BHLc, v_BHLc), parts

    return replace(stack, cache=Recording)


@pytest.mark.parametrize("stack", ["published", "modern"])
@pytest.mark.parametrize(
    ("plan_of", "held"),
    [
        (lambda big, small: code(big, small, 1), ["", "", "small", "small", ""]),
        (lambda big, small: code(big, small, 3), ["", "big", "big", "", ""]),
        (lambda big, small: swap_scale(big, small, 1), ["", "", "big", "big", ""]),
        (lambda big, small: swap_scale(big, small, 3), ["", "big", "big", "big", ""]),
        (lambda big, small: variant(big, 2, 2), ["", "big", "big", "big", ""]),
    ],
)
def test_caches_are_gone_after_the_last_scale_of_their_model(small_vqvae, plan_of, held, stack):
    models = {"big": tiny.var(3, heads=2), "small": tiny.var(2, heads=4)}
    kept, seen = {}, []

    def on_scale(k):
        live = {heads for (heads, _), refs in kept.items() if not all(r.expired() for r in refs)}
        seen.append(" ".join(name for name, m in models.items() if m.config.heads in live))

    stack = recording(codevar.stack(stack), kept)
    generate(plan_of(**models), small_vqvae, LABELS, stack=stack, on_scale=on_scale)
    assert seen == held


TOKEN_LAYERS = {  # tokens times layers in caches while scales 1..4 (1, 4, 9, 16 tokens) are read
    "original": (lambda big, small: original(big), (3, 15, 42, 90)),
    "code": (lambda big, small: code(big, small, 2), (3, 15, 28, 60)),
    "variant": (lambda big, small: variant(big, 2, 2), (3, 15, 33, 65)),
    "swap": (lambda big, small: swap_scale(big, small, 3), (3, 15, 15 + 28, 90)),
    "coming back deeper": (
        lambda big, small: swap_scale(subnet(big, 2, [1]), small, 2),
        (2, 2 + 10, 2 + 39, 41 + 48),
    ),
}


@pytest.mark.parametrize(
    ("precision", "bytes_of_key_and_value"), [("float32", 4 + 4), ("bf16", 4 + 2), ("fp16", 4 + 2)]
)
@pytest.mark.parametrize("method", TOKEN_LAYERS)
def test_growing_cache_bytes(big, small, small_vqvae, method, precision, bytes_of_key_and_value):
    plan_of, token_layers = TOKEN_LAYERS[method]
    stack = codevar.stack("published", precision)
    made = generate(plan_of(big, small), small_vqvae, LABELS, stack=stack)
    rows, width = 2 * len(LABELS), 64
    assert made.kv_cache_bytes == tuple(
        rows * width * bytes_of_key_and_value * n for n in token_layers
    )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    ("method", "token_layers"),
    [
        # of 30 tokens a layer 14 are read again, of a layer's only pass none
        ("original", (42, 42, 42, 42)),
        ("code", (3, 3, 28, 28)),
        ("variant", (29, 29, 29, 29)),
        ("swap", (15, 15, 15, 15)),
        ("coming back deeper", (41, 41, 41, 41)),
    ],
)
def test_static_cache_bytes(small_vqvae, method, token_layers, precision):
    stack = codevar.stack("modern", precision)
    dtype = stack.weights
    plan = TOKEN_LAYERS[method][0](tiny.var(3, dtype=dtype), tiny.var(2, dtype=dtype))
    made = generate(plan, small_vqvae, LABELS, stack=stack)
    rows, width = 2 * len(LABELS), 64
    assert made.kv_cache_bytes == tuple(rows * width * 2 * dtype.itemsize * n for n in token_layers)


@pytest.mark.parametrize("l2_norm", [True, False])
def test_stack_tells_the_bytes_of_the_published_cache(small_vqvae, l2_norm):
    stack = codevar.stack("published", "bf16")
    plan = original(tiny.var(l2_norm=l2_norm))
    made = generate(plan, small_vqvae, LABELS, stack=stack)
    kept = room(work(plan, 1, stack), plan.models[0])
    cached = sum(heads * tokens for heads, tokens in kept.values())
    per_token = stack.token_bytes(plan.models[0].config)
    assert made.kv_cache_bytes[-1] == 2 * len(LABELS) * cached * per_token


# Reading


def without_a_cache(plan, vqvae, labels, sampling, tokens):
    """The best codes (B, L) where each layer sees at once all tokens that its passes read."""
    scales = plan.scales
    level = scales.level_of_token()
    inputs = vqvae.teacher_forcing_input(tokens).repeat(2, 1, 1)
    best = torch.empty_like(tokens)
    passes = work(plan, len(labels), codevar.stack("modern"))
    for model in plan.models:
        nobody = torch.full_like(labels, model.config.classes)
        cond = model.class_emb(torch.cat((labels, nobody)))
        rest = model.word_embed(inputs.to(model.dtype))
        x = torch.cat((model.first_input(cond), rest), dim=1) + model.positions()
        for layer, block in enumerate(model.blocks):
            read = torch.zeros_like(level, dtype=torch.bool)
            for p in (p for p in passes if p.model is model):
                runs = any(visit.layer == layer for visit in p.visits)
                read |= runs & (level >= p.scales[0]) & (level <= p.scale)
            mask = level[read][:, None] >= level[read][None, :]
            x[:, read] = block(x[:, read], block.modulation(cond), mask)
        for k, step in enumerate(plan.steps):
            if step.model is model:
                logits = model.logits(x[:, scales.slices[k]], cond)
                best[:, scales.slices[k]] = sampling.at(k, scales).filtered(logits).argmax(-1)
    return best


@pytest.mark.parametrize("stack", ["published", "modern"])
@pytest.mark.parametrize("case", range(15))
@torch.no_grad()
def test_any_plan_gives_what_attention_without_a_cache_gives(big, small, small_vqvae, case, stack):
    rng = np.random.default_rng(case)
    models = [(big, small)[i] for i in rng.integers(2, size=4)]
    layers = [np.flatnonzero(rng.random(m.config.depth) < 0.7).tolist() or [0] for m in models]
    plan = Plan(tuple(Step(m, tuple(ls)) for m, ls in zip(models, layers, strict=True)))
    tokens = codevar.decode(plan, small_vqvae, LABELS, GREEDY, stack=codevar.stack(stack)).tokens
    wanted = without_a_cache(plan, small_vqvae, torch.tensor(LABELS), GREEDY, tokens)
    assert torch.equal(tokens, wanted)


def lengths_seen(module, run):
    """Sequence lengths that the module is called with while `run` runs."""
    lengths = []
    hook = module.register_forward_hook(lambda _, args, out: lengths.append(args[0].shape[1]))
    try:
        run()
    finally:
        hook.remove()
    return lengths


@pytest.mark.parametrize(("stack", "hand_over"), [("published", 1 + 4 + 9), ("modern", 9)])
def test_refiner_reads_the_draft_in_one_pass(big, small, small_vqvae, stack, hand_over):
    """And predicts only its scale; the published code has logits of the draft as well."""

    def run():
        generate(code(big, small, 2), small_vqvae, LABELS, stack=codevar.stack(stack))

    assert lengths_seen(small.blocks[0], run) == [1 + 4 + 9, 16]
    assert lengths_seen(small.head, run) == [hand_over, 16]
    assert lengths_seen(big.head, run) == [1, 4]


def test_at_the_hand_over_the_published_code_draws_for_the_draft_again(
    big, small, small_vqvae, monkeypatch
):
    drawn, draw = [], codevar.sampling.exponentials

    def watched(like_BlV, noise, as_published=False):
        drawn.append((like_BlV.shape[1], noise))
        return draw(like_BlV, noise, as_published)

    monkeypatch.setattr("codevar.sampling.exponentials", watched)
    generate(code(big, small, 2), small_vqvae, LABELS, stack=codevar.stack("published"))
    assert [tokens for tokens, _ in drawn] == [1, 4, 1, 4, 9, 16]
    kept, surplus = ({noise for _, noise in drawn[at]} for at in (slice(4, None), slice(2, 4)))
    assert kept == {noise for _, noise in drawn[:2]}
    assert not kept & surplus


@pytest.mark.parametrize("seed", [3, [3, 4]])
@pytest.mark.parametrize("more_smooth", [False, True])
@pytest.mark.parametrize(
    "plan_of",
    [
        lambda big, small: code(big, small, 2),
        lambda big, small: swap_scale(big, small, 2),
    ],
)
def test_a_seed_gives_the_same_images_on_every_stack(
    big, small, small_vqvae, plan_of, seed, more_smooth
):
    plan, sampling = plan_of(big, small), Sampling(more_smooth=more_smooth)
    published, modern = (
        codevar.decode(plan, small_vqvae, LABELS, sampling, seed, codevar.stack(name))
        for name in ("published", "modern")
    )
    assert torch.equal(published.tokens, modern.tokens)
    torch.testing.assert_close(published.images, modern.images, atol=1e-4, rtol=0)


def test_a_model_coming_back_reads_what_another_predicted(big, small, small_vqvae):
    def run():
        generate(swap_scale(big, small, 2), small_vqvae, LABELS)

    assert lengths_seen(big.blocks[0], run) == [1, 4 + 9, 16]
    assert lengths_seen(big.head, run) == [1, 9, 16]


def test_layers_left_out_do_not_run(big, small_vqvae):
    def run():
        generate(variant(big, 2, 1), small_vqvae, LABELS)

    assert lengths_seen(big.blocks[1], run) == [1]
    assert lengths_seen(big.blocks[2], run) == [1, 4, 9, 16]


def test_an_image_does_not_depend_on_the_rest_of_the_batch(big, small, small_vqvae):
    plan = code(big, small, 2)
    together = codevar.decode(plan, small_vqvae, [3, 7], GREEDY).tokens
    alone = [codevar.decode(plan, small_vqvae, [label], GREEDY).tokens for label in (3, 7)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(*alone)


# Hooks and seeds


def test_on_scale_is_called_before_the_first_scale_and_after_each(big, small, small_vqvae):
    calls = []
    generate(code(big, small, 2), small_vqvae, LABELS, on_scale=calls.append)
    assert calls == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("more_smooth", [False, True])
def test_the_seed_decides_the_images(big, small, small_vqvae, more_smooth):
    sampling = Sampling(more_smooth=more_smooth)
    one, again, other = (
        codevar.decode(code(big, small, 2), small_vqvae, LABELS, sampling, seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(one.tokens, again.tokens)
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.tokens, other.tokens)
    assert not torch.equal(one.images, other.images)


@pytest.mark.parametrize("seed", [5, [5, 6, 7]])
@pytest.mark.parametrize("elements", [1, 1000, 9000])
def test_tokens_are_the_same_in_parts_of_any_size(
    big, small, small_vqvae, seed, elements, monkeypatch
):
    """Layers a row at a time, a few, all; logits of one token, a few of an image, whole images."""
    stack, plan = codevar.stack("modern"), code(big, small, 2)
    whole = codevar.decode(plan, small_vqvae, [3, 7, 1], None, seed, stack)
    monkeypatch.setattr("codevar.packed.PIECE", elements / torch.get_num_threads())
    monkeypatch.setattr(sys.modules["codevar.decoding"], "MIN_TOKENS_PER_MATMUL", 1)
    parts = codevar.decode(plan, small_vqvae, [3, 7, 1], None, seed, stack)
    assert torch.equal(parts.tokens, whole.tokens)


@pytest.mark.parametrize("stack", STACKS)
def test_a_surrounding_autocast_changes_nothing(big, small_vqvae, stack):
    """Models' own demonstrations sample under one; here the stack says what is autocast."""
    alone = codevar.decode(big, small_vqvae, LABELS, seed=1, stack=codevar.stack(stack))
    with torch.autocast("cpu", torch.bfloat16):
        under = codevar.decode(big, small_vqvae, LABELS, seed=1, stack=codevar.stack(stack))
    assert torch.equal(under.tokens, alone.tokens)
    assert torch.equal(under.images, alone.images)


def test_the_global_generator_is_left_alone(big, small_vqvae):
    before = torch.get_rng_state()
    one = codevar.decode(big, small_vqvae, LABELS).tokens
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(codevar.decode(big, small_vqvae, LABELS).tokens, one)


# What is refused


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(more_smooth=True)])
def test_images_of_models_gone_wrong_are_refused(small_vqvae, value, stack, sampling):
    """By a refiner at its last scale, after all else went well."""
    drafter, refiner = tiny.var(depth=2), tiny.var(depth=2, seed=1)
    refiner.blocks[1].ffn.fc2.weight.data[5] = value
    plan = code(drafter, refiner, 3)
    with pytest.raises(FloatingPointError, match=r"NaN or infinity: .* torch\.float32"):
        codevar.decode(plan, small_vqvae, LABELS, sampling, stack=codevar.stack(stack))


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("place", ["head.weight", "head.bias", "decoder.conv_in.weight"])
def test_what_comes_behind_the_features_is_watched_too(stack, place):
    """No token shows a NaN among its logits: the best of no numbers is the first."""
    vqvae, var, how = tiny.vqvae(), tiny.var(depth=2), codevar.stack(stack)
    (vqvae if "decoder" in place else var).get_parameter(place).data[5] = float("nan")
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        codevar.decode(how.prepare(var), vqvae, LABELS, stack=how)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([-1, 3], "0..9"),
        ([3, 10], "0..9"),
        (torch.tensor([10]), "0..9"),
        ([], "labels"),
        ([[1, 2]], "labels"),
        (3, "labels"),
        ([1.7], "labels"),
        ("heart", "a list of classes 0..9, not 'heart'"),
        (["heart"], "a list of classes 0..9, not ['heart']"),
        (None, "a list of classes 0..9, not None"),
        ([None], "a list of classes 0..9, not [None]"),
        ([[1], [2, 3]], "a list of classes 0..9, not [[1], [2, 3]]"),
        ([True, False], "a list of classes 0..9, not [True, False]"),
        ([10**30], "a list of classes 0..9, not [1000"),
        (torch.tensor([1j]), "a list of classes 0..9, not tensor"),
    ],
)
def test_labels_are_refused(big, small_vqvae, labels, said):
    with tiny.refused("labels", said):
        codevar.decode(big, small_vqvae, labels)


@pytest.mark.parametrize(
    "labels",
    [
        (3, 7),
        torch.tensor([3, 7], dtype=torch.int32),
        torch.tensor([3, 7], dtype=torch.uint8),
        np.array([7, 3])[::-1],
    ],
)
def test_labels_may_be_any_whole_numbers(big, small_vqvae, labels):
    result = codevar.decode(big, small_vqvae, labels)
    assert torch.equal(result.tokens, codevar.decode(big, small_vqvae, [3, 7]).tokens)


@pytest.mark.parametrize(
    ("stack", "precision", "weights"),
    [
        ("published", "bf16", torch.bfloat16),
        ("modern", "bf16", torch.float32),
        ("modern", "float32", torch.bfloat16),
    ],
)
def test_a_stack_refuses_weights_of_another_precision(small_vqvae, stack, precision, weights):
    made = codevar.stack(stack, precision)
    plan = code(tiny.var(dtype=made.weights), tiny.var(dtype=weights), 2)
    with tiny.refused(stack, str(made.weights), str(weights)):
        codevar.decode(plan, small_vqvae, LABELS, stack=made)


@pytest.mark.parametrize("sampling", [1.5, {"cfg": 1.5}])
def test_what_is_no_sampling_is_refused(big, small_vqvae, sampling):
    with tiny.refused("sampling must be a codevar.Sampling, not "):
        codevar.decode(big, small_vqvae, LABELS, sampling)


@pytest.mark.parametrize("stack", ["modern", codevar.stack])
def test_what_is_no_stack_is_refused(big, small_vqvae, stack):
    with tiny.refused("stack must be one that codevar.stack makes, not "):
        codevar.decode(big, small_vqvae, LABELS, stack=stack)


@pytest.mark.parametrize(
    ("what", "wrong", "known"),
    [
        ("stack", {"name": "fast"}, "published, modern"),
        ("precision", {"precision": "int8"}, "float32, bf16, fp16"),
        ("attention", {"attention": "ring"}, "auto, math, efficient, flash, cudnn"),
    ],
)
def test_unknown_names_of_a_stack_are_refused(what, wrong, known):
    with tiny.refused(what, known, *wrong.values()):
        codevar.stack(**({"name": "modern"} | wrong))


@pytest.mark.parametrize(
    ("name", "value", "ours"),
    [("patch_sizes", (1, 2, 3, 5), "(1, 2, 3, 4)"), ("vocab", 64, "128"), ("channels", 8, "16")],
)
def test_a_vqvae_that_does_not_fit_is_refused(big, name, value, ours):
    with tiny.refused(name, ours, str(value)):
        codevar.decode(big, tiny.vqvae(**{name: value}), LABELS)


@pytest.mark.parametrize("name", ["cfg", "top_k", "top_p", "temperature"])
def test_a_sequence_of_another_length_than_the_scales_is_refused(big, small_vqvae, name):
    with tiny.refused(name, "3 values", "4 scales"):
        codevar.decode(big, small_vqvae, LABELS, Sampling(**{name: [1, 1, 1]}))


# Precisions, backends, sizes


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("stack", ["published", "modern"])
def test_half_precision_makes_images(small_vqvae, stack, precision):
    stack = codevar.stack(stack, precision)
    plan = code(tiny.var(3, dtype=stack.weights), tiny.var(2, 1, dtype=stack.weights), 2)
    images = codevar.decode(plan, small_vqvae, LABELS, stack=stack).images
    assert_images(images, side=8)


def assert_images(images, side):
    assert images.shape == (2, 3, side, side)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert (images >= 0).all()
    assert (images <= 1).all()
    assert images.std() > 0


def test_the_default_stack_follows_the_weights(small_vqvae):
    model = tiny.var(dtype=torch.bfloat16)
    tokens = codevar.decode(model, small_vqvae, LABELS).tokens
    bf16 = codevar.stack("modern", "bf16")
    assert torch.equal(tokens, codevar.decode(model, small_vqvae, LABELS, stack=bf16).tokens)


@pytest.mark.parametrize("attention", ["math", "flash"])
@pytest.mark.parametrize("stack", ["published", "modern"])
def test_attention_backends_agree(big, small, small_vqvae, stack, attention):
    plan = swap_scale(code(big, small, 2), big, 4)
    auto, chosen = (
        codevar.decode(plan, small_vqvae, LABELS, GREEDY, stack=codevar.stack(stack, "float32", a))
        for a in ("auto", attention)
    )
    assert torch.equal(auto.tokens, chosen.tokens)


@pytest.mark.parametrize(
    ("attention", "math", "flash"),
    [("auto", True, True), ("math", True, False), ("flash", False, True)],
)
def test_the_attention_backend_is_that_of_the_stack(small_vqvae, attention, math, flash):
    model, enabled = tiny.var(), set()
    sdp = torch.backends.cuda
    model.blocks[0].register_forward_hook(
        lambda *_: enabled.add((sdp.math_sdp_enabled(), sdp.flash_sdp_enabled()))
    )
    stack = codevar.stack("modern", attention=attention)
    generate(original(model), small_vqvae, LABELS, stack=stack)
    assert enabled == {(math, flash)}


@pytest.mark.parametrize("shared_adaln", [False, True])
@pytest.mark.parametrize("patch_sizes", [(1, 2, 3, 4), (1, 3, 8), (2, 4), (4,)])
def test_other_pyramids_decode(patch_sizes, shared_adaln):
    model = tiny.var(patch_sizes=patch_sizes, shared_adaln=shared_adaln)
    result = codevar.decode(model, tiny.vqvae(patch_sizes), LABELS)
    assert result.tokens.shape == (2, sum(p * p for p in patch_sizes))
    assert_images(result.images, side=2 * patch_sizes[-1])


@pytest.mark.parametrize(
    "sizes",
    [
        {"depth": 1},
        {"depth": 5, "width": 32, "heads": 2},
        {"depth": 2, "width": 96, "heads": 3},
        {"depth": 2, "ffn_ratio": 2.0},
        {"depth": 2, "l2_norm": False},
    ],
)
def test_any_depth_and_width_decodes_alike_on_both_stacks(small_vqvae, sizes):
    model = tiny.var(**({"width": 64, "heads": 1} | sizes))
    published, modern = (
        codevar.decode(model, small_vqvae, LABELS, GREEDY, stack=codevar.stack(name))
        for name in ("published", "modern")
    )
    assert torch.equal(published.tokens, modern.tokens)
    assert_images(modern.images, side=8)


class Operators(TorchDispatchMode):
    """Notes what is called, down to what Python numbers become tensors by."""

    def __init__(self):
        super().__init__()
        self.called = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.called.add(operator.overloadpacket)
        return operator(*args, **(kwargs or {}))


def test_levels_are_filled_on_the_device_and_not_copied_to_it():
    """A copy of a list of Python's would wait for all that a GPU has queued."""
    with Operators() as operators:
        made = Scales().level_of_token("meta")
    assert made.shape == (680,)
    assert operators.called == {torch.ops.aten.full, torch.ops.aten.cat}
