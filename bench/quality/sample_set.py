"""A sample set: a folder of images made by one case, every class equally often.

    samples.json                     what they are and how they were made: `Manifest`
    shard-00000/00000000.png ...     the PNG form: 1000 images a shard, named by image number
    samples.npz                      the npz form: arr_0 uint8 (N, H, W, 3), as OpenAI's evaluator
                                     reads it, and arr_1 int64 (N,) classes
    parts/                           of the npz form, as long as it grows

Image i is of class i % classes, so that any first part of a set is balanced.

Shapes: N images of a set, B of a batch, H W pixels.
"""

from __future__ import annotations

import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing's own before Python 3.12 lacks what pydantic needs

from bench.study.errors import UsageError
from bench.study.storage import read_json

SCHEMA = 1
FILE = "samples.json"
NPZ = "samples.npz"
PARTS = "parts"
SHARD = 1000  # images in a folder

Images = NDArray[np.uint8]  # (B, H, W, 3)


class SamplingNumbers(TypedDict):
    """What the preset came to: a number for each scale (`codevar.Sampling.numbers`)."""

    cfg: list[float]
    top_k: list[int]
    top_p: list[float]
    temperature: list[float]
    more_smooth: bool


class RunEntry(TypedDict):
    """One start of the program that made a part of the set.

    images, seconds: made, and in what time without loading; None if it was killed.
    waited_s: of that, how long decoding stood still because writing was behind; the first
    process speaks for all.
    """

    started_at: str
    machine: str
    torch: str | None
    commit: str | None
    dirty: bool | None
    processes: int
    batch_size: int
    images: int | None
    seconds: float | None
    waited_s: float | None


class Manifest(TypedDict):
    """`samples.json`.

    case: `bench.study.cases.Case`.  sampling: the preset's numbers at each scale.  seed: of the
    set; image i has `image_seed(seed, i)`.  images: of the whole set.  finished: all were there
    when this was written.  sources: of the models.  weights_sha256: by source, of the tensors of
    the models and the VQVAE; seeded weights have none, and sets of earlier versions lack the
    VQVAE's.  images_per_s: over all runs that ended in order.  machine, torch, commit, dirty: the
    last run's.
    """

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    schema: Literal[1]
    case: dict[str, Any]
    label: str
    preset: str
    sampling: SamplingNumbers
    seed: int
    per_class: int
    classes: int
    images: int
    side: int
    format: Literal["png", "npz"]
    sources: list[str]
    weights_sha256: dict[str, str]
    machine: str
    torch: str | None
    commit: str | None
    dirty: bool | None
    finished: bool
    images_per_s: float | None
    waited_for_writing_s: float | None
    runs: list[RunEntry]


MANIFEST = TypeAdapter(Manifest)


def image_seed(seed: int, number: int) -> int:
    """The seed of one image of a set: what `codevar.decode(..., seed=[...])` makes it from."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])


def common(one: dict[str, str], other: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What two manifests both have a hash of: of the VQVAE an older one has none."""
    both = one.keys() & other.keys()
    return {name: one[name] for name in both}, {name: other[name] for name in both}


def png_of(number: int) -> Path:
    """Where an image stands, from the set's folder."""
    return Path(f"shard-{number // SHARD:05d}", f"{number:08d}.png")


def read_manifest(folder: Path) -> Manifest | None:
    """None if the folder holds no set.  Raises UsageError for a damaged or newer one."""
    file = folder / FILE
    values = read_json(file)
    if values is None:
        return None
    version = values.get("schema") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise UsageError(f"{file}: schema {version}: newer than this program; update it")
    try:
        return MANIFEST.validate_python(values)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{file}: damaged ({where or 'all of it'}: {first['msg']})") from None


@dataclass(frozen=True)
class SampleSet:
    """A set to read from.  Every method raises UsageError for an image that is missing, damaged
    or of another size: one line that names it."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> SampleSet:
        """Raises UsageError for a folder without a set, or with one that is not finished."""
        manifest = read_manifest(folder)
        if manifest is None:
            raise UsageError(f"{folder}: no {FILE} here; `bench.py sample` makes a sample set")
        if not manifest["finished"]:
            raise UsageError(f"{folder}: not finished; `bench.py sample ... --resume` goes on")
        return cls(folder, manifest)

    def __len__(self) -> int:
        return self.manifest["images"]

    @property
    def side(self) -> int:
        return self.manifest["side"]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) classes."""
        return np.arange(len(self), dtype=np.int64) % self.manifest["classes"]

    def batches(self, batch_size: int, threads: int = 4) -> Iterator[Images]:
        """All images in order, (B, H, W, 3) each; a batch is read ahead of the one in use."""
        spans = [
            range(first, min(first + batch_size, len(self)))
            for first in range(0, len(self), batch_size)
        ]
        return (
            self._from_npz(spans)
            if self.manifest["format"] == "npz"
            else self._from_png(spans, threads)
        )

    def _from_png(self, spans: list[range], threads: int) -> Iterator[Images]:
        with ThreadPoolExecutor(threads) as pool:
            ahead: deque[list[Future[Images]]] = deque()
            for span in spans:
                ahead.append([pool.submit(self._png, number) for number in span])
                if len(ahead) > 1:
                    yield np.stack([image.result() for image in ahead.popleft()])
            for rest in ahead:
                yield np.stack([image.result() for image in rest])

    def _png(self, number: int) -> Images:
        """(H, W, 3)"""
        path = self.folder / png_of(number)
        again = "`bench.py sample ... --resume` makes it again"
        try:
            with Image.open(path, formats=["PNG"]) as opened:
                image = np.asarray(opened.convert("RGB"))
        except FileNotFoundError:
            raise UsageError(f"{path}: missing; {again}") from None
        except (OSError, SyntaxError, ValueError):  # Pillow raises all of them for damaged files
            raise UsageError(f"{path}: damaged; delete it and {again}") from None
        if image.shape != (self.side, self.side, 3):
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise UsageError(f"{path}: {size} pixels, the set's are {self.side} x {self.side}")
        return image

    def _from_npz(self, spans: list[range]) -> Iterator[Images]:
        path, wanted = self.folder / NPZ, (len(self), self.side, self.side, 3)
        try:
            with zipfile.ZipFile(path) as file, file.open("arr_0.npy") as array:
                shape, dtype = npy_header(array)
                if (shape, dtype) != (wanted, np.uint8):
                    raise UsageError(f"{path}: arr_0 is {dtype} {shape}, expected uint8 {wanted}")
                for span in spans:
                    size = len(span) * int(np.prod(wanted[1:]))
                    content = bytearray(array.read(size))
                    if len(content) != size:
                        raise UsageError(f"{path}: cut short")
                    yield np.frombuffer(content, np.uint8).reshape(len(span), *wanted[1:])
        except FileNotFoundError:
            raise UsageError(f"{path}: missing; `bench.py sample` makes it anew") from None
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as e:
            if isinstance(e, UsageError):
                raise
            raise UsageError(f"{path}: damaged ({e})") from None


def npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that an open `.npy` holds; its rows come next.

    Raises ValueError for anything but a plain array in C order.
    """
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"npy version {version}")
    shape, fortran, dtype = read[version](file)
    if fortran or dtype.hasobject:
        raise ValueError("no plain array")
    return shape, dtype
