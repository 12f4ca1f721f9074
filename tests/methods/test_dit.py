"""DiT against the outputs of its published code."""

from __future__ import annotations

import torch

from bench.methods.baselines.dit import network as dit
from bench.methods.steps import generate
from tests.methods import small_baselines as small


def test_noise_and_variance_are_the_published_ones():
    net, x, t, y = small.model(small.DIT), *map(small.reference, ("dit_x", "dit_t", "dit_y"))
    torch.testing.assert_close(
        net(x, t, net.y_embedder(y)), small.reference("dit_out"), atol=1e-3, rtol=0
    )


def test_guidance_is_the_published_one():
    net, x, t = small.model(small.DIT), *map(small.reference, ("dit_x", "dit_t"))
    out = net.guided(x[:1], t[:1], net.y_embedder(torch.tensor([3, 10])), 4.0)
    torch.testing.assert_close(out, small.reference("dit_out_cfg4")[:1], atol=1e-3, rtol=0)


class Knowing(dit.DiT):
    """Knows of a single picture, and so predicts its noise exactly."""

    def guided(self, x, t, y, cfg):
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[int(t)]
        noise = (x - kept.sqrt() * self.picture) / (1 - kept).sqrt()
        return torch.cat((noise, noise), dim=1).float()


def test_steps_lead_to_what_the_model_knows():
    net = Knowing(small.DIT)
    net.picture = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    made = generate(dit.DDIM(net, steps=50), [1, 2], 0, small.MODERN)
    torch.testing.assert_close(made.tokens, net.picture.expand(2, -1, -1, -1), atol=1e-3, rtol=0)


def test_fifty_steps_are_the_published_ones():
    assert small.method(small.DIT, sampling_steps=50).timesteps == list(range(980, -1, -20))


def test_rows_and_columns_are_told_apart():
    grid = dit.sines_2d(8, 3)[0]
    assert grid.shape == (9, 8)
    assert (grid[0:3, 4:] == grid[0, 4:]).all()  # a row: the second half is its own
    assert (grid[0::3, :4] == grid[0, :4]).all()  # a column: the first
    assert len({tuple(cell) for cell in grid.round(4)}) == 9
