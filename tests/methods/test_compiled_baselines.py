"""The baselines' `compiled` stack: what a step repeats is compiled, to the same result, by so few
graphs that none falls back to eager."""

from __future__ import annotations

import copy

import pytest
import torch

from bench.methods import loaded
from bench.methods.image_decoders import ImageDecoder
from bench.methods.steps import generate
from bench.study.cases import make_case
from codevar.compiled import cannot_compile
from tests.methods import small_baselines as small

pytestmark = pytest.mark.skipif(
    bool(cannot_compile(torch.device("cpu"))), reason="torch.compile does not work here"
)
# Of LlamaGen and AiM the step; of DiT a block; of MAR a block of the decoder and the perceptron.
LABELS = [1, 2, 3]
GRAPHS = {small.DIT: 1, small.MAR: 2, small.LLAMAGEN: 1, small.AIM: 1}


@pytest.mark.parametrize("config", small.ALL, ids=small.NAMES)
def test_it_makes_the_same(config):
    torch.compiler.reset()
    stats = torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    plain = small.method(config)
    wanted = generate(plain, LABELS, 3, small.MODERN)
    fast = copy.deepcopy(plain)  # or the model that others test with would be compiled
    fast.compile()
    got = generate(fast, LABELS, 3, small.MODERN)
    # MAR, of random weights, makes much of the last bits.
    torch.testing.assert_close(got.tokens, wanted.tokens, atol=1e-3, rtol=1e-2)
    assert stats["unique_graphs"] - before == GRAPHS[config]
    with torch.compiler.set_stance("fail_on_recompile"):  # another decode, another cache
        again = generate(fast, LABELS, 3, small.MODERN)
    assert torch.equal(again.tokens, got.tokens)


@pytest.mark.parametrize("stack", ["modern", "compiled"])
@pytest.mark.parametrize("config", small.ALL, ids=small.NAMES)
def test_the_stack_says_whether_it_is(config, stack, monkeypatch):
    method, asked = small.method(config), []
    kind = small.KINDS[type(config)]
    monkeypatch.setattr(kind, "sizes", {kind.model_fields["size"].default: config})
    monkeypatch.setattr(type(method), "compile", lambda self: asked.append(True))
    monkeypatch.setattr(ImageDecoder, "__init__", lambda self, name: torch.nn.Module.__init__(self))
    name = small.NAMES[small.ALL.index(config)]
    keys = {"method": name, "stack": stack, "precision": "float32", "device": "cpu"}
    case = make_case(keys | small.FEW.get(kind, {}))
    loaded.load(case, download=False)
    assert asked == [True] * (stack == "compiled")
