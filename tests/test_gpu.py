"""What only a CUDA device can show: `make test-gpu`.  tests/fake_cuda runs all but the kernels."""

from __future__ import annotations

import copy
import os
import pickle
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import codevar
from bench.measure import child, find_ceilings, memory, runner, timing, tracing
from bench.measure.card import Card
from bench.measure.machine import CHILD_ENVIRON
from bench.predict.footprint import of_plan
from bench.predict.prediction import kv_cache_bytes, params_bytes
from bench.study.cases import make_case
from codevar import graphs
from codevar.compiled import cannot_compile
from codevar.decoding import generate
from codevar.plan import (
    code,
    evict_cache,
    original,
    prune_tokens,
    quantise_cache,
    unguided,
    variant,
)
from tests.conftest import reference_state_dict

pytestmark = pytest.mark.gpu
FAKE = "FAKE_CUDA" in os.environ  # tests/fake_cuda: all but the kernels
computes = pytest.mark.skipif(FAKE, reason="kernels do nothing here")
is_a_card = pytest.mark.skipif(FAKE, reason="no NVML, no CUPTI")
os.environ |= CHILD_ENVIRON
GREEDY = codevar.Sampling(cfg=3.0, top_k=1, top_p=0)
CUDA = torch.device("cuda")


@pytest.fixture(scope="module", autouse=True)
def exact_products():
    if not torch.cuda.is_available():
        pytest.fail("no CUDA device here")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="module")
def models(meta):
    names = ("vae", "drafter", "refiner")
    load = (codevar.load_vqvae, codevar.load_var, codevar.load_var)
    return [
        f(reference_state_dict(*meta[n]), device="cuda") for f, n in zip(load, names, strict=True)
    ]


@computes
@pytest.mark.parametrize("name", ["published", "modern"])
@pytest.mark.parametrize("N", [1, 6, 9])
def test_greedy_tokens_are_the_references_but_for_ties(models, cases, labels, name, N):
    vqvae, drafter, refiner = models
    plan = code(drafter, refiner, N)
    result = codevar.decode(plan, vqvae, labels, GREEDY, stack=codevar.stack(name))
    differ = result.tokens.cpu().numpy() != cases[f"code_greedy_tokens_N{N}"]
    tied = np.cumsum(cases[f"code_greedy_margins_N{N}"] < 1e-2, axis=1) > 0
    assert not (differ & ~tied).any()


@pytest.fixture(scope="module")
def ready(models):
    """The VQVAE, drafter and refiner made ready for `compiled`."""
    how = codevar.stack("compiled")
    assert not cannot_compile(CUDA)
    return [models[0], *(how.prepare(copy.deepcopy(model)) for model in models[1:])]


@contextmanager
def never_waiting():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@computes
def test_compiled_decodes_what_modern_does_and_never_waits(models, ready, labels):
    vqvae, *transformers = models
    run = (code(*ready[1:], 6), vqvae, labels.tolist(), GREEDY)
    wanted = codevar.decode(code(*transformers, 6), vqvae, labels, GREEDY)
    with graphs.launched():
        generate(*run, stack=codevar.stack("compiled"))
        with never_waiting():
            got = generate(*run, stack=codevar.stack("compiled"))
    assert (got.tokens == wanted.tokens).float().mean() > 0.95  # but for ties


@computes
@pytest.mark.parametrize("name", ["pruned, unguided", "observed, in 8 bits"])
def test_what_is_left_out_is_chosen_without_waiting(ready, name):
    vqvae, *transformers = ready
    run = (PLANS[name](*transformers), vqvae, [1, 2], GREEDY)
    with graphs.launched():
        generate(*run, stack=codevar.stack("compiled"))
        with never_waiting():
            generate(*run, stack=codevar.stack("compiled"))


@computes
def test_products_of_whole_numbers_are_those_of_the_cpu(models):
    """Of one row too, which cuBLAS has no product for."""
    layers = []
    for device in ("cpu", "cuda"):
        model = codevar.quantise_weights(copy.deepcopy(models[1]).to(device), "W8A8")
        layers.append(model.blocks[0].ffn.fc1)
    for rows in (1, 64):
        x = torch.randn(rows, layers[0].codes.shape[1])
        cpu, gpu = (layer(x.to(layer.codes.device)).cpu() for layer in layers)
        assert torch.allclose(cpu, gpu, rtol=1e-4, atol=1e-4)


PLANS = {
    "var": lambda drafter, refiner: original(drafter),
    "code": lambda drafter, refiner: code(drafter, refiner, 6),
    "variant": lambda drafter, refiner: variant(drafter, 2, 6),
    "pruned, unguided": lambda drafter, refiner: unguided(
        prune_tokens(drafter, {9: 0.4, 10: 0.5}, restore_from=8), [9, 10]
    ),
    "observed, in 8 bits": lambda drafter, refiner: quantise_cache(evict_cache(drafter, 64), 8),
}


@computes
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("seeds", [[1, 2, 3, 4], [[5, 6], [7, 8], [9, 5], [6, 7]]])
def test_graphs_make_what_launched_kernels_do(ready, name, seeds):
    """To the bit, for labels and seeds that were not captured, also after another batch size."""
    vqvae, *transformers = ready
    plan, how, made = PLANS[name](*transformers), codevar.stack("compiled"), []
    for labels, seed in zip([[1, 2], [3, 4], [5, 6], [0, 9]], seeds, strict=True):
        made.append(generate(plan, vqvae, labels, seed=seed, stack=how))
        generate(plan, vqvae, [1, 2, 3], seed=0, stack=how)
    assert len(graphs.known_of(plan)) >= 2
    assert all(len(known.graphs.graphs) == 10 for known in graphs.known_of(plan))
    for labels, seed, got in zip([[1, 2], [3, 4], [5, 6], [0, 9]], seeds, made, strict=True):
        with graphs.launched():
            wanted = generate(plan, vqvae, labels, seed=seed, stack=how)
        assert torch.equal(got.tokens, wanted.tokens)
        assert torch.equal(got.f_hat, wanted.f_hat)


def test_a_replay_never_waits_and_is_timed_by_scale(ready):
    plan, how = original(ready[1]), codevar.stack("compiled")

    def decode(on_scale):
        return generate(plan, ready[0], [1] * 4, stack=how, on_scale=on_scale)

    for _ in range(2):
        decode(lambda k: None)
    with never_waiting():
        decode(lambda k: None)
    by_scale = timing.time_by_scale(decode, CUDA)
    assert len(by_scale) == 10
    assert all(seconds > 0 for seconds in by_scale)
    (captured,) = [k.graphs for k in graphs.known_of(plan) if len(k.graphs.labels_2B) == 8]
    assert captured.seconds > 0
    assert captured.pool_bytes >= max(decode(lambda k: None).kv_cache_bytes)


def test_memory_that_runs_out_in_a_capture_costs_the_graphs_alone(ready, monkeypatch, caplog):
    vqvae, drafter, _ = ready
    plan, how, codes = original(drafter), codevar.stack("compiled"), type(vqvae.quantize).codes

    def greedy(quantizer, tokens_Bl):
        if torch.cuda.is_current_stream_capturing() and tokens_Bl.shape[1] > 9:
            torch.empty(1 << 50, dtype=torch.uint8, device=CUDA)
        return codes(quantizer, tokens_Bl)

    monkeypatch.setattr(type(vqvae.quantize), "codes", greedy)
    made = [generate(plan, vqvae, [1] * 5, seed=1, stack=how) for _ in range(3)]
    with graphs.launched():
        wanted = generate(plan, vqvae, [1] * 5, seed=1, stack=how)
    assert all(torch.equal(got.tokens, wanted.tokens) for got in made)
    (told,) = [r.getMessage() for r in caplog.records if r.name == graphs.__name__]
    assert "launched one by one" in told


@pytest.mark.parametrize("name", ["published", "modern"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_memory_is_what_shapes_predict(meta, name, precision):
    images = 64  # of few, attention by tiles splits keys among the GPU's processors, each with sums
    how = codevar.stack(name, precision)
    options = {"device": "cuda", "dtype": how.weights}
    vqvae = codevar.load_vqvae(reference_state_dict(*meta["vae"]), **options)
    drafter, refiner = (
        codevar.load_var(reference_state_dict(*meta[n]), **options) for n in ("drafter", "refiner")
    )
    plan = code(drafter, refiner, 6)

    def decode(on_scale):
        return generate(plan, vqvae, [1] * images, stack=how, on_scale=on_scale)

    decode(lambda k: None)  # cuBLAS takes its workspace
    used, _ = memory.measure_memory(decode, [drafter, refiner, vqvae], CUDA)
    assert used.kv_cache_by_scale_mib == [b / 2**20 for b in kv_cache_bytes(plan, images, how)]
    parts = used.params_mib + used.kv_cache_mib + used.running_mib
    assert used.total_mib == pytest.approx(parts)
    assert params_bytes(plan, vqvae.config, how) > 0
    assert used.accounted, used.unaccounted_mib
    assert used.workspace_mib > 0
    assert used.reserved_mib >= used.total_mib
    with torch.device("meta"):
        models = [codevar.VAR(model.config).to(how.weights) for model in (drafter, refiner)]
    lines = of_plan(code(*models, 6), how, codevar.Sampling(), "cuda")
    running = max(lines.peak_bytes(images)) / 2**20 - used.kv_cache_mib
    taken = used.running_mib - used.workspace_mib - used.rounding_mib
    assert taken == pytest.approx(running, rel=0.1, abs=1)


@is_a_card
def test_a_snapshot_and_a_trace_are_written(models, tmp_path):
    vqvae, drafter, _ = models

    def decode(on_scale):
        return generate(original(drafter), vqvae, [1], on_scale=on_scale)

    for kind in tracing.KINDS:
        tracing.save(kind, decode, CUDA, tmp_path / kind)
        assert (tmp_path / kind).stat().st_size > 0
    assert pickle.loads((tmp_path / "snapshot").read_bytes())["segments"]


@pytest.mark.parametrize("stack", ["published", "modern"])
def test_a_decode_never_waits_for_the_gpu(models, stack):
    """Or no launch would be hidden, and no graph could be captured."""
    vqvae, drafter, refiner = models
    decoded, how = code(drafter, refiner, 6), codevar.stack(stack)
    generate(decoded, vqvae, [1, 2], stack=how)
    with never_waiting():
        generate(decoded, vqvae, [1, 2], stack=how)


@computes
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_logits_are_not_rounded(models, precision):
    """The head multiplies in half precision and tells float32."""
    drafter = models[1].to(codevar.stack("modern", precision).weights)
    x_BLC = torch.randn(2, 5, drafter.config.width, device="cuda")
    with torch.no_grad():
        logits = drafter.logits(x_BLC, drafter.class_emb(torch.tensor([0, 1], device="cuda")))
        assert logits.dtype == torch.float32
        assert not torch.equal(logits, logits.to(drafter.dtype).float())
    drafter.float()


def test_scales_add_up_to_the_total(models):
    vqvae, drafter, _ = models
    plan, how = original(drafter), codevar.stack("modern")

    def decode(on_scale):
        return generate(plan, vqvae, [1] * 8, stack=how, on_scale=on_scale)

    decode(lambda k: None)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    by_scale = timing.time_by_scale(decode, CUDA)
    end.record()
    end.synchronize()
    assert len(by_scale) == 10
    assert sum(by_scale) <= start.elapsed_time(end) / 1000


@is_a_card
def test_the_card_tells_its_clocks_and_its_energy_grows(models):
    vqvae, drafter, _ = models
    found = Card(CUDA)
    assert {"driver", "power_limit_w", "max_sm_clock_mhz"} <= found.facts().keys()
    codevar.decode(original(drafter), vqvae, [1] * 8)
    state = found.state()
    assert 0 < state["sm_clock_mhz"] <= found.facts()["max_sm_clock_mhz"]
    assert 10 < state["temperature_c"] < 120
    assert state["throttle_reasons"] is not None
    assert found.throttled() is not None
    if found.facts().get("mig"):
        assert found.energy_j() is None
        return
    before, end = found.energy_j(), time.monotonic() + 1  # many steps of the counter
    while time.monotonic() < end:
        codevar.decode(original(drafter), vqvae, [1] * 8)
    joules = found.energy_j() - before
    assert 5 < joules < 5000


def test_this_process_is_not_one_of_the_others(models):
    others = Card(CUDA).others()
    assert others is None or os.getpid() not in {other["pid"] for other in others}


def job(case):
    effort = {"warmup": 1, "samples": 6, "target": 0.01, "max_seconds": 9}
    no = {"download": False, "keep": {}, "stream_seconds": 0, "paired_with": None}
    return {"case": case.model_dump(), "effort": effort, **no}


@pytest.mark.parametrize("attention", ["math", "efficient", "flash"])
def test_a_case_runs_in_its_process(tmp_path, attention):
    case = make_case({"method": "var", "depth": 2, "device": "cuda", "attention": attention})
    result = runner.run_in_process(job(case), 300, tmp_path / "log")
    assert result["status"] == "ok", result
    assert result["samples"]["latency_s"]


def test_too_large_a_batch_is_out_of_memory(tmp_path):
    values = {"method": "var", "depth": 16, "device": "cuda", "batch_size": 64}
    case = make_case(values | {"memory_limit_gib": 4})
    result = runner.run_in_process(job(case), 300, tmp_path / "log")
    assert result["status"] == "oom"
    assert child.is_oom(torch.OutOfMemoryError())


@computes
def test_ceilings_are_those_of_a_gpu(monkeypatch):
    monkeypatch.setattr(find_ceilings, "FIGURE_S", 0.2)
    found = find_ceilings.measure_ceilings(CUDA)
    rates = {product.precision for product in found.products}
    assert rates == {"float32", "tf32", "bf16", "fp16"}
    assert found.rate(torch.bfloat16) > found.rate(torch.float32)
    assert found.copy_bytes_per_s > 50e9
    assert 1e-7 < found.launch_s < 1e-4
    assert not torch.backends.cuda.matmul.allow_tf32
