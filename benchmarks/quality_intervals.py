"""Are quality's 95 % intervals as wide as they should be?  Against truth, for 128 features.

    python benchmarks/quality_intervals.py pools.safetensors --sets 1000 --images 500,2000
    python benchmarks/quality_intervals.py pools.safetensors --only var-d12,var-d4 \\
        --samples var-d12=DIR var-d4=DIR

The populations are features of the mini world's classifier: of real images, of what the VQVAE
makes of them, of these blurred, and of sample sets (`--samples`).  Sets are drawn from them, with
as many images of each class; in two sets that are compared the same images are drawn, as images of
one seed are alike.  `true` is the standard deviation of a figure over all sets, `told` what single
sets say of it, `coverage` the share of sets whose interval holds the mean over all sets.  An
interrupt prints what there is.
"""

from __future__ import annotations

import argparse
import signal
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import codevar
from bench.metrics import METRICS, Estimate, Given
from bench.metrics.frechet import Gaussian
from bench.metrics.jackknife import Groups, standard_error
from bench.quality.images import open_images
from codevar.mini.classifier import load_classifier
from codevar.mini.world import World

WEIGHTS = Path(codevar.__file__).parent / "mini" / "weights" / "classifier.safetensors"
SIDE, POOL, REFERENCES, BATCH = 48, 20_000, 10_000, 250
METRICS_SHOWN = ("fid", "fid_infinity", "inception_score", "class_accuracy")
#: Compared, each with the next; "real, others" are other images, so that nothing is paired.
POPULATIONS = ("real, others", "real", "vqvae", "blurred")


@torch.no_grad()
def pools() -> dict[str, torch.Tensor]:
    """Pool features, logits and classes of each population, and of the references."""
    world, classifier = World(side=SIDE), load_classifier(WEIGHTS)
    vqvae = codevar.load_vqvae("mini_vqvae")
    found: dict[str, list[torch.Tensor]] = {}

    def add(name: str, images: torch.Tensor, labels: torch.Tensor) -> None:
        pool = classifier.features(images.mul(255).round() / 255)
        for key, value in (("pool", pool), ("logits", classifier.head(pool)), ("labels", labels)):
            found.setdefault(f"{name}/{key}", []).append(value)

    for first in range(0, REFERENCES, BATCH):
        add("references", *world.images("train", first, BATCH))
    for first in range(0, POOL, BATCH):
        images, labels = world.images("test", first, BATCH)
        made = vqvae.decode(vqvae.encode(images)).clamp(0, 1)
        soft = torch.nn.functional.avg_pool2d(made, 3, 1, 1)
        add("real", images, labels)
        add("vqvae", made, labels)
        add("blurred", (made + soft) / 2, labels)
        add("real, others", *world.images("test", POOL + first, BATCH))
    return {name: torch.cat(parts).contiguous() for name, parts in found.items()}


@torch.no_grad()
def of_samples(folder: Path) -> dict[str, torch.Tensor]:
    """Pool features, logits and classes of a sample set."""
    images, classifier = open_images(folder), load_classifier(WEIGHTS)
    parts = [torch.from_numpy(part).permute(0, 3, 1, 2) / 255 for part in images.pixels()]
    pool = torch.cat([classifier.features(x) for part in parts for x in part.split(BATCH)])
    labels = torch.as_tensor(images.labels)
    return {"pool": pool, "logits": classifier.head(pool), "labels": labels}


def drawn(labels: torch.Tensor, images: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of images, as many of each class, in the order of sample sets."""
    by_class = [np.flatnonzero(labels.numpy() == label) for label in range(10)]
    return np.stack([rng.choice(rows, images // 10) for rows in by_class], axis=1).ravel()


def estimates(
    data: dict[str, torch.Tensor], name: str, rows: np.ndarray, reference: Gaussian
) -> dict[str, Estimate]:
    """The metrics of one set."""
    features = {key: data[f"{name}/{key}"][rows] for key in ("pool", "logits")}
    labels = torch.arange(len(rows)) % 10
    groups = Groups.deal(len(rows), labels.numpy())
    given = Given(features, {}, {"pool": reference}, labels, groups)
    return {metric: METRICS[metric].compute(given) for metric in METRICS_SHOWN}


def of_figures(metric: str, sets: list[Estimate]) -> str:
    """True and told spread, and coverage, of one population's figure."""
    bounds = METRICS[metric].low, METRICS[metric].high
    told = [standard_error(one.value, one.replicates) for one in sets]
    return line([one.value for one in sets], told, [one.within(*bounds) for one in sets])


def of_differences(pairs: list[tuple[Estimate, Estimate]]) -> str:
    """The same of a difference of two populations."""
    found = [one.less(other) for one, other in pairs]
    told = [
        standard_error(
            one.value - other.value,
            [a - b for a, b in zip(one.replicates, other.replicates, strict=True)],
        )
        for one, other in pairs
    ]
    return line([apart for apart, _ in found], told, [interval for _, interval in found])


def line(values: list[float], told: list[float], intervals: list) -> str:
    """sets, mean, true and told spread, their ratio, coverage."""
    truth, true = np.mean(values), np.std(values, ddof=1)
    spread = np.sqrt(np.mean(np.square(told)))
    held = np.mean([low <= truth <= high for low, high in intervals])
    figures = f"{len(values)} | {truth:.4g} | {true:.3g} | {spread:.3g} | {spread / true:.2f}"
    return f"{figures} | {held:.1%} |"


def main() -> None:
    """Print each interval's width and coverage against the truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="features; made if it is not there")
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--images", default="500,2000,5000")
    parser.add_argument("--samples", nargs="*", default=[], metavar="NAME=DIR")
    parser.add_argument("--only", help="populations, each compared with the next")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background too
    if not options.file.exists():
        save_file(pools(), options.file)
    data = load_file(options.file)
    for name, folder in (text.split("=", 1) for text in options.samples):
        data |= {f"{name}/{key}": value for key, value in of_samples(Path(folder)).items()}
    names = options.only.split(",") if options.only else POPULATIONS
    reference = Gaussian.of(data["references/pool"])
    print("| | N | sets | mean | true | told | told / true | coverage |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for images in map(int, options.images.split(",")):
        found: list[dict[str, dict[str, Estimate]]] = []
        try:
            for number in range(options.sets):
                rows = {  # the same where classes are in the same order
                    name: drawn(
                        data[f"{name}/labels"], images, np.random.default_rng((images, number))
                    )
                    for name in names
                }
                found.append({name: estimates(data, name, rows[name], reference) for name in names})
        except KeyboardInterrupt:
            pass
        for metric in METRICS_SHOWN:
            for name in names:
                figures = of_figures(metric, [one[name][metric] for one in found])
                print(f"| {metric}, {name} | {images} | {figures}")
            for one, other in pairwise(names):
                pairs = [(of[other][metric], of[one][metric]) for of in found]
                print(
                    f"| {metric}, {other} - {one} | {images} | {of_differences(pairs)}", flush=True
                )


if __name__ == "__main__":
    main()
