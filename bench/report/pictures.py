"""Sample images on the page: of each set the same image numbers, small.

Image i of a sample set has class i % classes and a seed that follows from the set's and i, so the
same numbers of two sets are the same class and the same noise.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from bench.quality.images import ImageSet, open_images
from bench.report.sections import Figures, Note, Panel, Picture, Section
from bench.study.errors import as_usage_error
from codevar.pictures import ENDINGS, PictureError, read_picture

SHOWN = 10  # images of a set
SIDE, WIDE = 160, 1200  # pixels at most: of a sample, of a picture
ALIKE = Note("In each column the same class and the same seed.")
UNLIKE = Note(
    "These sets differ in seed or classes: columns cannot be compared image by image.", "marked"
)
IMAGE = Markup('<img src="data:image/webp;base64,{}" alt="{}" width="{}" height="{}">')


def section(paths: Sequence[Path]) -> Section:
    """The first images of each set, a row each, then the pictures.

    Raises UsageError for what is neither.
    """
    files = [path for path in paths if path.suffix.lower() in ENDINGS]
    sets = [open_images(path) for path in paths if path not in files]
    seeds = {(s.manifest.get("seed"), s.manifest.get("classes")) for s in sets}
    shown = [row(images) for images in sets] + [whole(path) for path in files]
    note = ALIKE if len(seeds) <= 1 else UNLIKE
    figures = Figures("sample images", [Panel("images", "Images", "As they were made.", shown)])
    return Section("pictures", "Images", [note, figures] if sets else [figures])


def row(images: ImageSet) -> Picture:
    """The set's first images, small."""
    told = images.manifest
    label = str(told.get("label", images.name))
    first = next(images.pixels())[:SHOWN]
    classes = images.labels[: len(first)] if images.labels is not None else ["unknown"] * len(first)
    tags = [
        embed(Image.fromarray(pixels), f"{label}, image {i}, class {of_class}", SIDE)
        for i, (pixels, of_class) in enumerate(zip(first, classes, strict=True))
    ]
    height, width = images.size
    about = f"{label}, seed {told.get('seed', 'unknown')}, {width} x {height} px"
    return Picture(about, Markup().join(tags))


@as_usage_error(PictureError)
def whole(path: Path) -> Picture:
    """A picture as it is, as far as the page has room."""
    return Picture(path.name, embed(read_picture(path), path.name, WIDE))


def embed(image: Image.Image, alt: str, most: int) -> Markup:
    """As WebP in the page itself."""
    image.thumbnail((most, most))
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=82)
    return IMAGE.format(base64.b64encode(packed.getvalue()).decode(), alt, *image.size)
