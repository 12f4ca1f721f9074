"""The baselines' `compiled` stack: what a step repeats is compiled, to the same result, by so few
graphs that none falls back to eager."""

from __future__ import annotations

import copy

import pytest
import small_baselines as small
import torch

from bench.baselines.method import generate
from codevar.compiled import cannot_compile

pytestmark = pytest.mark.skipif(
    bool(cannot_compile(torch.device("cpu"))), reason="torch.compile does not work here"
)
# Of LlamaGen and AiM the step; of DiT a block; of MAR a block of the decoder and the perceptron.
GRAPHS = {small.DIT: 1, small.MAR: 2, small.LLAMAGEN: 1, small.AIM: 1}


@pytest.mark.parametrize("config", small.ALL, ids=small.NAMES)
def test_it_makes_the_same(config):
    torch.compiler.reset()
    stats = torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    plain = small.method(config)
    wanted = generate(plain, [1, 2], 3, small.MODERN)
    fast = copy.deepcopy(plain)  # or the model that others test with would be compiled
    fast.compile()
    got = generate(fast, [1, 2], 3, small.MODERN)
    torch.testing.assert_close(got.tokens, wanted.tokens, atol=1e-3, rtol=1e-3)
    assert stats["unique_graphs"] - before == GRAPHS[config]
    with torch.compiler.set_stance("fail_on_recompile"):  # another decode, another cache
        again = generate(fast, [1, 2], 3, small.MODERN)
    assert torch.equal(again.tokens, got.tokens)
