"""Improved precision and recall (Kynkäänniemi et al., 2019).

Distances are in float32; OpenAI's evaluator has float16 where they do not overflow.

Shapes: N samples, M references, D features, H halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench.metrics.frechet import origin_of
from bench.metrics.halves import Halves
from bench.metrics.metric import Estimate, Given, Metric

NEIGHBOURS = 3  # k of precision and recall
# Distances are worked on in blocks of this many: 256 MiB, of which a few are alive at a time.
BLOCK = 2**26
# Squared distances under this share of the squared norms are rounding: the images are the same.
SAME = 1e-6


@dataclass(frozen=True)
class Coverage:
    """precision: share of the samples within the references' manifold; recall: the reverse.
    The lists: of each half of the samples, against all references."""

    precision: float
    recall: float
    precision_of_halves: list[float]
    recall_of_halves: list[float]


def precision_recall(
    samples_ND: torch.Tensor,
    references_MD: torch.Tensor,
    halves: Halves | None = None,
    neighbours: int = NEIGHBOURS,
) -> Coverage:
    """Improved precision and recall (Kynkäänniemi et al., 2019): a manifold is the union of
    balls about the images, each as wide as the way to its k-th neighbour.

    In blocks of rows: of 50,000 x 10,000 x 2048 features no more than 2 GiB beside themselves.
    """
    centre_D = origin_of(references_MD)  # less is lost to rounding near the middle
    samples_ND, references_MD = (
        (x.double() - centre_D).float() for x in (samples_ND, references_MD)
    )
    radii_M = torch.cat(
        [block.kthvalue(neighbours + 1).values for block in distances(references_MD, references_MD)]
    )
    inside_N = torch.cat(
        [(block <= radii_M).any(1) for block in distances(samples_ND, references_MD)]
    )
    masks_HN = [torch.ones(len(samples_ND), dtype=torch.bool), *(halves.masks() if halves else ())]
    masks = torch.stack(masks_HN).to(samples_ND.device)
    radii_HN = _radii_within(samples_ND, masks, neighbours)
    inside_HM = torch.cat(
        [
            torch.stack([(block <= radii_N).any(1) for radii_N in radii_HN])
            for block in distances(references_MD, samples_ND)
        ],
        dim=1,
    )
    precision = [float(inside_N[mask].double().mean()) for mask in masks]
    recall = inside_HM.double().mean(1).tolist()
    return Coverage(precision[0], recall[0], precision[1:], recall[1:])


def _radii_within(
    features_ND: torch.Tensor, masks_HN: torch.Tensor, neighbours: int
) -> torch.Tensor:
    """(H, N) squared distance to the k-th neighbour among the images of each mask; -1 for images
    that are not in it, whose balls hold nothing.

    The masks are all images and halves, and of the 32 nearest images 3 are in a half but for one
    image in millions, which gets the distance of the 32nd.
    """
    several = len(masks_HN) > 1
    near = min(len(features_ND), 8 * (neighbours + 1) if several else neighbours + 1)
    found, first = [], 0
    for block in distances(features_ND, features_ND):
        nearest = block.topk(near, largest=False)
        rows = torch.arange(first, first + len(block), device=block.device)
        of_masks = []
        for mask_N in masks_HN:
            rank = mask_N[nearest.indices].cumsum(1)
            # Itself counts as its nearest: the (k + 1)-th, or the last there is.
            at = (rank < neighbours + 1).sum(1).clamp(max=near - 1)
            radius = nearest.values.gather(1, at[:, None])[:, 0]
            of_masks.append(torch.where(mask_N[rows], radius, -1))
        found.append(torch.stack(of_masks))
        first += len(block)
    return torch.cat(found, dim=1)


def distances(rows_ND: torch.Tensor, columns_MD: torch.Tensor) -> Iterator[torch.Tensor]:
    """(n, M) squared distances, by blocks of rows."""
    columns_M = columns_MD.square().sum(1)
    for part_nD in rows_ND.split(max(1, BLOCK // len(columns_MD))):
        norms_nM = part_nD.square().sum(1)[:, None] + columns_M
        block = torch.addmm(norms_nM, part_nD, columns_MD.T, alpha=-2)
        yield torch.where(block > norms_nM.mul_(SAME), block, 0)


def both(given: Given) -> Coverage:
    """Precision and recall, which come of the same distances."""
    samples_ND, references_MD = given.samples["pool"], given.references["pool"]
    return given.once("coverage", lambda: precision_recall(samples_ND, references_MD, given.halves))


Metric(
    "precision",
    "precision",
    "{:.2f}",
    330,
    lower_is_better=False,
    layer="pool",
    needs="images",
    compute=lambda given: Estimate(both(given).precision, both(given).precision_of_halves),
    column="quality_precision",  # `precision` is a number format
)
Metric(
    "recall",
    "recall",
    "{:.2f}",
    340,
    lower_is_better=False,
    layer="pool",
    needs="images",
    compute=lambda given: Estimate(both(given).recall, both(given).recall_of_halves),
)
