"""Precision and recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020).

A manifold is the union of balls about the images, each as wide as the way to its k-th neighbour.
Distances are in float32.  OpenAI's evaluator has float16 where they do not overflow, which moves
published precision and recall by up to 0.9 points: `as_published` rounds as it does.

Shapes: N samples, M references, D features, G groups, R replicates.
"""

import functools
import math
from collections.abc import Iterator

import torch

from bench.metrics.frechet import origin_of
from bench.metrics.jackknife import GROUPS, Groups
from bench.metrics.metric import Estimate, Given, Metric

NEIGHBOURS = 3  # k of precision and recall
DENSITY_NEIGHBOURS = 5  # of density and coverage
# Distances are worked on in blocks of this many: 256 MiB, of which a few are alive at a time.
BLOCK = 2**26
# Squared distances under this share of the squared norms are rounding: the images are the same.
SAME = 1e-6


def coverages(
    samples_ND: torch.Tensor,
    references_MD: torch.Tensor,
    groups: Groups | None = None,
    as_published: bool = False,
) -> dict[str, Estimate]:
    """precision: share of the samples within the references' manifold; recall: the reverse;
    density: balls of references that a sample is in, over k; coverage: share of the references
    whose ball holds a sample.

    In blocks of rows: of 50,000 x 10,000 x 2048 features no more than 2 GiB beside themselves.
    """
    if not as_published:
        centre_D = origin_of(references_MD)  # less is lost to rounding near the middle
        samples_ND, references_MD = (
            (x.double() - centre_D).float() for x in (samples_ND, references_MD)
        )
    apart = functools.partial(distances, as_published=as_published)
    device, kept_RG = samples_ND.device, torch.ones(1, 1, dtype=torch.bool)
    group_N = torch.zeros(len(samples_ND), dtype=torch.int64)
    if groups is not None:
        group_N = groups.group_N
        everything = torch.ones(1, GROUPS, dtype=torch.bool)
        kept_RG = torch.cat([everything, groups.kept()])
    masks_RN, group_N = kept_RG[:, group_N].to(device), group_N.to(device)

    nearest = min(DENSITY_NEIGHBOURS + 1, len(references_MD))  # each image is its own nearest
    blocks = (block.topk(nearest, largest=False).values for block in apart(*[references_MD] * 2))
    radii_Mk = torch.cat(list(blocks))
    near_M, far_M = radii_Mk[:, NEIGHBOURS], radii_Mk[:, -1]

    inside, balls = [], []
    held_GM = torch.zeros(kept_RG.shape[1], len(references_MD), device=device)
    for first, block in _numbered(apart(samples_ND, references_MD)):
        inside.append((block <= near_M).any(1))
        held = (block <= far_M).float()
        balls.append(held.sum(1) / DENSITY_NEIGHBOURS)
        held_GM.index_add_(0, group_N[first : first + len(block)], held)
    covered_RM = kept_RG.float().to(device) @ held_GM > 0

    radii_RN = _radii_within(samples_ND, masks_RN, apart(*[samples_ND] * 2))
    recalled = [
        torch.stack([(block <= radii_N).any(1) for radii_N in radii_RN])
        for block in apart(references_MD, samples_ND)
    ]
    given = Given({}, {}, {}, None, groups)
    return {
        "precision": given.share(torch.cat(inside).cpu()),
        "recall": _of_rows(torch.cat(recalled, dim=1)),
        "density": given.mean(torch.cat(balls).cpu()),
        "coverage": _of_rows(covered_RM),
    }


def _numbered(blocks: Iterator[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    """Blocks of rows with the number of their first row."""
    first = 0
    for block in blocks:
        yield first, block
        first += len(block)


def _of_rows(found_RM: torch.Tensor) -> Estimate:
    """The share of references: first of all samples, then of each replicate's."""
    value, *replicates = found_RM.double().mean(1).tolist()
    return Estimate(value, replicates)


def _radii_within(
    samples_ND: torch.Tensor, masks_RN: torch.Tensor, blocks: Iterator[torch.Tensor]
) -> torch.Tensor:
    """(R, N) squared distance to the k-th neighbour among the images of each mask; -1 for images
    that are not in it, whose balls hold nothing.  blocks: distances of the samples.

    A replicate leaves out a sixteenth of the images: of the 16 nearest it keeps 4 but for one
    image in 10^11, which gets the distance of the 16th.
    """
    near = min(len(samples_ND), 4 * (NEIGHBOURS + 1))
    found = []
    for first, block in _numbered(blocks):
        nearest = block.topk(near, largest=False)
        of_masks = []
        for mask_N in masks_RN:
            rank = mask_N[nearest.indices].cumsum(1)
            # Itself counts as its nearest: the (k + 1)-th, or the last there is.
            at = (rank < NEIGHBOURS + 1).sum(1).clamp(max=near - 1)
            radius = nearest.values.gather(1, at[:, None])[:, 0]
            of_masks.append(torch.where(mask_N[first : first + len(block)], radius, -1))
        found.append(torch.stack(of_masks))
    return torch.cat(found, dim=1)


def distances(
    rows_ND: torch.Tensor, columns_MD: torch.Tensor, as_published: bool = False
) -> Iterator[torch.Tensor]:
    """(n, M) squared distances, by blocks of rows; never negative.

    as_published: each step rounded to float16, as the evaluator has it, unless that overflows.
    """
    norms_N, norms_M = rows_ND.square().sum(1), columns_MD.square().sum(1)
    size = max(1, BLOCK // len(columns_MD))
    for part_nD, norms_n in zip(rows_ND.split(size), norms_N.split(size), strict=True):
        if as_published:
            block = _in_half(part_nD, columns_MD)
            if block.isfinite().all():
                yield block
                continue
        norms_nM = norms_n[:, None] + norms_M
        block = torch.addmm(norms_nM, part_nD, columns_MD.T, alpha=-2)
        yield torch.where(block > norms_nM.mul_(SAME), block, 0)


def _in_half(rows_nD: torch.Tensor, columns_MD: torch.Tensor) -> torch.Tensor:
    def half(x: torch.Tensor) -> torch.Tensor:
        return x.half().float()

    rows_nD, columns_MD = half(rows_nD), half(columns_MD)
    norms_n, norms_M = (half(half(x.square()).sum(1)) for x in (rows_nD, columns_MD))
    block_nM = half(norms_n[:, None] - half(2 * half(rows_nD @ columns_MD.T)))
    return half(block_nM + norms_M).clamp(min=0)


def estimate(name: str, given: Given) -> Estimate:
    """All four come of the same distances."""
    samples_ND, references_MD = given.samples["pool"], given.references["pool"]
    return given.once(
        "coverages",
        lambda: coverages(samples_ND, references_MD, given.groups, given.as_published),
    )[name]


for name, order, column in (
    ("precision", 330, "quality_precision"),  # `precision` is a number format
    ("recall", 340, ""),
    ("density", 342, ""),
    ("coverage", 344, ""),
):
    Metric(
        name,
        name,
        "{:.2f}",
        order,
        lower_is_better=False,
        high=math.inf if name == "density" else 1.0,
        layer="pool",
        needs="images",
        compute=functools.partial(estimate, name),
        column=column,
    )
