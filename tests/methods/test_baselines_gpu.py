"""What only a CUDA device can show of the baselines: `make test-gpu`."""

from __future__ import annotations

import copy
import os
from itertools import product

import pytest
import torch

from bench.measure import runner
from bench.methods.steps import generate
from bench.predict.prediction import memory_differs, predict
from bench.study.cases import make_case
from bench.study.records import MemoryUse
from tests.methods import small_baselines as small

pytestmark = pytest.mark.gpu
computes = pytest.mark.skipif("FAKE_CUDA" in os.environ, reason="kernels do nothing here")


@pytest.fixture(scope="module", autouse=True)
def exact_products():
    if not torch.cuda.is_available():
        pytest.fail("no CUDA device here")
    torch.backends.cuda.matmul.allow_tf32 = False


@computes
def test_greedy_tokens_are_the_published_ones():
    net = copy.deepcopy(small.model(small.LLAMAGEN)).cuda()
    decode = small.case(small.LLAMAGEN, cfg=2.0, top_k=1).decoding(net)
    labels = small.REFERENCE["llamagen_labels"].tolist()
    made = generate(decode, labels, 0, small.MODERN)
    assert (made.tokens.cpu() == small.reference("llamagen_greedy_cfg2")).all()


@computes
def test_a_compiled_token_gives_the_logits_of_a_cpu():
    here = small.logits_of(small.method(small.AIM), [3, 7])
    net = copy.deepcopy(small.model(small.AIM)).cuda()
    there = small.logits_of(small.case(small.AIM).decoding(net), [3, 7])
    torch.testing.assert_close(there.cpu(), here, atol=1e-3, rtol=0)


@computes
@pytest.mark.parametrize("config", [small.LLAMAGEN, small.AIM], ids=["llamagen", "aim"])
def test_a_step_as_one_cuda_graph_gives_the_same_tokens(config):
    net = copy.deepcopy(small.model(config)).cuda()
    plain, fast = (small.case(config, top_k=1).decoding(net) for _ in range(2))
    fast.compile()
    wanted = generate(plain, [3, 7], 0, small.MODERN).tokens
    for _ in range(3):  # warm-up, capture, replay; each with a cache of its own
        assert torch.equal(generate(fast, [3, 7], 0, small.MODERN).tokens, wanted)


SMALL = {
    "dit": {"size": "S/2"},
    "mar": {"denoising_steps": 4},
    "llamagen": {"size": "B", "resolution": 256},
    "aim": {"size": "B"},
}


@pytest.mark.parametrize(
    ("method", "stack"),
    [*product(SMALL, ["published", "modern"]), *product(["llamagen", "aim"], ["compiled"])],
)
def test_memory_is_as_predicted(method, stack, job, tmp_path):
    values = {"method": method, "stack": stack, "max_steps": 3, "batch_size": 8, "device": "cuda"}
    case = make_case(values | SMALL[method])
    # In a process of its own: CUDA graphs of the tests before leave memory without an owner.
    result = runner.run_in_process(job | {"case": case.model_dump()}, 300, tmp_path / "log")
    assert result["status"] == "ok", result.get("reason")
    used = MemoryUse.model_validate(result["memory"])
    assert memory_differs(used, predict(case).figures(), case.device) == []
