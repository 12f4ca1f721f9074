"""Pictures in files: which ones a folder holds, and their pixels.

The one reader for whatever takes pictures: evaluation, training, editing and inpainting.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
MOST_OTHERS = 100_000  # files beside the pictures, and ten more for each picture


class PictureError(ValueError):
    """A picture or a folder of them that cannot be read; the message is one line that names it."""


@dataclass(frozen=True)
class Pictures:
    """files: sorted by path.  left_out: what else lies there, hidden folders as a whole.
    classes: names in the order of their labels.  labels: of each file."""

    files: list[Path]
    left_out: list[Path]
    classes: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def told(self) -> str:
        """What was left out, in words, or ""."""
        if not self.left_out:
            return ""
        names = ", ".join(path.name for path in self.left_out[:3])
        more = f" and {len(self.left_out) - 3:,} more" if len(self.left_out) > 3 else ""
        return f"no pictures and left out: {names}{more}"


def find_pictures(folder: Path) -> Pictures:
    """All below a folder, through links too.  Raises PictureError for what cannot be read, and for
    a folder of other things, as a whole disk is."""
    pictures: list[Path] = []
    left_out: list[Path] = []
    for path in _below(folder, frozenset()):
        is_picture = path.suffix.lower() in ENDINGS and not is_hidden(path.name)
        (pictures if is_picture else left_out).append(path)
        if len(left_out) > MOST_OTHERS + 10 * len(pictures):
            raise PictureError(
                f"{folder}: holds {len(left_out):,} other files and {len(pictures):,} pictures; "
                "name the folder of the pictures"
            )
    return Pictures(sorted(pictures), sorted(left_out))


def find_classes(folder: Path) -> Pictures:
    """Those of a folder with a folder for each class: whole numbers by their value, other names
    after them as they sort.  Raises PictureError, for a class without pictures too."""
    entries = list(_entries(folder))
    classes = [path for path, is_folder in entries if is_folder and not is_hidden(path.name)]
    if not classes:
        raise PictureError(f"{folder}: has no folder with the images of a class")
    classes.sort(key=lambda p: (int(p.name) if p.name.isdecimal() else math.inf, p.name))
    left_out = sorted({path for path, _ in entries} - {*classes})
    files, labels = [], []
    for label, path in enumerate(classes):
        found = find_pictures(path)
        if not found.files:
            raise PictureError(f"{path}: a class without images; remove the folder")
        files += found.files
        labels += [label] * len(found.files)
        left_out += found.left_out
    return Pictures(files, left_out, [path.name for path in classes], labels)


def is_hidden(name: str) -> bool:
    """Whether an editor or a system made it, and no user."""
    return name.startswith(".") or name == "__MACOSX"


def _below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Files below a folder, and hidden folders.  above: the folders it lies in, without links."""
    real = os.path.realpath(folder)
    if real in above:
        raise PictureError(f"{folder}: a link back to a folder that it lies in; remove it")
    for path, is_folder in _entries(folder):
        if is_folder and not is_hidden(path.name):
            yield from _below(path, above | {real})
        else:
            yield path


def _entries(folder: Path) -> Iterator[tuple[Path, bool]]:
    """What lies in a folder, and whether it is a folder or a link to one."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield folder / entry.name, entry.is_dir()
    except OSError as e:
        raise PictureError(f"{folder}: cannot be read ({e.strerror})") from None


def read_picture(path: Path, data: bytes | None = None) -> Image.Image:
    """RGB, turned as its camera says.  data: what the file holds, where that has been read.

    Raises PictureError for what is damaged, and for what 8 bits of red, green and blue cannot
    hold: more bits, transparency, several pictures.
    """
    try:
        if data is None and not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("it is no file")  # opening a pipe would wait for ever
        with Image.open(path if data is None else io.BytesIO(data)) as image:
            # Pillow says RGB of 16 bits too; the depth in the file is in how it unpacks rows.
            if image.mode[0] in "IF" or ";16" in repr(image.tile):
                raise ValueError("more than 8 bits a channel")
            if "A" in image.getbands() or "transparency" in image.info:
                raise ValueError("it has an alpha channel; save it without")
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise ValueError("several pictures in one file")
            return ImageOps.exif_transpose(image).convert("RGB")
    except OSError as e:
        why = e.strerror or str(e).partition(" <_io")[0]  # Pillow names the buffer it read from
    except Exception as e:  # a dozen kinds, by format and damage
        why = str(e)
    raise PictureError(f"{path}: no readable image ({(why.splitlines() or ['damaged'])[0]})")
