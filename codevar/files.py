"""Where weights are kept, the sizes that a file tells, and how any file is written.

Nothing here loads torch but reading a pickle, so that a case can be checked without it.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import platform
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from codevar.config import VARConfig, VQVAEConfig
from codevar.scales import PATCH_SIZES_256, Scales
from codevar.shapes import Shapes

if TYPE_CHECKING:
    import torch

Read = TypeVar("Read")

#: Published name -> (hub repository, file).
PUBLISHED = {
    "vae_ch160v4096z32": ("FoundationVision/var", "vae_ch160v4096z32.pth"),
    **{f"var_d{d}": ("FoundationVision/var", f"var_d{d}.pth") for d in (16, 20, 24, 30, 36)},
    **{f"drafter_{n}": ("Zigeng/VAR_CoDe", f"drafter_{n}.pth") for n in (6, 7, 8, 9)},
    **{f"refiner_{n}": ("Zigeng/VAR_CoDe", f"refiner_{n}.pth") for n in (6, 7, 8, 9)},
}

#: Name -> file of the mini world's trained models (`codevar.mini`), each with a card beside it.
SHIPPED = {
    f"mini_{path.stem}": path
    for path in sorted((Path(__file__).parent / "mini" / "weights").glob("*.safetensors"))
}


class CheckpointError(ValueError):
    """A source that cannot be loaded; the message is one line that names it."""


#: What `tomllib` raises: also for other encodings, for numbers of thousands of digits, and for
#: deep nesting.
NO_TOML = (ValueError, RecursionError)
CUDA_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


def is_oom(e: BaseException) -> bool:
    """Whether memory ran out: by the exception's type (torch's by name, as this file does without
    torch) or number.  Torch's CPU allocator has no exception of its own; it says its name."""
    kinds = {kind.__name__ for kind in type(e).__mro__}
    if "AcceleratorError" in kinds:  # where CUDA itself takes memory, as for a context
        return getattr(e, "error_code", None) == CUDA_OUT_OF_MEMORY
    if isinstance(e, OSError):
        return e.errno == errno.ENOMEM
    cpu_allocator = isinstance(e, RuntimeError) and "DefaultCPUAllocator" in str(e)
    return isinstance(e, MemoryError) or "OutOfMemoryError" in kinds or cpu_allocator


def file_of(source: str | os.PathLike[str], download: bool) -> Path:
    """The file of a published or shipped name, or of a path."""
    if source in PUBLISHED:
        return hub_file(str(source), *PUBLISHED[str(source)], download)
    return SHIPPED.get(str(source), Path(source))


def hub_file(name: str, repo: str, file: str, download: bool) -> Path:
    """A file of a hub repository, from the hub's local cache unless asked to download.

    Raises CheckpointError, which calls it `name`.
    """
    # `hf_hub_download(local_files_only=True)` talks to the network all the same.
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    missing = f"{name}: {file} of {repo} is not cached here"
    if not download:
        cached = try_to_load_from_cache(repo, file)
        if not isinstance(cached, str):
            raise CheckpointError(f"{missing}; pass download=True")
        return Path(cached)
    try:
        return Path(hf_hub_download(repo, file))
    except LocalEntryNotFoundError as e:
        raise CheckpointError(f"{missing}; the hub cannot be reached") from e
    except (HfHubHTTPError, OSError) as e:
        raise CheckpointError(f"{name}: {first_line(e)}") from e


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A file's state dict.  Raises CheckpointError."""
    return _opened(path, _load)


def _opened(path: Path, read: Callable[[Path], Read]) -> Read:
    """What `read` makes of a file.  Raises CheckpointError for one that is none or damaged."""
    try:
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "no such file, and no published name"
            raise CheckpointError(f"{path}: {kind}")
        return read(path)
    except CheckpointError:
        raise
    except OSError as e:
        if is_oom(e):
            raise
        raise CheckpointError(f"{path}: {e.strerror or first_line(e)}") from e
    except pickle.UnpicklingError as e:
        raise CheckpointError(f"{path}: no state dict of plain tensors, or damaged") from e
    except Exception as e:  # torch and safetensors raise a dozen kinds for damaged files
        if is_oom(e):
            raise
        raise CheckpointError(f"{path}: damaged or no checkpoint ({first_line(e)})") from e


def _load(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    # Files from before torch 1.6 are no zip archives and cannot be mapped.
    if mapped := zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inflated = sum(entry.file_size for entry in archive.infolist())
        if inflated > path.stat().st_size:  # torch.save compresses nothing; this may fill memory
            raise CheckpointError(f"{path}: is compressed inside; save it with torch.save")
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds {type(loaded).__name__}, not a state dict")
    return loaded


#: Tensors that tell a model from others: of a VAR, of a VQVAE.
VAR_MARK, VQVAE_MARK = "pos_1LC", "quantize.embedding.weight"


def state_dict_of(loaded: Mapping[Any, Any], where: str, mark: str | None) -> dict[Any, Any]:
    """The one state dict in what a trainer saved, without the prefixes of what wrapped its model.

    mark: a tensor that the model has; None for a VAR, or a VQVAE if there is none.
    Says on the log what was taken.  Raises CheckpointError unless there is exactly one.
    """
    path, found = "", {_unwrapped(name): value for name, value in loaded.items()}
    if found and not any(hasattr(value, "shape") for value in found.values()):
        held = dict(_state_dicts(loaded))
        marks = [mark] if mark else [VAR_MARK, VQVAE_MARK]
        fits = next((f for m in marks if (f := {p: d for p, d in held.items() if m in d})), {})
        if len(fits) != 1:
            alone = f"one of {', '.join(fits)}" if fits else "the model's state dict"
            raise CheckpointError(
                f"{where}: no state dict but {', '.join(map(str, loaded))}; save {alone} alone"
            )
        ((path, found),) = fits.items()
    if path or found.keys() != loaded.keys():
        _say(f"{where}: a trainer's checkpoint; taken: {path or 'all, without a prefix'}")
    return found


def _state_dicts(loaded: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in loaded.items():
        if isinstance(value, Mapping):
            if any(hasattr(one, "shape") for one in value.values()):
                yield f"{above}{key}", {_unwrapped(n): tensor for n, tensor in value.items()}
            else:
                yield from _state_dicts(value, f"{above}{key}.")


def check_tensors(tensors: Mapping[Any, Any], where: str) -> None:
    """Raises CheckpointError unless each is a real tensor that holds every number of its own."""
    import torch

    for name, tensor in tensors.items():
        wrong = None
        if not isinstance(name, str):
            raise CheckpointError(f"{where}: {name!r} is no name of a tensor")
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{where}: {name} is no tensor but {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            wrong = "is sparse; save it with .to_dense()"
        elif tensor.is_meta:
            wrong = "has no data (device meta); save the weights themselves"
        elif tensor.is_complex() or tensor.is_quantized:
            wrong = f"is {tensor.dtype}; save it as floating numbers"
        elif tensor.nbytes > tensor.untyped_storage().nbytes():
            wrong = "repeats its numbers; save it with .contiguous()"
        if wrong:
            raise CheckpointError(f"{where}: {name} {wrong}")


def _unwrapped(name: Any) -> Any:
    """A tensor's name without what torch.compile and DistributedDataParallel add."""
    if not isinstance(name, str):
        return name
    return name.replace("_orig_mod.", "").removeprefix("module.")


@cache
def _say(line: str) -> None:
    logging.getLogger("codevar").warning(line)


def shapes_of(source: str, mark: str) -> tuple[Shapes, tuple[int, ...] | None]:
    """Shapes of a file's tensors, and its pyramid where it tells.  mark: as `state_dict_of`.

    Raises CheckpointError.
    """
    path = file_of(source, download=False)
    read = _header if path.suffix == ".safetensors" else _pickled_header
    shapes, levels = _opened(path, partial(read, mark=mark))
    return shapes, None if levels is None else pyramid_of(levels, str(path))


def _header(path: Path, mark: str) -> tuple[Shapes, list[int] | None]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {_unwrapped(name): tuple(one.get_shape()) for name, one in slices.items()}
        levels = next((file.get_tensor(n) for n in slices if _unwrapped(n) == "lvl_1L"), None)
    return shapes, None if levels is None else levels.flatten().tolist()


def _pickled_header(path: Path, mark: str) -> tuple[Shapes, list[int] | None]:
    tensors = state_dict_of(_load(path), str(path), mark)
    check_tensors(tensors, str(path))
    levels = tensors["lvl_1L"].flatten().tolist() if "lvl_1L" in tensors else None
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}, levels


def pyramid_of(level_of_token: Iterable[int], where: str) -> tuple[int, ...]:
    """Patch sizes, from a file's `lvl_1L`.  Raises CheckpointError."""
    return sized(f"{where}: lvl_1L", lambda: Scales.from_level_of_token(level_of_token)).patch_sizes


def var_config(source: str) -> VARConfig:
    """Sizes of a VAR of `SHIPPED` or of a file.

    Raises CheckpointError as `load_var` does.
    """
    shapes, pyramid = shapes_of(source, VAR_MARK)
    return sized(source, lambda: VARConfig.from_shapes(shapes, pyramid))


def vqvae_config(source: str) -> VQVAEConfig:
    """Sizes of a VQVAE, as `var_config`."""
    shapes, pyramid = shapes_of(source, VQVAE_MARK)
    return sized(source, lambda: VQVAEConfig.from_shapes(shapes, pyramid or PATCH_SIZES_256))


def sized(where: str, read: Callable[[], Read]) -> Read:
    """What `read` makes of a state dict's shapes.  Raises CheckpointError."""
    try:
        return read()
    except KeyError as e:
        raise CheckpointError(f"{where}: tensor {e.args[0]} is missing") from e
    except (ValueError, IndexError, ZeroDivisionError) as e:
        raise CheckpointError(f"{where}: {first_line(e)}") from e


def first_line(e: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    return (str(e).strip().splitlines() or [type(e).__name__])[0]


STALLED_S = 3600  # a file that is being written changes more often
_tidied: set[Path] = set()


@contextmanager
def atomic_write(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Where to write a file that appears under its name complete, or not at all.

    Makes the folder if need be.  Whatever is raised, the OSError of a full disk included, leaves
    the file that was there before.  Two processes may write the same path at once.
    sync: on disk when this returns; without it a power cut may leave a file that is cut short.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")
    try:
        part.touch()
        _remove_leftovers(path.parent, part.stat().st_mtime)
        yield part
        part.chmod(0o644)  # safetensors writes for its owner only
        if sync:
            _flush(part)
        os.replace(part, path)
        if sync:
            _flush(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _remove_leftovers(folder: Path, now: float) -> None:
    """Removes what killed processes left half written; once for each folder.

    Of this machine those whose process is gone; of others, as of a container whose name is new at
    each start, those that nobody has written to for STALLED_S.  now: by the clock of the folder's
    file system.
    """
    if folder in _tidied:
        return
    _tidied.add(folder)
    import psutil

    for part in folder.glob(".*.part"):
        host, _, process = part.stem.rpartition(".")
        if not process.isdecimal():
            continue
        with suppress(OSError):  # another process may tidy too
            if host.endswith(f".{platform.node()}"):
                gone = not psutil.pid_exists(int(process))
            else:
                gone = now - part.stat().st_mtime > STALLED_S
            if gone:
                part.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
