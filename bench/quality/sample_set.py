"""A sample set: a folder of images made by one case, every class equally often.

    samples.json                     what they are and how they were made: `Manifest`
    shard-00000/00000000.png ...     the PNG form: 1000 images a shard, named by image number
    samples.npz                      the npz form: arr_0 uint8 (N, H, W, 3), as OpenAI's evaluator
                                     reads it, and arr_1 int64 (N,) classes

Image i is of class i % classes, so that any first part of a set is balanced.

Shapes: N images of a set, B of a batch, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing's own before Python 3.12 lacks what pydantic needs

from bench.study.errors import UsageError
from bench.study.storage import read_json

SCHEMA = 1
FILE = "samples.json"
NPZ = "samples.npz"
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

    case: `bench.study.cases.Case`.  sampling: the preset's numbers at each scale, if there are.
    seed: of the set; image i has `image_seed(seed, i)`.  images: of the whole set.  finished: all
    were there when this was written.  sources: of the models.  weights_sha256: by source, of the
    tensors of the models and the VQVAE; seeded weights have none, and sets of earlier versions lack
    the VQVAE's.  images_per_s: over all runs that ended in order.  machine, torch, commit, dirty:
    the last run's.  A set whose case names a file of calibrated settings has its settings_sha256,
    too, by name.
    """

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    schema: Literal[1]
    case: dict[str, Any]
    label: str
    preset: str
    sampling: SamplingNumbers | None
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
    """A finished set; `bench.quality.images.open_images` reads its images."""

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
        """Pixels along a side of an image."""
        return self.manifest["side"]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) classes."""
        return np.arange(len(self), dtype=np.int64) % self.manifest["classes"]
