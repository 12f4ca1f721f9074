"""Sample images on the page: of each sample set the same image numbers, small.

A sample set is a folder with samples.json and either PNG files in shards of 1000 or samples.npz.
Image i has class i % classes and a seed that follows from the set's and i, so the same numbers of
two sets are the same class and the same noise.
"""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.study.errors import UsageError
from bench.study.storage import parse_json

SHOWN = 10  # images of a set
SIDE, WIDE = 160, 1200  # pixels at most: of a sample, of a picture
SHARD = 1000
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Picture:
    alt: str
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Samples:
    """A set's first images.  about: seed, side, weights."""

    label: str
    about: str
    images: list[Picture]


@dataclass(frozen=True)
class Shown:
    """rows: a set each.  alike: whether all sets have the same seed and classes."""

    rows: list[Samples]
    whole: list[Picture]
    alike: bool


def of(paths: Sequence[Path]) -> Shown | None:
    """Raises UsageError for what is neither a sample set nor a picture."""
    if not paths:
        return None
    whole = [picture(path) for path in paths if path.suffix.lower() in PICTURES]
    folders = [path for path in paths if path.suffix.lower() not in PICTURES]
    told = [manifest(folder) for folder in folders]
    alike = len({(m.get("seed"), m.get("classes")) for m in told}) <= 1
    return Shown([row(*each) for each in zip(folders, told, strict=True)], whole, alike)


def manifest(folder: Path) -> dict[str, Any]:
    file = folder / "samples.json"
    try:
        found = parse_json(file.read_text("utf-8-sig"))
        if not isinstance(found, dict) or found.get("format") not in ("png", "npz"):
            raise ValueError("no format in it")
        if not all(isinstance(found.get(name), int) for name in ("images", "classes")):
            raise ValueError("no number of images and classes in it")
        if found["classes"] < 1:
            raise ValueError("no classes in it")
    except OSError:
        raise UsageError(f"{folder}: no sample set here (samples.json cannot be read)") from None
    except ValueError as e:
        raise UsageError(f"{file}: damaged ({e})") from None
    return found


def row(folder: Path, told: dict[str, Any]) -> Samples:
    label, count = str(told.get("label") or folder.name), min(SHOWN, told["images"])
    read = from_npz if told["format"] == "npz" else from_png
    try:
        images = read(folder, count)
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        UnidentifiedImageError,
    ) as e:
        why = " ".join(str(e).split()) or type(e).__name__
        raise UsageError(f"{folder}: its images cannot be read ({why})") from None
    if not images:
        raise UsageError(f"{folder}: no image in it yet")
    seed = f"seed {told.get('seed', 'unknown')}"
    about = [seed, f"{images[0].width} x {images[0].height} px"]
    about += [] if told.get("finished", True) else ["not finished"]
    shown = [
        embed(image, f"{label}, image {i}, class {i % told['classes']}", SIDE)
        for i, image in enumerate(images)
    ]
    return Samples(label, ", ".join(about), shown)


def from_png(folder: Path, count: int) -> list[Image.Image]:
    files = [folder / f"shard-{i // SHARD:05d}" / f"{i:08d}.png" for i in range(count)]
    return [Image.open(file).convert("RGB") for file in files]


def from_npz(folder: Path, count: int) -> list[Image.Image]:
    """Only as far into the file as needed: 50,000 images are 10 GB."""
    with zipfile.ZipFile(folder / "samples.npz") as archive, archive.open("arr_0.npy") as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = read[version](file)
        if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or fortran:
            raise ValueError(f"arr_0 is {dtype} {shape}, not uint8 (N, H, W, 3)")
        count = min(count, shape[0])
        size = int(np.prod(shape[1:]))
        pixels = np.frombuffer(file.read(count * size), np.uint8).reshape(count, *shape[1:])
    return [Image.fromarray(image) for image in pixels]


def picture(path: Path) -> Picture:
    try:
        return embed(Image.open(path).convert("RGB"), path.name, WIDE)
    except (OSError, ValueError, UnidentifiedImageError) as e:
        raise UsageError(f"{path}: no picture ({e})") from None


def embed(image: Image.Image, alt: str, most: int) -> Picture:
    """As WebP in the page itself."""
    image.thumbnail((most, most))
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=82)
    source = f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"
    return Picture(alt, source, *image.size)
