"""Predictions from shapes, against the papers' figures and against what really runs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.methods.meta import meta_plan, vqvae_config
from bench.predict.prediction import flops, kv_cache_bytes, params_bytes, predict
from bench.study.cases import make_case
from bench.study.units import MIB
from codevar import Sampling, plan, stack
from codevar.decoding import generate


@pytest.mark.parametrize(
    ("keys", "mib"),
    [
        ({"method": "var", "batch_size": 64}, 28687.5),
        ({"method": "code", "draft_steps": 6, "batch_size": 64}, 8160.0),
        ({"method": "variant", "subnet_depth": 2, "batch_size": 64}, 5495.6),
        ({"method": "variant", "subnet_depth": 4, "batch_size": 64}, 7152.2),
        ({"method": "variant", "subnet_depth": 8, "batch_size": 64}, 10465.3),
        ({"method": "variant", "subnet_depth": 16, "batch_size": 64}, 17091.6),
        ({"method": "variant", "subnet_depth": 8, "batch_size": 128}, 20930.6),
        ({"method": "variant", "subnet_depth": 2, "batch_size": 128}, 10991.2),
        ({"method": "variant", "subnet_depth": 2, "batch_size": 256}, 21982.5),
        ({"method": "variant", "subnet_depth": 16, "bridge_scales": 7, "batch_size": 64}, 18351.6),
    ],
)
def test_kv_cache_is_the_papers_to_a_tenth_of_a_mib(keys, mib):
    assert max(predict(make_case(keys)).kv_cache_bytes) / MIB == pytest.approx(mib, abs=0.051)


@pytest.mark.parametrize(("depths", "mib"), [((30,), 8084), ((30, 16), 9268)])
def test_params_are_the_papers(depths, mib):
    method = {"method": "var"} if len(depths) == 1 else {"method": "code", "draft_steps": 6}
    assert predict(make_case(method)).params_bytes / MIB == pytest.approx(mib, abs=2)


def plans(drafter, refiner):
    return {
        "var": plan.original(drafter),
        "code": plan.code(drafter, refiner, 6),
        "variant": plan.variant(drafter, depth=2, bridge_scales=6),
        "early subnet": plan.subnet(drafter, depth=2, scales=range(1, 4)),
        "swap": plan.swap_scale(drafter, refiner, scale=5),
        "hybrid": plan.code(refiner, plan.subnet(drafter, 2, range(5, 11)), 4),
    }


@pytest.mark.parametrize("name", ["published", "modern"])
@pytest.mark.parametrize("method", ["var", "code", "variant", "early subnet", "swap", "hybrid"])
def test_cache_and_flops_are_those_of_the_decode(drafter, refiner, vqvae, method, name):
    decoded, how = plans(drafter, refiner)[method], stack(name, attention="math")
    totals = []
    counter = FlopCounterMode(display=False)

    def on_scale(k):
        counts = counter.get_flop_counts().get("Global", {})
        totals.append(sum(n for op, n in counts.items() if "convolution" not in str(op)))

    with counter:
        made = generate(decoded, vqvae, [1, 2, 3], Sampling(), stack=how, on_scale=on_scale)
    measured = [b - a for a, b in itertools.pairwise(totals)]
    assert list(flops(decoded, 3, how)) == measured
    assert kv_cache_bytes(decoded, 3, how) == made.kv_cache_bytes


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_params_are_those_that_load(precision):
    case = make_case({"method": "var", "depth": 2, "stack": "modern", "precision": precision})
    import codevar

    how = stack("modern", precision)
    models = [
        codevar.load_var("seeded:var_d2", dtype=how.weights, device="cpu"),
        codevar.load_vqvae("seeded:vae_ch160v4096z32", dtype=how.weights, device="cpu"),
    ]
    loaded = sum(p.nbytes for model in models for p in model.parameters())
    assert params_bytes(meta_plan(case), vqvae_config(case), how) == loaded
    assert predict(case).params == sum(p.numel() for p in models[0].parameters())


def test_shared_adaln_counts_its_condition_once(vqvae, meta):
    import codevar
    from tests.conftest import reference_state_dict

    var = codevar.load_var(reference_state_dict(*meta["shared_adaln"]), device="cpu")
    counter, how = FlopCounterMode(display=False), stack("published", attention="math")
    with counter, torch.no_grad():
        generate(plan.original(var), vqvae, [1], Sampling(), stack=how)
    counts = counter.get_flop_counts()["Global"]
    measured = sum(n for op, n in counts.items() if "convolution" not in str(op))
    assert sum(flops(plan.original(var), 1, how)) == measured
