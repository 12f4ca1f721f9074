"""Sets of images to evaluate: a sample set, a folder, an `.npz`, or the mini world's own.

A set comes in chunks of up to 1000 images, each with a digest of the bytes that it was made of:
that is what its features are cached by, so a set that grows, or an extraction that was
interrupted, pays for no image twice.

Shapes: N images, H W pixels.
"""

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from bench.quality.sample_set import FILE, NPZ, SampleSet, png_of
from bench.study.errors import UsageError, as_usage_error
from codevar.files import first_line
from codevar.pictures import PictureError, find_pictures, read_picture

CHUNK = 1000
Pixels = np.ndarray  # (N, H, W, 3) uint8


@dataclass(frozen=True)
class Chunk:
    """digest: SHA-256 of what the images are made of.  count: of images.  pixels: makes them."""

    digest: str
    count: int
    pixels: Callable[[], Pixels]


@dataclass(frozen=True)
class ImageSet:
    """name: what to call it.  size: (H, W).  chunks: in order, as often as asked.
    labels: (N,) classes, where they are known.  manifest: of a sample set.  notes: what a reader of
    its figures must know."""

    name: str
    count: int
    size: tuple[int, int]
    chunks: Callable[[], Iterator[Chunk]]
    labels: np.ndarray | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def pixels(self) -> Iterator[Pixels]:
        """All images in order, chunk by chunk.  Raises UsageError for one that cannot be read."""
        return (chunk.pixels() for chunk in self.chunks())


def open_images(path: Path) -> ImageSet:
    """A sample set (a folder with samples.json), a folder of pictures, or an `.npz`.

    Raises UsageError, here or when a chunk is read.
    """
    if path.is_dir():
        return sample_set(path) if (path / FILE).exists() else folder(path)
    if is_archive(path):
        return archive(path)
    kind = "neither a folder nor an .npz" if path.exists() else "no such folder or file"
    raise UsageError(f"{path}: {kind}")


def is_archive(path: Path) -> bool:
    """Whether the name says so."""
    return path.suffix.lower() == ".npz" and path.is_file()


# Folders


@as_usage_error(PictureError)
def folder(path: Path) -> ImageSet:
    """Every picture below a folder.

    In an order that means nothing (by name, then shuffled): a folder is often sorted by class,
    and an Inception Score over 5000 images of few classes is too low.
    """
    found = find_pictures(path)
    if sets := [file.parent for file in found.left_out if file.name == FILE]:
        raise UsageError(f"{path}: holds sample sets; name one, as {sets[0]}")
    files, told = found.files, found.told()
    if not files:
        raise UsageError(
            f"{path}: no picture in this folder, and no {FILE}; {told or 'it is empty'}"
        )
    order = np.random.default_rng(0).permutation(len(files))
    images = _of_files(path.name, [files[i] for i in order])
    notes = [f"{images.name}: {told}."] if told else []
    if jpegs := sum(file.suffix.lower() in (".jpg", ".jpeg") for file in files):
        notes.append(
            f"{images.name}: {jpegs:,} of {len(files):,} images are JPEG, whose losses move a FID; "
            "compare with sets that are kept alike."
        )
    return replace(images, notes=notes)


def sample_set(path: Path) -> ImageSet:
    """What `bench.py sample` has made, in the order of its images."""
    samples = SampleSet.open(path)
    if samples.manifest["format"] == "npz":
        found = archive(path / NPZ)
    else:
        files = [path / png_of(number) for number in range(len(samples))]
        if missing := [file for file in files if not file.is_file()]:
            others = f", as are {len(missing) - 1} other images" if len(missing) > 1 else ""
            raise UsageError(
                f"{missing[0]}: missing{others}; `bench.py sample ... --resume` makes it again"
            )
        found = _of_files(path.name, files)
    told = len(samples), (samples.side, samples.side)
    if (found.count, found.size) != told:
        raise UsageError(
            f"{path}: {found.count} images of {_by(found.size)} pixels, but {FILE} says "
            f"{told[0]} of {_by(told[1])}"
        )
    manifest = dict(samples.manifest)
    return ImageSet(path.name, *told, found.chunks, samples.labels, manifest)


def _of_files(name: str, files: Sequence[Path]) -> ImageSet:
    size = pixels_of(files[0], _bytes(files[0])).shape[:2]

    def chunks() -> Iterator[Chunk]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, len(files), CHUNK):
                part = files[first : first + CHUNK]
                read = list(pool.map(_bytes, part))
                digests = pool.map(lambda data: hashlib.sha256(data).digest(), read)
                digest = hashlib.sha256(b"".join(digests)).hexdigest()

                def pixels(part: Sequence[Path] = part, read: list[bytes] = read) -> Pixels:
                    images = list(pool.map(pixels_of, part, read))
                    for file, image in zip(part, images, strict=True):
                        if image.shape[:2] != size:
                            raise UsageError(
                                f"{file} is {_by(image.shape)} pixels, {files[0].name} is "
                                f"{_by(size)}: images of one set must be of one size"
                            )
                    return np.stack(images)

                yield Chunk(digest, len(part), pixels)

    return ImageSet(name, len(files), size, chunks)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise UsageError(f"{file}: cannot be read ({e.strerror})") from None


@as_usage_error(PictureError)
def pixels_of(file: Path, data: bytes) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.asarray(read_picture(file, data))


def _by(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"


# Archives


def archive(path: Path) -> ImageSet:
    """An `.npz` as OpenAI's evaluator reads: arr_0 uint8 (N, H, W, 3), perhaps classes in arr_1.

    It is read as a stream: 50,000 images of 256 x 256 are 9.8 GB.
    """
    with _images_of(path) as (_, (N, H, W, _), _):
        pass

    def chunks() -> Iterator[Chunk]:
        with _images_of(path) as (stream, shape, by_columns):
            if by_columns:  # the first image ends where the file does
                stream = io.BytesIO(np.load(path)["arr_0"].tobytes())
            for first in range(0, N, CHUNK):
                images = min(CHUNK, N - first)
                data = stream.read(images * H * W * 3)
                if len(data) < images * H * W * 3:
                    raise EOFError("it ends too early")
                shape = (images, H, W, 3)
                array = np.frombuffer(data, np.uint8).reshape(shape)
                digest = hashlib.sha256(str(shape).encode() + data).hexdigest()
                yield Chunk(digest, images, array.copy)

    return ImageSet(path.name, N, (H, W), chunks, _labels(path, N))


@contextmanager
def _images_of(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool]]:
    """The bytes of arr_0, behind its header; its shape, and whether by columns."""
    with readable(path), zipfile.ZipFile(path) as file:
        if "arr_0.npy" not in file.namelist():
            there = ", ".join(n.removesuffix(".npy") for n in file.namelist())
            raise UsageError(f"{path}: no array arr_0; there are {there or 'none'}")
        with file.open("arr_0.npy") as stream:
            shape, by_columns, dtype = npy_header(stream)
            if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not all(shape):
                raise UsageError(
                    f"{path}: arr_0 must be uint8 (N, H, W, 3), not {dtype} {tuple(shape)}"
                )
            yield stream, shape, by_columns


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape of the array that an open `.npy` holds, whether in Fortran's order, and its type; its
    values come next.  Raises ValueError for anything but a plain array."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"npy version {version}")
    shape, fortran, dtype = read[version](file)
    if dtype.hasobject:
        raise ValueError("no plain array")
    return shape, fortran, dtype


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Makes one line of whatever a damaged archive raises."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        if isinstance(e, UsageError):
            raise
        missing = isinstance(e, FileNotFoundError)
        why = "no such file" if missing else f"damaged or no .npz ({first_line(e)})"
        raise UsageError(f"{path}: {why}") from None


def _labels(path: Path, count: int) -> np.ndarray | None:
    """Classes of arr_1, if there is one.  Raises UsageError for one that is something else."""
    with readable(path), np.load(path, allow_pickle=False) as file:
        found = file["arr_1"] if "arr_1" in file.files else None
    if found is None:
        return None
    if found.shape != (count,) or found.dtype.kind not in "iu" or found.min() < 0:
        raise UsageError(
            f"{path}: arr_1 must be the class of each of its {count:,} images, not {found.dtype} "
            f"{found.shape}; save it without, or as another name"
        )
    return found.astype(np.int64)


# The mini world


def mini_world(split: str, count: int, size: tuple[int, int], start: int = 0) -> ImageSet:
    """`count` images of a split of the mini world from `start` on, at the side of the samples."""
    from codevar.mini.world import SPLITS, World

    if split not in SPLITS:
        raise UsageError(f"mini:{split}: the mini world has {', '.join(SPLITS)}")
    if size[0] != size[1] or size[0] % 8:
        raise UsageError(f"mini:{split}: its images are square, the samples {_by(size)} pixels")
    world = World(side=size[0])

    def chunks() -> Iterator[Chunk]:
        for first in range(0, count, CHUNK):
            images, _ = world.images(split, start + first, min(CHUNK, count - first))
            array = images.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
            yield Chunk(hashlib.sha256(array.tobytes()).hexdigest(), len(array), array.copy)

    return ImageSet(f"mini:{split}", count, size, chunks)


# The same images, otherwise


def first_of(images: ImageSet, count: int) -> ImageSet:
    """The first `count` images of a set."""

    def chunks() -> Iterator[Chunk]:
        left = count
        for chunk in images.chunks():
            if left <= 0:
                return
            yield chunk if chunk.count <= left else _cut(chunk, left)
            left -= chunk.count

    labels = None if images.labels is None else images.labels[:count]
    return replace(images, count=count, chunks=chunks, labels=labels)


def as_jpeg(images: ImageSet, quality: int) -> ImageSet:
    """What is left of a set's images once they were JPEG files of this quality (1 to 95)."""

    def chunks() -> Iterator[Chunk]:
        for chunk in images.chunks():
            digest = digest_of([chunk.digest, f"JPEG {quality}"])
            yield Chunk(digest, chunk.count, partial(_through_jpeg, chunk, quality))

    return replace(images, chunks=chunks)


def _cut(chunk: Chunk, count: int) -> Chunk:
    return Chunk(digest_of([chunk.digest, str(count)]), count, lambda: chunk.pixels()[:count])


def _through_jpeg(chunk: Chunk, quality: int) -> Pixels:
    def again(image_HW3: Pixels) -> Pixels:
        file = io.BytesIO()
        Image.fromarray(image_HW3).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return np.stack([again(image) for image in chunk.pixels()])


def digest_of(digests: Sequence[str]) -> str:
    """Of a set, from those of its chunks."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()
