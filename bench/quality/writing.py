"""Images to disk while the next ones are decoded: in threads, each file whole or not at all.

What is on disk is the only book that is kept of what is done: a file stands under the number of
its image, so that no image is ever there twice, and what is missing is what there is to do.

Shapes: B images of a batch, H W pixels.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.quality.sample_set import NPZ, PARTS, Images, npy_header, png_of
from codevar.files import atomic_write

THREADS = 4
BATCHES_WAITING = 2  # to be written, before decoding waits
# Twice as fast as zlib's usual 6, and the file is 7 % larger.
PNG_LEVEL = 1

Job = Callable[[], None]


class Form(Protocol):
    """How the images of a set lie in its folder."""

    def missing(self) -> list[int]:
        """Numbers of the images that are not there, or not whole."""
        ...

    def jobs(self, numbers: Sequence[int], images: Images) -> list[Job]:
        """What is to be done to write them, in any order."""
        ...

    def finish(self, labels: NDArray[np.int64]) -> None:
        """When all are there."""
        ...


class PngShards:
    """`shard-00000/00000000.png`, 1000 images a folder."""

    def __init__(self, folder: Path, images: int, side: int) -> None:
        self.folder, self.images, self.side = folder, images, side

    def missing(self) -> list[int]:
        found: set[str] = set()
        for shard in {png_of(number).parent for number in range(self.images)}:
            if (self.folder / shard).is_dir():
                found.update(entry.name for entry in os.scandir(self.folder / shard))
        return [
            number
            for number in range(self.images)
            if png_of(number).name not in found
            or not is_whole_png(self.folder / png_of(number), self.side)
        ]

    def jobs(self, numbers: Sequence[int], images: Images) -> list[Job]:
        return [
            partial(write_png, self.folder / png_of(number), image)
            for number, image in zip(numbers, images, strict=True)
        ]

    def finish(self, labels: NDArray[np.int64]) -> None:
        pass


class NpzParts:
    """`parts/00000000-00000063.npy` of images in a row, and `samples.npz` made of them.

    Files of their own, since several machines may write, and rows of one mapped file share
    pages.  For a moment in the end the images are on disk twice.
    """

    def __init__(self, folder: Path, images: int, side: int) -> None:
        self.folder, self.file = folder / PARTS, folder / NPZ
        self.shape = (images, side, side, 3)

    def missing(self) -> list[int]:
        if self._is_finished():
            return []
        there = {number for span, _ in self._parts() for number in span}
        return [number for number in range(self.shape[0]) if number not in there]

    def _is_finished(self) -> bool:
        try:
            with zipfile.ZipFile(self.file) as file, file.open("arr_0.npy") as array:
                return npy_header(array) == (self.shape, np.uint8)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return False

    def _parts(self) -> Iterator[tuple[range, Path]]:
        """What can be read, in the order of the images."""
        for path in sorted(self.folder.glob("*.npy")):
            name = re.fullmatch(r"(\d+)-(\d+)\.npy", path.name)
            if not name:
                continue
            span = range(int(name[1]), int(name[2]) + 1)
            try:
                shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
            except (OSError, ValueError, EOFError):
                continue
            if shape == (len(span), *self.shape[1:]):
                yield span, path

    def jobs(self, numbers: Sequence[int], images: Images) -> list[Job]:
        gaps = [i for i, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1]
        return [
            partial(self._write_part, numbers[start:end], images[start:end])
            for start, end in pairwise([0, *gaps, len(numbers)])
        ]

    def _write_part(self, numbers: Sequence[int], images: Images) -> None:
        path = self.folder / f"{numbers[0]:08d}-{numbers[-1]:08d}.npy"
        with atomic_write(path) as part, part.open("wb") as file:
            np.save(file, images, allow_pickle=False)

    def finish(self, labels: NDArray[np.int64]) -> None:
        if not self._is_finished():
            with atomic_write(self.file) as part:
                self._zip(part, labels)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _zip(self, path: Path, labels: NDArray[np.int64]) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
            with packed.open("arr_0.npy", "w", force_zip64=True) as array:
                np.lib.format.write_array_header_1_0(array, header)
                for _, path in self._parts():
                    array.write(np.load(path, allow_pickle=False).data)
            with packed.open("arr_1.npy", "w") as array:
                np.save(array, labels, allow_pickle=False)


FORMS: dict[str, type[PngShards] | type[NpzParts]] = {"png": PngShards, "npz": NpzParts}


class Writer:
    """Threads that write batches, and how long decoding stood still because they were behind.

    waited_s: seconds spent in `add` and `finish`.  A GPU works on meanwhile if it was given a
    batch before, so this is the most that writing held it up.
    """

    def __init__(self, form: Form, threads: int) -> None:
        self.form, self.waited_s = form, 0.0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="write")
        self._waiting: deque[list[Future[None]]] = deque()

    def add(self, numbers: Sequence[int], images: Images) -> None:
        """Raises OSError if an earlier batch could not be written."""
        self._wait_for_all_but(BATCHES_WAITING)
        jobs = self.form.jobs(numbers, images)
        self._waiting.append([self._pool.submit(job) for job in jobs])

    def finish(self) -> None:
        """Returns when all is written.  Raises OSError."""
        self._wait_for_all_but(0)

    def close(self) -> None:
        """Writes what it was given, as far as that can be written."""
        self._pool.shutdown()

    def _wait_for_all_but(self, batches: int) -> None:
        began = time.perf_counter()
        while len(self._waiting) > batches:
            for job in self._waiting.popleft():
                job.result()
        self.waited_s += time.perf_counter() - began


def threads_here() -> int:
    """Writers of this process, of which torchrun may have started several on this machine."""
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(THREADS, cores))


def write_png(path: Path, image_HWC: Images) -> None:
    image = Image.fromarray(image_HWC)
    # Not synced, which would take longer than all the rest: a power cut leaves files that are
    # cut short, and those are made again.
    with atomic_write(path, sync=False) as part:
        image.save(part, "PNG", compress_level=PNG_LEVEL)


def is_whole_png(path: Path, side: int) -> bool:
    """Whether a file begins and ends as a PNG of this size does; says nothing of the middle."""
    begin = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + side.to_bytes(4, "big") * 2
    end = b"\0\0\0\0IEND\xaeB`\x82"
    try:
        with path.open("rb") as file:
            first = file.read(len(begin))
            file.seek(-len(end), os.SEEK_END)
            return first == begin and file.read() == end
    except OSError:  # also if it is too short
        return False
