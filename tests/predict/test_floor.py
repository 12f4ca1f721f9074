"""Floors and ceilings: the bytes are those of the shapes, the bounds what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.measure import find_ceilings
from bench.methods.meta import meta_plan
from bench.predict.ceilings import Ceilings, Product
from bench.predict.floor import bytes_moved, compute_bound_from, floor_of, launches, operators
from bench.predict.prediction import predict
from bench.study.cases import make_case
from codevar.cache import StaticCache
from codevar.stacks import STACKS, stack

BOTH = {"precision": "fp16", "stack": "published"}


def invented(flop_per_s: float = 100e12, bytes_per_s: float = 500e9, **others) -> Ceilings:
    kinds = ("float32", "bf16", "fp16")
    products = [Product(precision=k, M=1, K=1, N=1, flop_per_s=flop_per_s) for k in kinds]
    rates = {"copy_bytes_per_s": bytes_per_s, "read_bytes_per_s": bytes_per_s / 2}
    known = {"device": "cpu", "threads": 1, "launch_s": 1e-6}
    return Ceilings(**{"products": products, **rates, **known, **others})


def moved(batch_size: int, **keys) -> list[int]:
    case = make_case({"depth": 16, "precision": "float32", **keys})
    run = stack(case.stack, case.precision)
    return list(bytes_moved(meta_plan(case), batch_size, run))


def weights(**keys) -> list[int]:
    """By scale, what does not grow with the batch."""
    return [2 * one - two for one, two in zip(moved(1, **keys), moved(2, **keys), strict=True)]


def test_weights_are_read_once_a_pass():
    C, V = 1024, 4096
    attention_and_feed_forward = 12 * C * C + 16 + (C + C + C) + (4 * C + C)
    adaln = 6 * C * C + 6 * C
    head = V * C + V + 2 * C * C + 2 * C
    every_pass = 16 * attention_and_feed_forward + head
    assert weights(method="var", stack="published") == [4 * (every_pass + 16 * adaln)] * 10
    modern = weights(method="var", stack="modern")
    assert modern == [4 * (every_pass + 16 * adaln)] + [4 * every_pass] * 9


def test_a_subnet_reads_the_weights_of_its_layers():
    full = weights(method="var", stack="published")[9]
    half = weights(method="variant", subnet_depth=8, stack="published")
    assert half[5] == full
    assert full / 2 < half[6] < 0.53 * full


@pytest.mark.parametrize("method", [{"method": "var"}, {"method": "variant", "subnet_depth": 2}])
def test_each_cached_token_is_written_once_and_read_by_later_passes_of_its_layer(method):
    case = make_case({"depth": 16, "precision": "fp16", "stack": "published", **method})
    plan = meta_plan(case)
    per_image = sum(moved(2, **BOTH, **method)) - sum(moved(1, **BOTH, **method))
    per_token = 2 * 1024 * (4 + 2)  # float32 keys, fp16 values
    seen = [
        sum(plan.scales.tokens[j] for j in range(k + 1) if layer in plan.steps[j].layers)
        for k, step in enumerate(plan.steps)
        for layer in step.layers
    ]
    logits = sum(2 * 2 * tokens * 4096 * 4 for tokens in plan.scales.tokens)
    assert per_image == per_token * sum(seen) + logits


def test_the_floor_is_the_larger_of_compute_and_memory():
    case = make_case({"method": "var", "depth": 16, "precision": "fp16", "batch_size": 4})
    found = floor_of(case, invented())
    assert found.flops == predict(case).flops
    assert sum(found.compute_s) == pytest.approx(sum(predict(case).flops) / 100e12)
    assert found.memory_s == tuple(b / 500e9 for b in found.bytes)  # the faster of the two
    assert found.seconds == tuple(map(max, found.compute_s, found.memory_s))


def test_under_autocast_the_head_runs_at_the_rate_of_float32():
    case = make_case({"method": "var", "depth": 16, "precision": "fp16", "stack": "published"})
    slow = [
        Product(precision=k, M=1, K=1, N=1, flop_per_s=r)
        for k, r in (("fp16", 100e12), ("float32", 10e12))
    ]
    more = sum(floor_of(case, invented(products=slow)).compute_s)
    C, V, L = 1024, 4096, 680
    head = 2 * (2 * L * C * V + 10 * 4 * C * C)  # guidance: two rows
    rest = sum(predict(case).flops) - head
    assert more == pytest.approx(rest / 100e12 + head / 10e12)


@pytest.mark.parametrize("method", [{"method": "var"}, {"method": "code", "draft_steps": 6}])
@pytest.mark.parametrize("name", ["published", "modern"])
def test_compute_bound_from_is_the_first_batch_that_is(method, name):
    case = make_case({"stack": name, "precision": "fp16", **method})
    ceiling = invented(flop_per_s=200e12, bytes_per_s=800e9)
    first = compute_bound_from(case, ceiling)
    assert first is not None
    assert first > 1
    at = [case.model_copy(update={"batch_size": b}) for b in (first - 1, first)]
    assert [floor_of(c, ceiling).compute_bound for c in at] == [False, True]


def test_a_static_cache_writes_nothing_that_is_not_read_again():
    """The keys and values of a layer's last pass, 256 of 680 tokens."""
    plan = meta_plan(make_case({"method": "var", "depth": 16}))
    growing = bytes_moved(plan, 64, stack("published", "float32"))
    static = bytes_moved(plan, 64, replace(stack("published", "float32"), cache=StaticCache))
    assert static[:-1] == growing[:-1]
    assert growing[-1] - static[-1] == 2 * 64 * 1024 * 16 * (4 + 4) * 256


def test_where_bytes_outgrow_flops_no_batch_is_compute_bound():
    assert compute_bound_from(make_case({"method": "var"}), invented(bytes_per_s=1e9)) is None


def test_operators_follow_the_layers_that_run():
    whole, half = (
        operators(make_case({"depth": 8, "precision": "float32", "stack": "modern", **method}))
        for method in ({"method": "var"}, {"method": "variant", "subnet_depth": 4})
    )
    assert len(whole) == 10
    assert whole[:6] == half[:6]
    assert 0.5 * whole[8] < half[8] < 0.7 * whole[8]  # sampling and quantiser stay
    assert whole[8] > 8 * 10


def test_launches_are_operators_or_graphs():
    """`compiled` has a kernel for each chain between products, and on a GPU a graph a scale."""
    case = {"method": "var", "depth": 8, "precision": "bf16"}
    published, modern, compiled = (
        sum(operators(make_case(case | {"stack": name, "device": "cpu"}))) for name in STACKS
    )
    assert published > modern > 1.8 * compiled
    for name, wanted in (("modern", modern), ("compiled", 10)):
        assert launches(make_case(case | {"stack": name, "device": "cuda"})) == wanted
    assert launches(make_case(case | {"stack": "compiled", "device": "cpu"})) == compiled


def test_ceilings_of_this_machine(monkeypatch):
    monkeypatch.setattr(find_ceilings, "FIGURE_S", 0)
    monkeypatch.setattr(find_ceilings, "BLOCK_S", 0.001)
    monkeypatch.setattr(find_ceilings, "ROWS", {"cpu": (64,)})
    monkeypatch.setattr(find_ceilings, "SQUARE", {"cpu": 128})
    monkeypatch.setattr(find_ceilings, "GIB", 2**24)
    found = find_ceilings.measure_ceilings(torch.device("cpu"))
    assert {p.precision for p in found.products} == {"float32", "bf16"}
    assert found.best("float32").flop_per_s == found.rate(torch.float32) > 1e8
    assert found.bandwidth == max(found.copy_bytes_per_s, found.read_bytes_per_s) > 1e7
    assert 1e-8 < found.launch_s < 1e-3
    assert found.measured_at
    assert Ceilings.model_validate_json(found.model_dump_json()) == found


def test_tf32_is_allowed_only_inside():
    before = torch.get_float32_matmul_precision()
    with find_ceilings.allow_tf32(True):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
