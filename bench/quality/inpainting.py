"""Inpainting and editing of pictures, and how well a method does them without training.

Shapes: B pictures of a batch, S their side, h w cells of the feature map.
"""

import datetime
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import codevar
from bench.methods.loaded import Loaded
from bench.metrics.jackknife import interval_of_share
from bench.quality.crops import Crop
from bench.quality.features import MINI_WEIGHTS, Extractor, mini
from bench.quality.sample_set import image_seed
from bench.quality.sampling import one_line
from bench.study.errors import UsageError, as_usage_error
from bench.study.printing import Printed
from codevar import VQVAE
from codevar.editing import mask_of_cells
from codevar.mini.world import CLASSES, World
from codevar.pictures import PictureError, find_classes, read_picture

SCHEMA = 1
FILE = "inpainting.jsonl"

Batch = tuple[torch.Tensor, torch.Tensor]  # (B, 3, S, S) in [0, 1], (B,) classes


def side_of(vqvae: VQVAE) -> int:
    """Pixels along a side of what it encodes."""
    return vqvae.scales.patch_sizes[-1] * vqvae.config.stride


def changed(mask_SS: torch.Tensor, vqvae: VQVAE) -> torch.Tensor:
    """(S, S) bool: the pixels of the cells that get new content.

    Raises UsageError for a mask that no cell lies under, or all do.
    """
    cells_hw = mask_of_cells(mask_SS, vqvae)[0, 0]
    if not 0 < cells_hw.sum() < cells_hw.numel():
        kept = "none" if cells_hw.sum() == 0 else "all"
        raise UsageError(
            f"the mask covers {kept} of the {len(cells_hw)} x {len(cells_hw)} cells of "
            f"{vqvae.config.stride} pixels that a picture is made of; give another"
        )
    stride = vqvae.config.stride
    return cells_hw.repeat_interleave(stride, 0).repeat_interleave(stride, 1).bool().cpu()


def edited(
    loaded: Loaded,
    images: torch.Tensor,
    labels: torch.Tensor,
    mask_SS: torch.Tensor,
    seeds: list[int],
) -> torch.Tensor:
    """(B, 3, S, S) the pictures with new content under the mask.  Raises UsageError."""
    sampling = loaded.case.sampling_settings()
    with one_line(loaded.case):
        made = codevar.edit(
            loaded.plan, loaded.vqvae, images, labels, mask_SS, sampling, seeds, loaded.how
        )
    return made.images.cpu()


def inside(images: torch.Tensor, new_SS: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) only what is under the mask; all else in its own mean colour.  At its place and
    size, since a classifier of whole pictures knows a piece that was cut out far less often."""
    outside_B311 = images[:, :, ~new_SS].mean(dim=2)[:, :, None, None]
    return torch.where(new_SS, images, outside_B311)


# Pictures that a model has not been trained on


@dataclass(frozen=True)
class HeldOut:
    """Pictures with their classes, the same in the same order at every call."""

    name: str
    classes: int
    count: float  # of all; the mini world never ends
    read: Callable[[int, range], Batch]  # of a side in pixels, by number

    def batches(self, side: int, count: int, batch_size: int) -> Iterator[Batch]:
        """The first `count` pictures.  Raises UsageError if there are fewer."""
        if count > self.count:
            raise UsageError(f"{self.name} has {self.count} pictures, not {count}; --count")
        for first in range(0, count, batch_size):
            yield self.read(side, range(first, min(first + batch_size, count)))


def mini_images(side: int, numbers: range) -> Batch:
    """Test images of the mini world."""
    return World(side).images("test", numbers.start, len(numbers))


MINI_WORLD = HeldOut("mini:test", len(CLASSES), math.inf, mini_images)


@as_usage_error(PictureError)
def folder(path: Path) -> HeldOut:
    """A folder with a folder for each class, labelled as in training; the classes take turns, so
    that a few pictures are of many.  Raises UsageError."""
    found = find_classes(path)
    turns: Counter[int] = Counter()
    order = []
    for file, label in zip(found.files, found.labels, strict=True):
        turns[label] += 1
        order.append((turns[label], label, file))
    order.sort()

    @as_usage_error(PictureError)
    def pictures(side: int, numbers: range) -> Batch:
        part = order[numbers.start : numbers.stop]
        opened = [read_picture(file) for _, _, file in part]
        images = [Crop(*picture.size, side).image(picture) for picture in opened]
        return torch.stack(images), torch.tensor([label for _, label, _ in part])

    return HeldOut(path.name, len(found.classes), len(order), pictures)


def held_out(text: str) -> HeldOut:
    """`mini:test` or a folder.  Raises UsageError."""
    if text == MINI_WORLD.name:
        return MINI_WORLD
    if not Path(text).is_dir():
        raise UsageError(f"--images {text}: neither {MINI_WORLD.name} nor a folder")
    return folder(Path(text))


# The measure


@torch.no_grad()
def measure(
    loaded: Loaded,
    source: HeldOut,
    count: int,
    mask_SS: torch.Tensor,
    judge: Extractor | None,
    another_class: bool = False,
    batch_size: int = 16,
    tell: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Figures of a method over held-out pictures.

    another_class: editing instead of inpainting; every picture gets the class after its own.

    psnr_outside_db: to the original, over the pixels of cells that are kept.
    psnr_outside_vqvae_db: the same of the VQVAE's own reconstruction, the floor of that error.
    outside_error_of_vqvae: share of the squared error that the reconstruction has alone.
    class_accuracy: of the results, by the classes they were to become; beside it of the
    originals and of their reconstructions, by their own.  `_inside`: of what `inside` leaves.
    `_interval`: 95 %, Clopper and Pearson's.

    Raises UsageError.
    """
    began, vqvae = time.perf_counter(), loaded.vqvae
    new_SS = changed(mask_SS, vqvae)
    rows, columns = (new_SS.any(dim).nonzero()[[0, -1], 0].tolist() for dim in (1, 0))
    kept, found = ~new_SS, defaultdict[str, list[torch.Tensor]](list)
    done = 0
    for images, own in source.batches(len(mask_SS), count, batch_size):
        wanted = (own + 1) % source.classes if another_class else own
        seeds = [image_seed(loaded.case.seed, done + i) for i in range(len(images))]
        made = edited(loaded, images, wanted, mask_SS, seeds)
        tokens = vqvae.encode(images.to(vqvae.device))
        with loaded.how.running(vqvae.device):
            reconstructed = vqvae.decode(tokens).cpu()
        for name, restored in (("psnr_outside", made), ("psnr_outside_vqvae", reconstructed)):
            squares = (restored - images)[:, :, kept].double().square()
            found[f"{name}_db"].append(squares.mean(dim=(1, 2)))
        for name, judged, labels in (
            ("class_accuracy", made, wanted),
            ("class_accuracy_original", images, own),
            ("class_accuracy_vqvae", reconstructed, own),
            ("class_accuracy_inside", inside(made, new_SS), wanted),
            ("class_accuracy_inside_original", inside(images, new_SS), own),
        ):
            if judge:
                logits_BC = judge.layers(255 * judged.to(judge.device))["logits"]
                found[name].append(logits_BC.argmax(1).cpu() == labels)
        done += len(images)
        tell(done)
    of_all = {name: torch.cat(parts).double() for name, parts in found.items()}
    mse, floor = (float(of_all.pop(f"psnr_outside{of}_db").mean()) for of in ("", "_vqvae"))
    if not math.isfinite(mse + floor):
        raise UsageError(f"{loaded.case.label}: its pictures are not finite; no figure is valid")
    figures: dict[str, Any] = {
        "psnr_outside_db": 10 * math.log10(1 / mse) if mse else None,
        "psnr_outside_vqvae_db": 10 * math.log10(1 / floor) if floor else None,
        "outside_error_of_vqvae": floor / mse if mse else None,
    }
    for name, right_N in of_all.items():
        figures[name] = float(right_N.mean())
        figures[f"{name}_interval"] = list(interval_of_share(int(right_N.sum()), done))
    return {
        "task": "editing" if another_class else "inpainting",
        "images": done,
        "side": len(mask_SS),
        "cells": int(new_SS.sum()) // vqvae.config.stride**2,
        "box": [columns[0], rows[0], columns[1] + 1, rows[1] + 1],
        "classifier_sha256": judge.sha256 if judge else None,
        **figures,
        "duration_s": time.perf_counter() - began,
    }


def judge_of(path: Path | None, source: HeldOut, device: str) -> Extractor | None:
    """The classifier in the file, or else the mini world's for its images.  Raises UsageError."""
    if path is None and source.name != MINI_WORLD.name:
        return None
    return mini(path or MINI_WEIGHTS, torch.device(device))


def record_of(
    loaded: Loaded, source: HeldOut, figures: dict[str, Any], env: dict[str, Any]
) -> dict[str, Any]:
    """The line that is kept."""
    case = loaded.case
    return {
        "schema": SCHEMA,
        "key": case.key,
        "case": {"method": case.method, **case.model_dump()},
        "label": case.label,
        "preset": case.sampling,
        "source": source.name,
        "sources": [str(name) for name in loaded.sources],
        **figures,
        "machine": env["machine"],
        "device": case.device,
        "packages": env["packages"],
        "commit": env["commit"],
        "dirty": env["dirty"],
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def printed(lines: Sequence[dict[str, Any]]) -> Printed:
    """A row for each line; `name` is what to call it."""
    data = pd.DataFrame(lines)
    text = pd.DataFrame({"method": data["name"]})
    for key, heading, form in (
        ("psnr_outside_db", "PSNR outside dB", "{:.2f}"),
        ("psnr_outside_vqvae_db", "VQVAE alone dB", "{:.2f}"),
        ("outside_error_of_vqvae", "VQVAE's share", "{:.0%}"),
        ("class_accuracy", "class accuracy", "{:.1%}"),
        ("class_accuracy_inside", "inside", "{:.1%}"),
    ):
        if key in data:
            text[heading] = data[key].map(form.format, na_action="ignore").fillna("-")
        if f"{key}_interval" in data:
            spans = data[f"{key}_interval"]
            text[f"{heading} 95 %"] = [f"{low:.1%} to {high:.1%}" for low, high in spans]
        if f"{key}_original" in data:
            text[f"{heading}, originals"] = data[f"{key}_original"].map(form.format)
    one = lines[0]
    notes = [
        f"{one['images']} pictures of {one['source']}, {one['side']} x {one['side']} pixels, new "
        f"content in the box {' '.join(map(str, one['box']))} ({one['cells']} cells).",
        "VQVAE alone: of the reconstruction without any change; its share: of the squared error.",
    ]
    if "class_accuracy" not in data:
        notes.append("Without class accuracy: there is no classifier; name one with --classifier.")
    if "seeded" in {line["case"]["weights"] for line in lines}:
        notes.append("Weights are random, from a seed: these figures say nothing of a method.")
    task = {"inpainting": "Inpainting", "editing": "Editing to another class"}[one["task"]]
    return Printed(f"{task}, zero-shot", data, text, notes)
