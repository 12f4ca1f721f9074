"""Sample sets of a case: made by one process or by all that torchrun starts, in any batches.

Image i depends on its class and on `image_seed(seed, i)` alone, so that it can be made again
alone (`decode`).  That is so but for rounding: the last bits of a matrix product depend on the
shape of the batch.  Therefore batches are cut at the same numbers whatever is missing, and only
what is missing is written: one batch size is one set to the bit, however often it was stopped
and by however many processes it was made.

Shapes: B images of a batch, H W pixels.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
import torch.distributed as dist
from filelock import FileLock, Timeout

from bench.measure.devices import check_weights
from bench.methods.adapter import Adapter
from bench.methods.loaded import Loaded, LoadedAdapter
from bench.methods.loaded import load as load_case
from bench.methods.meta import check_depths, configs, meta_plan, vqvae_config
from bench.methods.sources import reason, sources_of
from bench.quality.sample_set import (
    FILE,
    SCHEMA,
    Images,
    Manifest,
    RunEntry,
    SampleSet,
    common,
    image_seed,
    read_manifest,
)
from bench.quality.wanted import FREE, Wanted
from bench.quality.writing import ImageFiles, Writer, threads_here
from bench.study.cases import Case, VARCase
from bench.study.errors import UsageError
from bench.study.storage import write_json
from codevar.checkpoints import check_var, check_vqvae, weights_sha256
from codevar.decoding import Choose, check_finite, generate, images_of
from codevar.files import CheckpointError, is_oom
from codevar.outputs import Generated
from codevar.progress import Progress
from codevar.train import TrainError, parallel
from codevar.train.parallel import Group

__all__ = ["SampleSet", "decode", "image_seed", "sample"]

Result = TypeVar("Result")


class FirstProcessError(UsageError):
    """What stopped all processes; the first one prints it."""


def sample(
    wanted: Wanted,
    folder: Path,
    env: dict[str, Any],
    progress: Progress,
    *,
    resume: bool = False,
    download: bool = False,
) -> SampleSet:
    """Makes what is not there of the set; gives the whole set.

    env: `machine.environment()`.  resume: goes on with what the folder holds.
    Raises UsageError for what stops it; the images there are then remain valid.
    """
    try:
        group = parallel.join(wanted.case.device)
    except TrainError as e:
        raise UsageError(str(e)) from None
    progress = progress if group.first else Progress(quiet=True)
    with together(group, lambda: hold(folder) if group.first else nullcontext()):
        before = from_first(group, lambda: look(folder, wanted, resume))
        if before and before["finished"] and not from_first(group, lambda: gaps(folder, before)):
            return SampleSet(folder, before)
        loaded = together(group, lambda: load(wanted.case, download, str(group.device)))
        manifest = from_first(group, lambda: begin(folder, wanted, loaded, before, env, group))
        missing = from_first(group, lambda: gaps(folder, manifest))
        make(loaded, folder, manifest, missing, group, progress)
        return SampleSet(folder, from_first(group, lambda: finish(folder, manifest)))


def decode(loaded: Loaded | LoadedAdapter, seed: int, numbers: Sequence[int]) -> torch.Tensor:
    """(B, H, W, 3) uint8: the images of a set with these numbers, on the device.  Somebody else's
    code has one seed for all, the first one's."""
    if isinstance(loaded, Loaded):
        return pixels(loaded, generated(loaded, seed, numbers))
    labels = [number % loaded.case.classes for number in numbers]
    with one_line(loaded.case):
        return bytes_of(loaded.draw(labels, image_seed(seed, numbers[0])))


def tokens_of(loaded: Loaded, seed: int, numbers: Sequence[int]) -> torch.Tensor:
    """(B, L) the tokens of these images.

    Raises FloatingPointError for models whose numbers are not finite, which no token shows.
    """
    made = generated(loaded, seed, numbers)
    check_finite(loaded.how, made.f_hat)
    return made.tokens


def generated(
    loaded: Loaded, seed: int, numbers: Sequence[int], choose: Choose | None = None
) -> Generated:
    """The images of a set up to the VQVAE's decoder.  choose: as for `generate`."""
    classes = loaded.plan.models[0].config.classes
    return generate(
        loaded.plan,
        loaded.vqvae,
        [number % classes for number in numbers],
        loaded.case.sampling_settings(),
        [image_seed(seed, number) for number in numbers],
        loaded.how,
        choose=choose,
    )


def pixels(loaded: Loaded, made: Generated) -> torch.Tensor:
    """(B, H, W, 3) uint8."""
    with one_line(loaded.case):
        return bytes_of(images_of(made, loaded.vqvae, loaded.how))


def bytes_of(images_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8."""
    # Cut off, not rounded, as the published sampling of VAR and CoDe does.
    images_BCHW = images_BCHW.mul_(255).to(torch.uint8)
    return images_BCHW.permute(0, 2, 3, 1).contiguous()


# Before: what the folder holds, and what is to be done


def hold(folder: Path) -> AbstractContextManager:
    """The folder, for this run alone until the end of the block."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise UsageError(f"{folder}: another run is writing here; choose another --out") from None
    except OSError as e:
        raise UsageError(f"{folder}: cannot be written ({e.strerror}); choose --out") from None


def look(folder: Path, wanted: Wanted, resume: bool) -> Manifest | None:
    """What the folder holds already, if it may go on."""
    before = read_manifest(folder)
    if before is None:
        if any(folder.glob("shard-*")) or any(folder.glob("*.npz")):
            raise UsageError(f"{folder}: holds images but no {FILE}; choose another --out")
        return None
    if not resume:
        raise UsageError(f"{folder}: holds a sample set; --resume goes on, or choose another --out")
    check_same(folder, before, wanted.values)
    check_unchanged(folder, before)
    return before


def check_unchanged(folder: Path, before: Manifest) -> None:
    """Raises UsageError if weights are others by now than those the folder's images are of."""
    for source, sha256 in before["weights_sha256"].items():
        try:
            now = weights_sha256(source)
        except CheckpointError:  # they are gone, which a finished set does not mind
            continue
        if now != sha256:
            raise UsageError(
                f"{folder}: {source} has changed since these samples were made; choose another "
                "--out, or remove the folder"
            )


def check_same(folder: Path, before: Manifest, now: dict[str, Any]) -> None:
    """Raises UsageError if the folder's images are others than `now` says."""
    old = flat({key: before.get(key) for key in now})
    new = flat(now)
    differ = [key for key in {**old, **new} if key not in FREE and old.get(key) != new.get(key)]
    if differ:
        key = differ[0]
        raise UsageError(
            f"{folder}: holds other samples ({key} {old.get(key)}, not {new.get(key)}); "
            "choose another --out"
        )


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """With the case's keys among the others; of the two seeds the set's has the name."""
    case = {key: value for key, value in values.get("case", {}).items() if key != "seed"}
    case_seed = {"the case's seed": values["case"]["seed"]} if "case" in values else {}
    return {**case, **{k: v for k, v in values.items() if k != "case"}, **case_seed}


def check(cases: Sequence[Case], download: bool) -> None:
    """Raises UsageError, before anything is loaded, for weights that are not here and for what
    `sizes` refuses."""
    check_weights(cases, download)
    for case in cases:
        sizes(case)


def sizes(case: Case) -> tuple[int, int]:
    """Classes of the case's models and the side of their images, by files' shapes alone.

    Raises UsageError for a file that is not there or none of a model, and for settings that do not
    suit the model.
    """
    if isinstance(case, Adapter):
        return case.classes, case.side
    assert isinstance(case, VARCase)
    with one_line(case):
        plan, vqvae = meta_plan(case), vqvae_config(case)
        (model, *_), (*sources, of_vqvae) = configs(case), sources_of(case)
        if Path(sources[0]).suffix:  # files of one's own, not names
            (model, *others) = map(check_var, sources)
            check_depths(case, [model, *others])
        if Path(of_vqvae).suffix:
            vqvae = check_vqvae(of_vqvae)
        case.sampling_settings().numbers(plan.scales, vqvae.vocab)
    return model.classes, model.patch_sizes[-1] * vqvae.stride


@overload
def load(case: VARCase, download: bool, device: str | None = None) -> Loaded: ...
@overload
def load(case: Case, download: bool, device: str | None = None) -> Loaded | LoadedAdapter: ...
def load(case: Case, download: bool, device: str | None = None) -> Loaded | LoadedAdapter:
    """The case's models, on its device or another.

    Raises UsageError for weights that are missing or do not fit, or too little memory.
    """
    with one_line(case):
        found = load_case(case.model_copy(update={"device": device or case.device}), download)
    assert isinstance(found, Loaded | LoadedAdapter)
    return found


@contextmanager
def one_line(case: Case) -> Iterator[None]:
    """Around what a case's models do: a mistake of the user's, or too little memory, is told in
    one line, as a UsageError."""
    try:
        yield
    except UsageError:
        raise
    except (ValueError, FloatingPointError) as e:  # of `codevar`, a CheckpointError among them
        raise UsageError(f"{case.label}: {e}") from None
    except Exception as e:
        if not is_oom(e):
            raise
        raise UsageError(f"{case.label}: out of memory ({reason(e)})") from None


def begin(
    folder: Path,
    wanted: Wanted,
    loaded: Loaded | LoadedAdapter,
    before: Manifest | None,
    env: dict[str, Any],
    group: Group,
) -> Manifest:
    """Writes the manifest, with this run in it."""
    sources = [str(source) for source in loaded.sources]
    try:
        numbers, classes, side = sizes_of(loaded)
        every = sources_of(wanted.case)
        hashes = {source: sha for source in every if (sha := weights_sha256(source))}
    except ValueError as e:  # a preset for ten scales on a model of another number
        raise UsageError(str(e)) from None
    what = {
        **wanted.values,
        "sampling": numbers,
        "classes": classes,
        "images": wanted.per_class * classes,
        "side": side,
        "sources": sources,
        "weights_sha256": hashes,
    }
    if before:
        # Of a set that was begun without the VQVAE's hash nothing says what decoded its images.
        old, what["weights_sha256"] = common(before["weights_sha256"], hashes)
        check_same(folder, {**before, "weights_sha256": old}, what)
    here = {
        "machine": env["machine"],
        "torch": env["packages"]["torch"],
        "commit": env["commit"],
        "dirty": env["dirty"],
    }
    entry = {
        **here,
        "started_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processes": group.size,
        "batch_size": wanted.case.batch_size,
        "images": None,
        "seconds": None,
        "waited_s": None,
    }
    runs = [*(before["runs"] if before else []), entry]
    manifest = {"schema": SCHEMA, **what, **here, "finished": False, **rate(runs), "runs": runs}
    write_json(folder / FILE, manifest)
    return manifest  # type: ignore[return-value]


def sizes_of(loaded: Loaded | LoadedAdapter) -> tuple[dict[str, Any] | None, int, int]:
    """What the preset comes to, classes, and pixels of a side."""
    if isinstance(loaded, LoadedAdapter):
        return None, loaded.case.classes, loaded.case.side
    vqvae, scales = loaded.vqvae.config, loaded.plan.scales
    numbers = loaded.case.sampling_settings().numbers(scales, vqvae.vocab)
    return numbers, loaded.plan.models[0].config.classes, scales.patch_sizes[-1] * vqvae.stride


def rate(runs: list[Any]) -> dict[str, float | None]:
    """Over the runs that ended in order."""
    ended = [run for run in runs if run["seconds"]]
    if not ended:
        return {"images_per_s": None, "waited_for_writing_s": None}
    seconds = sum(run["seconds"] for run in ended)
    return {
        "images_per_s": sum(run["images"] for run in ended) / seconds,
        "waited_for_writing_s": sum(run["waited_s"] for run in ended),
    }


def files_of(folder: Path, manifest: Manifest) -> ImageFiles:
    packed = manifest["format"] == "npz"
    return ImageFiles(folder, manifest["images"], manifest["side"], packed)


def gaps(folder: Path, manifest: Manifest) -> list[int]:
    """Numbers of the images that are not there."""
    return files_of(folder, manifest).missing()


# The images


def make(
    loaded: Loaded | LoadedAdapter,
    folder: Path,
    manifest: Manifest,
    missing: list[int],
    group: Group,
    progress: Progress,
) -> None:
    """The images that are missing, and the manifest of the whole set.

    A batch is decoded while the one before is on its way to the disk: this process queues it,
    waits for the one before to arrive from the device, and hands that to the writer's threads.
    """
    size, wanted = loaded.case.batch_size, set(missing)
    batches = [
        range(first, min(first + size, manifest["images"]))
        for first in range(0, manifest["images"], size)
    ]
    open_ = [batch for batch in batches if not wanted.isdisjoint(batch)]
    files, entry = files_of(folder, manifest), manifest["runs"][-1]
    writer, began, made = Writer(files, threads_here()), time.perf_counter(), 0
    label, images = manifest["label"], manifest["images"]
    here = images - len(missing)

    def write(batch: range, arriving: Arriving) -> int:
        rows = [row for row, number in enumerate(batch) if number in wanted]
        writer.add([batch[row] for row in rows], arriving.images()[rows])
        return len(rows)

    try:
        if 0 < here < images:
            progress.say(f"{label}: {here} of {images} images were made before")
        with progress:
            progress.show(label, here, images, f"{here}/{images} images")
            before: tuple[range, Arriving] | None = None
            for batch in open_[group.rank :: group.size]:
                queued = batch, Arriving(decode(loaded, manifest["seed"], batch))
                if before:
                    made += write(*before)
                    done = min(here + made * group.size, images)
                    progress.count(label, done, images, "images")
                before = queued
            if before:
                made += write(*before)
            writer.finish()
            progress.count(label, images, images, "images")
        writer.close()
        seconds = time.perf_counter() - began
        counts = in_all(group, (made, writer.waited_s))
        ran(entry, sum(n for n, _ in counts), seconds, max(waited for _, waited in counts))
    except BaseException as e:
        writer.close()
        there = manifest["images"] - len(files.missing())
        if group.size == 1:  # of several, nobody knows what the others made
            made = there - manifest["images"] + len(missing)
            ran(entry, made, time.perf_counter() - began, writer.waited_s)
            with suppress(UsageError):
                write_json(folder / FILE, {**manifest, **rate(manifest["runs"])})
        why = stopped_by(e, folder, size)
        if why is None:
            raise
        goes_on = "`sample --resume`, or the same `reproduce`, goes on from there"
        safe = f"{there} of {manifest['images']} images are safe; {goes_on}"
        if isinstance(e, KeyboardInterrupt):
            progress.say(f"{why}; {safe}")
            raise
        raise UsageError(f"{why}; {safe}") from None


class Arriving:
    """Images on their way from the device, so that the next batch need not wait for them."""

    def __init__(self, images: torch.Tensor) -> None:
        self._images = images.to("cpu", non_blocking=True)  # into pinned memory
        self._there = torch.cuda.Event() if images.is_cuda else None
        if self._there:
            self._there.record(torch.cuda.current_stream(images.device))

    def images(self) -> Images:
        """Returns when they are there."""
        if self._there:
            self._there.synchronize()
        return self._images.numpy()


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """When every process has written its last image."""
    files = files_of(folder, manifest)
    if lost := files.missing():
        raise UsageError(f"{folder}: {len(lost)} images are gone again; --resume makes them anew")
    try:
        files.finish(np.arange(manifest["images"], dtype=np.int64) % manifest["classes"])
    except OSError as e:
        raise UsageError(
            f"{folder}: cannot be written ({e.strerror}); all images are safe, --resume goes on"
        ) from None
    done = {**manifest, **rate(manifest["runs"]), "finished": True}
    write_json(folder / FILE, done)
    return done  # type: ignore[return-value]


def ran(entry: RunEntry, images: int, seconds: float, waited_s: float) -> None:
    entry["images"], entry["seconds"] = images, round(seconds, 3)
    entry["waited_s"] = round(waited_s, 3)


def stopped_by(e: BaseException, folder: Path, batch_size: int) -> str | None:
    """In words, if it is nothing that a programmer must see."""
    if isinstance(e, KeyboardInterrupt):
        return "stopped"
    if isinstance(e, OSError):
        return f"{folder}: cannot be written ({e.strerror})"
    if isinstance(e, Exception) and is_oom(e):
        return f"out of memory in batches of {batch_size}; a smaller --batch-size needs less"
    return None


# Processes


def together(group: Group, work: Callable[[], Result]) -> Result:
    """Work that every process does; if one fails, all do."""
    result, error = None, None
    try:
        result = work()
    except UsageError as e:
        error = str(e)
    if errors := [told for told in in_all(group, error) if told]:
        raise (UsageError if group.first else FirstProcessError)(errors[0])
    return result  # type: ignore[return-value]


def from_first(group: Group, work: Callable[[], Result]) -> Result:
    """What the first process makes of it, in all of them; its failure is everybody's."""
    return in_all(group, together(group, work if group.first else lambda: None))[0]  # type: ignore


def in_all(group: Group, value: Result) -> list[Result]:
    """Each process' value, in all of them."""
    if group.size == 1:
        return [value]
    values: list[Any] = [None] * group.size
    dist.all_gather_object(values, value)
    return values
