"""The mini world, where plans are decoded: how far their images are from the whole model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.quality import features, sampling
from bench.search.space import Steps
from bench.study.cases import VARCase, make_case, sampled
from codevar.checkpoints import write_tensors
from codevar.files import read_tensors
from codevar.plan import Plan
from codevar.progress import Progress

BATCH = 50  # images at a time
BASE = "base.safetensors"  # features of the whole model's images


def case_of(steps: Steps, device: str, name: str = "plan") -> VARCase:
    """A plan as a case of the mini world."""
    values: dict[str, Any] = {"method": "plan", "name": name, "by_scale": steps}
    values |= {"weights": "mini", "sampling": "mini", "precision": "float32", "stack": "modern"}
    return sampled([make_case(values | {"batch_size": BATCH, "device": device})], name)[0]


class World:
    """Decodes and compares.

    images: the most that a plan is seen on.  seed: of the set that they are of.  folder: where the
    whole model's features are kept.
    """

    def __init__(
        self, folder: Path, images: int, seed: int, device: str, progress: Progress
    ) -> None:
        last = case_of([{"scales": "1"}], device).scale_count
        both: Steps = [{"scales": f"1-{last - 1}"}, {"scales": f"{last}", "model": 2}]
        self.loaded = sampling.load(case_of(both, device), download=False)
        self.models = self.loaded.plan.models
        self.network = features.extractor_of("mini", None, False, torch.device(device))
        self.seed, file = seed, folder / BASE
        if not file.exists():
            found = []
            for first in range(0, images, BATCH):
                numbers = range(first, min(first + BATCH, images))
                found.append(self.features([{"scales": f"1-{last}"}], numbers))
                progress.count("the whole model", numbers.stop, images, "images")
            write_tensors(file, {"pool": torch.cat(found)})
        self.base_ND = read_tensors(file)["pool"]

    def features(self, steps: Steps, numbers: range) -> torch.Tensor:
        """(N, D) of the images with these numbers, by the mini world's classifier."""
        loaded = replace(self.loaded, plan=Plan.from_dict({"steps": steps}, self.models))
        found = []
        for first in range(numbers.start, numbers.stop, BATCH):
            batch = range(first, min(first + BATCH, numbers.stop))
            images_BHW3 = sampling.decode(loaded, self.seed, batch)
            with torch.no_grad():
                layers = self.network.layers(images_BHW3.permute(0, 3, 1, 2).contiguous())
            found.append(layers["pool"].float().cpu())
        return torch.cat(found)

    def distances(self, steps: Steps, numbers: range) -> list[float]:
        """Of each image from the whole model's of the same seed and class."""
        base_ND = self.base_ND[numbers.start : numbers.stop]
        return (self.features(steps, numbers) - base_ND).norm(dim=1).tolist()
