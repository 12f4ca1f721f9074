"""Where a supernet's gradient comes from, and what both of its networks lose.

VARiant, Figures 2 (b), 2 (c) and 3 (b).  A batch trains the full network or the subnet, so that a
training's own loss is of whichever was drawn.  A measurement takes both, on the batch of the step
and before its update, and splits Eq. 4 by zone: the bridge zone (scales 1..N), which all layers
run in both networks, and the flexible zone (N+1..K) of either.  Each of the three losses is
a sum over its zone's tokens divided by the number of all tokens, so that bridge + flexible is the
loss of a network.

Of each loss's gradient the norm over the blocks' own parameters is kept, apart for the shared
layers (those of the subnet) and the full-only ones.  Embeddings, head and a modulation that all
layers share belong to neither.

The paper prints no number for Figure 3 (b) and says neither norm nor parameters nor how a share is
taken over the draws.  Here it is of the squared norm, in the mean over the draw (`shares`).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from codevar.train.parallel import gather_full

LAYERS = ("shared", "full_only")
PROBABILITY = "subnet_probability"  #: of the step's draw, in the same line of the metrics


@dataclass(frozen=True)
class Part:
    """One zone's loss in one network.

    name: bridge, flexible_full or flexible_subnet.  scales: of the zone, 0-based.
    subnet: its layers and N, as `Prediction` takes it; None is the full network.
    """

    name: str
    scales: range
    subnet: tuple[tuple[int, ...], int] | None


def parts(K: int, bridge: int, layers: tuple[int, ...]) -> list[Part]:
    """The losses of a measurement; a zone without scales has none."""
    flexible = range(bridge, K)
    found = [
        Part("bridge", range(bridge), None),
        Part("flexible_full", flexible, None),
        Part("flexible_subnet", flexible, (layers, bridge)),
    ]
    return [part for part in found if part.scales]


def norms(blocks: nn.ModuleList, subnet: Collection[int]) -> dict[str, torch.Tensor]:
    """Norm of the gradient that the blocks' parameters hold now, by kind of layer."""
    held: dict[str, list[torch.Tensor]] = {name: [] for name in LAYERS}
    for layer, block in enumerate(blocks):
        kind = "shared" if layer in subnet else "full_only"
        held[kind] += [p.grad.float() for p in block.parameters() if p.grad is not None]
    return {kind: gather_full(nn.utils.get_total_norm(grads)) for kind, grads in held.items()}


def measure(
    all_parts: list[Part],
    backward: Callable[[Part], torch.Tensor],
    blocks: nn.ModuleList,
    subnet: Collection[int],
    loss_scale: float = 1.0,
) -> dict[str, torch.Tensor]:
    """A measurement, as the metrics file has it: `loss_full`, `loss_subnet` (nats a token) and
    `gradient_shared_bridge`, `gradient_full_only_flexible_subnet`, ... (norms).

    backward: runs a part forward and backward from no gradient at all, and gives its loss.
    loss_scale: what it multiplied the loss by before going backward.
    """
    device = next(blocks.parameters()).device
    found = {f"loss_{network}": torch.zeros((), device=device) for network in ("full", "subnet")}
    for part in all_parts:
        loss = backward(part)
        for network in ("full", "subnet"):
            if part.name in ("bridge", f"flexible_{network}"):
                found[f"loss_{network}"] += loss.detach()
        for kind, norm in norms(blocks, subnet).items():
            found[f"gradient_{kind}_{part.name}"] = norm.to(device) / loss_scale
    return found


def squares(row: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Squared norm by (layers, zone), the mean over the draw of the network.

    row: a line of the metrics with a measurement.
    """

    def square(kind: str, part: str) -> float:
        return row.get(f"gradient_{kind}_{part}", 0.0) ** 2

    p = row[PROBABILITY]
    found = {}
    for kind in LAYERS:
        found[kind, "bridge"] = square(kind, "bridge")
        full, subnet = square(kind, "flexible_full"), square(kind, "flexible_subnet")
        found[kind, "flexible"] = (1 - p) * full + p * subnet
    return found


def shares(row: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Share of (layers, zone) in the squared norm of the blocks' gradient; together 1."""
    found = squares(row)
    return {cell: square / sum(found.values()) for cell, square in found.items()}
