"""Are quality's 95 % intervals as wide as they should be?  Against truth, for 128 features.

    python benchmarks/quality_intervals.py pools.safetensors --sets 200 --images 500,2000

The populations are features of the mini world's classifier: of real images, of what the VQVAE
makes of them, and of these blurred.  Sets are drawn from them, with as many images of each class;
in two sets that are compared the same images are drawn, as images of one seed are alike.  `true`
is the standard deviation of a figure over all sets, `told` what single sets say of it, `coverage`
the share of sets whose interval holds the mean over all sets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import codevar
from bench.metrics import METRICS, Estimate, Given
from bench.metrics.frechet import Gaussian
from bench.metrics.jackknife import Groups, interval, standard_error
from codevar.mini.classifier import load_classifier
from codevar.mini.world import World

WEIGHTS = Path(codevar.__file__).parent / "mini" / "weights" / "classifier.safetensors"
SIDE, POOL, REFERENCES, BATCH = 48, 20_000, 10_000, 250
METRICS_SHOWN = ("fid", "fid_infinity", "inception_score", "class_accuracy")
PAIRS = (("vqvae", "real"), ("blurred", "vqvae"), ("real", "real, others"))


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


def line(what: str, values: list[float], replicates: list[list[float]]) -> str:
    """True and told spread, and coverage."""
    truth, pairs = np.mean(values), list(zip(values, replicates, strict=True))
    told = np.sqrt(np.mean([standard_error(*pair) ** 2 for pair in pairs]))
    held = np.mean([low <= truth <= high for low, high in (interval(*pair) for pair in pairs)])
    true = np.std(values, ddof=1)
    return f"{what:44} {truth:10.4g} {true:9.3g} {told:9.3g} {told / true:6.2f} {held:8.1%}"


def main() -> None:
    """Print each interval's width and coverage against the truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="features; made if it is not there")
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--images", default="500,2000,5000")
    options = parser.parse_args()
    if not options.file.exists():
        save_file(pools(), options.file)
    data = load_file(options.file)
    reference = Gaussian.of(data["references/pool"])
    print(f"{'':44} {'mean':>10} {'true':>9} {'told':>9} {'ratio':>6} {'coverage':>8}")
    for images in map(int, options.images.split(",")):
        rng = np.random.default_rng(images)
        found: dict[str, list[dict[str, Estimate]]] = {}
        for _ in range(options.sets):
            rows = drawn(data["real/labels"], images, rng)
            for name in ("real", "vqvae", "blurred"):
                found.setdefault(name, []).append(estimates(data, name, rows, reference))
            rows = drawn(data["real, others/labels"], images, rng)
            others = estimates(data, "real, others", rows, reference)
            found.setdefault("real, others", []).append(others)
        for metric in METRICS_SHOWN:
            for name in ("real", "vqvae", "blurred"):
                sets = [one[metric] for one in found[name]]
                what = f"{metric}, {name}, N = {images}"
                print(line(what, [s.value for s in sets], [s.replicates for s in sets]))
            for one, other in PAIRS:
                pairs = [
                    (a[metric], b[metric]) for a, b in zip(found[one], found[other], strict=True)
                ]
                values = [a.value - b.value for a, b in pairs]
                replicates = [
                    [x - y for x, y in zip(a.replicates, b.replicates, strict=True)]
                    for a, b in pairs
                ]
                print(line(f"{metric}, {one} - {other}, N = {images}", values, replicates))


if __name__ == "__main__":
    main()
