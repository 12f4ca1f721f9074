"""One picture inpainted or edited: before, mask, after (CoDe, Figure 7).

Shapes: C pictures of a row, H W pixels of the picture as it is, S of the models' square.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from bench.methods.loaded import Loaded
from bench.quality import crops, inpainting
from bench.quality.chosen import check_labels, class_name, classes_of
from bench.quality.grid_rows import Head
from bench.study.errors import UsageError, as_usage_error
from codevar.mini.world import CLASSES, World
from codevar.pictures import PictureError, read_picture

COVER = 0.5  # the grey that a mask is shown in


@dataclass(frozen=True)
class Asked:
    """What the user wants.  image: a file, or "mini:7".  label: of the new content.
    own_class: inpainting; of one of the mini world's images the class is known."""

    image: str
    label: int | None
    own_class: bool
    box: crops.Box | None
    mask: Path | None
    seed: int


@dataclass(frozen=True)
class File:
    """A picture, and (H, W) where it gets new content."""

    picture: Image.Image
    mask_HW: torch.Tensor


@dataclass(frozen=True)
class Mini:
    """A test image of the mini world, of any side."""

    number: int


@as_usage_error(PictureError)
def opened(asked: Asked) -> File | Mini:
    """Raises UsageError for everything that can be told before a model is loaded."""
    if (asked.box is None) == (asked.mask is None):
        raise UsageError("say where new content is wanted: with --box, or with --mask")
    if asked.label is None and not asked.own_class:
        raise UsageError("say what the new content is of: with --class, or --own-class")
    if match := re.fullmatch(r"mini:(\d+)", asked.image):
        return Mini(int(match[1]))
    if asked.label is None:
        raise UsageError(f"--own-class: nothing says which class {asked.image} is; give --class")
    picture = read_picture(Path(asked.image))
    return File(picture, mask_of(asked, picture.width, picture.height))


def mask_of(asked: Asked, width: int, height: int) -> torch.Tensor:
    """(H, W).  Raises UsageError."""
    if asked.box is not None:
        return crops.box_mask(asked.box, width, height)
    assert asked.mask is not None
    return crops.file_mask(asked.mask, width, height)


def done(asked: Asked, what: File | Mini, loaded: Loaded) -> tuple[torch.Tensor, list[Head]]:
    """(C, 3, S, S) before, mask and after, and what stands above them.  Raises UsageError."""
    side = inpainting.side_of(loaded.vqvae)
    known = None
    if isinstance(what, Mini):
        if classes_of(loaded) != len(CLASSES):
            raise UsageError(f"{asked.image}: {loaded.case.label} is not of the mini world")
        images, labels = World(side).images("test", what.number, 1)
        image, mask_SS, known = images[0], mask_of(asked, side, side), int(labels)
    else:
        crop = crops.Crop(*what.picture.size, side)
        image, mask_SS = crop.image(what.picture), crop.mask(what.mask_HW)
        if not mask_SS.any():
            raise UsageError(
                f"the mask covers no pixel of the middle square, {side} x {side}, which is what "
                "the models take of a picture"
            )
    wanted = wanted_classes(asked, known)
    check_labels([label for label, _ in wanted], loaded, "--class")
    covered = torch.where(inpainting.changed(mask_SS, loaded.vqvae), COVER, image)
    shown, heads = [image, covered], [Head("before"), Head("mask")]
    for label, task in wanted:
        labels = torch.tensor([label])
        shown += inpainting.edited(loaded, image[None], labels, mask_SS, [asked.seed])
        heads.append(Head(f"{task}: {class_name(label, classes_of(loaded))}"))
    return torch.stack(shown), heads


def wanted_classes(asked: Asked, known: int | None) -> list[tuple[int, str]]:
    """Classes of the new content, and what each is called."""
    label, own = asked.label, asked.own_class
    if known is None:
        assert label is not None
        return [(label, "inpainted" if own else "edited")]
    found = {known: "inpainted"} if own or label == known else {}
    return list(({**found} if label in (None, known) else {**found, label: "edited"}).items())


def told(what: File | Mini, side: int) -> str:
    """What a reader must know of the pictures."""
    words = "The mask is what the feature map's cells make of it; what is kept has passed through "
    words += "the VQVAE too."
    if isinstance(what, File) and what.picture.size != (side, side):
        width, height = what.picture.size
        words += f" Middle square of a picture of {width} x {height}, scaled to {side} x {side}."
    return words
