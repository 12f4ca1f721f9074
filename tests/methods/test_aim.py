"""AiM: its mixer, token by token, is that of transformers, and its state is kept in place."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from bench.methods.baselines.aim import network as aim
from bench.methods.steps import generate
from codevar.checkpoints import seeded_tensor
from codevar.stacks import stack
from tests.methods import small_baselines as small


def mixer() -> aim.Mamba2:
    net = aim.Mamba2(small.AIM)
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    weights = {n: torch.from_numpy(seeded_tensor(n, shape, 404)) for n, shape in shapes.items()}
    net.load_state_dict(weights)
    return net.requires_grad_(False)


def test_the_mixer_is_that_of_transformers():
    """`mamba2.npz`: input and output of transformers 5.23's Mamba2Mixer with these weights, all
    tokens at once; here one after the other."""
    known = np.load(small.DATA / "mamba2.npz")
    config, x_BLC = small.AIM, torch.from_numpy(known["input"])
    channels = config.inner + 2 * config.state
    memory = aim.Memory(
        torch.zeros(len(x_BLC), channels, 3), torch.zeros(len(x_BLC), config.inner, config.state)
    )
    net = mixer()
    out = torch.cat([net(x_B1C, memory) for x_B1C in x_BLC.split(1, dim=1)], dim=1)
    np.testing.assert_allclose(out.numpy(), known["output"], atol=1e-4)


def test_a_token_can_be_compiled_whole():
    """As it is for a GPU, but for the backend: no break in the graph, and the same in place."""
    net, config = mixer(), small.AIM
    weights = net.conv1d.weight, net.conv1d.bias, net.dt_bias, net.A_log, net.D
    compiled = torch.compile(aim.one_token, dynamic=False, fullgraph=True, backend="aot_eager")
    channels = config.inner + 2 * config.state
    projected = torch.randn(2, 3, net.in_proj.out_features)
    memories = [(torch.zeros(3, channels, 3), torch.zeros(3, config.inner, 16)) for _ in range(2)]
    for one in projected:
        expected = aim.one_token(one, *memories[0], *weights)
        torch.testing.assert_close(compiled(one, *memories[1], *weights), expected)
    for plain, also in zip(*memories, strict=True):
        assert plain.any()
        torch.testing.assert_close(also, plain)


def test_its_state_does_not_grow():
    decode = small.method(small.AIM)
    made = generate(decode, [3], 0, small.MODERN)
    config = small.AIM
    layer = config.inner * config.state + (config.inner + 2 * config.state) * 3
    assert set(made.kv_cache_bytes) == {2 * config.depth * layer * 4}


def test_layers_take_the_groups_in_turn():
    net = small.model(small.AIM)
    groups, _ = net.modulation(net.backbone.cls_embed(torch.tensor([3])))
    assert len(groups) == 4
    assert all((a != b).any() for a, b in pairwise(groups))


@pytest.mark.parametrize("name", ["published", "modern"])
def test_half_precision_keeps_the_state_as_its_weights(name):
    run = stack(name, "bf16")
    net = aim.AiM(small.AIM).to(run.weights)
    net.load_state_dict(small.model(small.AIM).state_dict())
    seen = []

    class Watched(aim.NextToken):
        def step(self, state, i):
            super().step(state, i)
            seen.append({memory.state.dtype for memory in state.memories})

    made = generate(Watched(net), [3], 0, run, chosen=[0, 1])
    assert seen == [{run.weights}] * 2
    assert made.kv_cache_bytes[0] == aim.NextToken(net).cache_bytes(1, run)
