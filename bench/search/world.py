"""The mini world, where plans are decoded: how far their images are from the whole model's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.metrics.kernel_distance import cubic
from bench.quality import features, sampling
from bench.search.space import Steps
from bench.study.cases import VARCase, make_case, planned
from codevar.checkpoints import write_tensors
from codevar.files import read_tensors
from codevar.plan import Plan
from codevar.progress import Progress

BATCH = 50  # images at a time
FEATURES = "features"  # folder of every plan's, so that a plan that goes on needs only new images


def case_of(steps: Steps, device: str, name: str = "plan") -> VARCase:
    """A plan as a case of the mini world."""
    values: dict[str, Any] = {"method": "plan", "name": name, "by_scale": steps}
    values |= {"weights": "mini", "sampling": "mini", "precision": "float32", "stack": "modern"}
    return planned([make_case(values | {"batch_size": BATCH, "device": device})], name)[0]


class World:
    """Decodes and compares.

    images: the most that a plan is seen on.  seed: of the set that they are of.  folder: of the
    search, where features are kept.
    """

    def __init__(
        self, folder: Path, images: int, seed: int, device: str, progress: Progress
    ) -> None:
        last = case_of([{"scales": "1"}], device).scale_count
        both: Steps = [{"scales": f"1-{last - 1}"}, {"scales": f"{last}", "model": 2}]
        self.loaded = sampling.load(case_of(both, device), download=False)
        self.models = self.loaded.plan.models
        self.network = features.extractor_of("mini", None, False, torch.device(device))
        self.seed, self.folder = seed, folder / FEATURES
        self.base_ND = torch.empty(0)
        for done in [*range(BATCH, images, BATCH), images]:
            self.base_ND = self.features([{"scales": f"1-{last}"}], done)
            progress.count("the whole model", done, images, "images")

    def features(self, steps: Steps, images: int) -> torch.Tensor:
        """(N, D) of a plan's first images, by the mini world's classifier; those that the folder
        has are not made again."""
        name = hashlib.sha256(json.dumps(steps).encode()).hexdigest()[:16]
        file = self.folder / f"{name}.safetensors"
        found = [read_tensors(file)["pool"]] if file.exists() else []
        there = sum(map(len, found))
        loaded = replace(self.loaded, plan=Plan.from_dict({"steps": steps}, self.models))
        for first in range(there, images, BATCH):
            numbers = range(first, min(first + BATCH, images))
            images_BHW3 = sampling.decode(loaded, self.seed, numbers)
            with torch.no_grad():
                layers = self.network.layers(images_BHW3.permute(0, 3, 1, 2).contiguous())
            found.append(layers["pool"].float().cpu())
        if there < images:
            write_tensors(file, {"pool": torch.cat(found)})
        return torch.cat(found)[:images]

    def evaluate(self, steps: Steps, numbers: range) -> tuple[list[float], float]:
        """How far each of these images is from the whole model's, and the plan's loss by all."""
        own_ND, base_ND = self.features(steps, numbers.stop), self.base_ND[: numbers.stop]
        distances_N = (own_ND - base_ND).norm(dim=1)
        return distances_N[numbers.start :].tolist(), paired_kid(own_ND, base_ND)


def paired_kid(x_ND: torch.Tensor, y_ND: torch.Tensor) -> float:
    """KID of two sets whose images share seeds: over pairs of different seeds, so that what merely
    draws other images at a seed loses nothing, at any number of images."""
    x_ND, y_ND = x_ND.double(), y_ND.double()
    apart_NN = cubic(x_ND, x_ND) + cubic(y_ND, y_ND) - 2 * cubic(x_ND, y_ND)
    pairs = len(x_ND) * (len(x_ND) - 1)
    return float((apart_NN.sum() - apart_NN.diagonal().sum()) / pairs)
