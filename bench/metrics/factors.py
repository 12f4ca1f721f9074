"""What of an image was lost: the mini world's factors, as a network reads them (`eval --extractor
factors`), one figure for each.

Accuracy of the shape, which is asked for.  Distance: half the sum of the differences of two
histograms (total variation), of what samples and real images are read as; an image that is not
read clearly is a cell of its own.  Real images have one above 0 too, by chance: `eval` shows it.
Agreement, with a baseline of the same seeds: the share of images that are read as its.

Shapes: N samples, M references, F outputs of the reader, K cells, R replicates.
"""

from functools import partial

import torch

from bench.metrics.metric import Estimate, Given, Metric
from codevar.mini.factors import READER, told
from codevar.mini.world import CHOICES

CLEAR = 0.9  # probability below which a choice is not read clearly
#: Outer ones are open.  Shares of the side: centres stray by 0.16 of it, radii are 0.3 to 0.4.
EDGES = {"x": (-0.08, 0.0, 0.08), "y": (-0.08, 0.0, 0.08), "radius": (0.32, 0.34, 0.36, 0.38)}
#: Half a latent cell of 48 pixels, and a quarter: what is nearer is the same place, or size.
NEAR = {"position": (("x", "y"), 2 / 48), "size": (("radius",), 1 / 48)}
#: What is told as one figure, the mean of its parts.
FACTORS = {
    "shape": ("shape",),
    "hue": ("ground_hue", "shape_hue"),
    "texture": ("ground_texture", "shape_texture"),
    "position": ("position",),
    "size": ("size",),
}
CELLS = {name: number + 1 for name, number in CHOICES.items()} | {"position": 16, "size": 5}


def cells(outputs_NF: torch.Tensor) -> dict[str, torch.Tensor]:
    """(N,) of each part, the cell that an image falls into."""
    read = told(outputs_NF.cpu())
    found = {}
    for name, number in CHOICES.items():
        share_N, choice_N = read[name].softmax(1).max(1)
        found[name] = choice_N.where(share_N >= CLEAR, number)
    places = (torch.bucketize(read[n].contiguous(), torch.tensor(EDGES[n])) for n in EDGES)
    x, y, radius = places
    return found | {"position": 4 * x + y, "size": radius}


def distance(factor: str, given: Given) -> Estimate:
    """Of histograms, 0 where they are alike to 1 where they have nothing in common."""
    ours = given.once("cells", lambda: cells(given.samples["factors"]))
    theirs = given.once("cells of the reference", lambda: cells(given.references["factors"]))
    apart = []
    for part in FACTORS[factor]:
        ours_NK = torch.nn.functional.one_hot(ours[part], CELLS[part]).double()
        counts_RK = ours_NK.sum(0, keepdim=True)
        if given.groups:
            of_groups_GK = given.groups.sums(ours_NK)
            counts_RK = torch.cat([counts_RK, given.groups.kept().double() @ of_groups_GK])
        theirs_K = theirs[part].bincount(minlength=CELLS[part]) / len(theirs[part])
        shares_RK = counts_RK / counts_RK.sum(1, keepdim=True)
        apart.append((shares_RK - theirs_K).abs().sum(1) / 2)
    value, *replicates = torch.stack(apart).mean(0).tolist()
    return Estimate(value, replicates)


def agreement(factor: str, given: Given) -> Estimate:
    """With the baseline's image of the same seed; the place within `NEAR`."""
    one, other = (told(side["factors"].cpu()) for side in (given.samples, given.baseline))
    if factor in NEAR:
        names, near = NEAR[factor]
        apart = torch.stack([(one[name] - other[name]).abs() for name in names])
        return given.mean((apart.amax(0) <= near).double())
    same = [one[part].argmax(1) == other[part].argmax(1) for part in FACTORS[factor]]
    return given.mean(torch.stack(same).double().mean(0))


def accuracy(given: Given) -> Estimate:
    """The share of images whose shape is the class that they were to be."""
    assert given.labels_N is not None
    return given.mean(told(given.samples["factors"].cpu())["shape"].argmax(1) == given.labels_N)


def lacks(samples, network) -> str:
    """Why the shape cannot be held against a class, or ""."""
    return "" if samples.labels is not None else "nothing says which classes these are to be"


_Own = partial(Metric, format="{:.1%}", layer="factors", network=READER)
_Own(
    "shape_accuracy",
    "shape as asked",
    order=384,
    lower_is_better=False,
    needs="classes",
    compute=accuracy,
    lacks=lacks,
)
for n, factor in enumerate(FACTORS):
    _Own(
        f"{factor}_distance",
        f"{factor} distance",
        format="{:.3f}",
        order=385 + n,
        lower_is_better=True,
        needs="images",
        compute=partial(distance, factor),
    )
    _Own(
        f"{factor}_agreement",
        f"{factor} as base",
        order=390 + n,
        lower_is_better=False,
        needs="baseline",
        compute=partial(agreement, factor),
    )
