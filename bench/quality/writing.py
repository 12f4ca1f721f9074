"""Images to disk while the next ones are decoded: in threads, each file whole or not at all.

What is on disk is the only book that is kept of what is done: a file stands under the number of
its image, so that no image is ever there twice, and what is missing is what there is to do.

Shapes: B images of a batch, H W pixels.
"""

import os
import shutil
import time
import zipfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image

from bench.quality.images import npy_header, pixels_of
from bench.quality.sample_set import NPZ, Images, png_of
from codevar.files import atomic_write

THREADS = 4
BATCHES_WAITING = 2  # to be written, before decoding waits
# Twice as fast as zlib's usual 6, and the file is 7 % larger.
PNG_LEVEL = 1


class ImageFiles:
    """The images of a set as files in its folder: `shard-00000/00000000.png`, 1000 a shard.

    packed: when all are there they become one `samples.npz`, and the files are deleted; for a
    moment the images are on disk twice.
    """

    def __init__(self, folder: Path, images: int, side: int, packed: bool) -> None:
        self.folder, self.packed, self.npz = folder, packed, folder / NPZ
        self.shape = (images, side, side, 3)
        self.files = [folder / png_of(number) for number in range(images)]

    def missing(self) -> list[int]:
        """Numbers of the images that are not there, or not whole."""
        if self.packed and self._is_packed():
            return []
        shards = {file.parent for file in self.files}
        found = {file for shard in shards if shard.is_dir() for file in shard.iterdir()}
        return [
            number
            for number, file in enumerate(self.files)
            if file not in found or not is_whole_png(file, self.shape[1])
        ]

    def finish(self, labels: NDArray[np.int64]) -> None:
        """When all are there.  Raises OSError, and UsageError for an image that is damaged."""
        if not self.packed:
            return
        if not self._is_packed():
            with atomic_write(self.npz) as part:
                self._pack(part, labels)
        for shard in {file.parent for file in self.files}:
            shutil.rmtree(shard, ignore_errors=True)

    def _is_packed(self) -> bool:
        try:
            with zipfile.ZipFile(self.npz) as file, file.open("arr_0.npy") as array:
                return npy_header(array) == (self.shape, False, np.uint8)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return False

    def _pack(self, path: Path, labels: NDArray[np.int64]) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
            with packed.open("arr_0.npy", "w", force_zip64=True) as array:
                np.lib.format.write_array_header_1_0(array, header)
                for image in self.files:
                    array.write(pixels_of(image, image.read_bytes()).tobytes())
            with packed.open("arr_1.npy", "w") as array:
                np.save(array, labels, allow_pickle=False)


class Writer:
    """Threads that write batches, and how long decoding stood still because they were behind.

    waited_s: seconds spent in `add` and `finish`.  A GPU works on meanwhile if it was given a
    batch before, so this is the most that writing held it up.
    """

    def __init__(self, files: ImageFiles, threads: int) -> None:
        self.files, self.waited_s = files, 0.0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="write")
        self._waiting: deque[list[Future[None]]] = deque()

    def add(self, numbers: Sequence[int], images: Images) -> None:
        """Raises OSError if an earlier batch could not be written."""
        self._wait_for_all_but(BATCHES_WAITING)
        files = [self.files.files[number] for number in numbers]
        self._waiting.append([*map(self._pool.submit, repeat(write_png), files, images)])

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
    here = os.environ.get("LOCAL_WORLD_SIZE", "") if dist.is_initialized() else ""  # or left over
    cores = (os.cpu_count() or 1) // max(1, int(here) if here.isdecimal() else 1)
    return max(1, min(THREADS, cores))


def write_png(path: Path, image_HWC: Images) -> None:
    """Under its name when it is complete.  Raises OSError."""
    # Not synced, which would take longer than all the rest: a power cut leaves files that are
    # cut short, and those are made again.
    with atomic_write(path, sync=False) as part:
        Image.fromarray(image_HWC).save(part, "PNG", compress_level=PNG_LEVEL)


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
