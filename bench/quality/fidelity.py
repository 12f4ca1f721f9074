"""Does half precision, or another stack, change the images?  Two sample sets of the same method,
weights and seeds, compared: by their images, by the tokens of decodes made again, and by FID.

Tokens are compared twice.  Teacher-forced: both predict each scale from A's tokens of the scales
before, and the best token of the guided logits counts, so that a difference is of that one
prediction.  Free-running: each draws its own from the same seeds, so that a token that differs
changes all that come after it.

Shapes: B images of a batch, L tokens of all scales, l of one, V codes, H W pixels.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.methods.sources import reason
from bench.metrics.frechet import Gaussian, frechet_distance, frechet_of_halves
from bench.metrics.halves import Halves, interval
from bench.quality.evaluate import check_counts, enough_for_halves, measured_by
from bench.quality.features import Extractor, Features, extract
from bench.quality.images import ImageSet, open_images
from bench.quality.reference import open_reference
from bench.quality.sample_set import Images, Manifest, SampleSet, common
from bench.quality.sampling import load, pixels, tokens_of
from bench.quality.wanted import FREE
from bench.study.cases import make_case, sampled
from bench.study.errors import UsageError
from bench.study.printing import Printed
from bench.study.storage import append_record
from codevar import Scales
from codevar.checkpoints import weights_sha256
from codevar.files import is_oom

SCHEMA = 1
FILE = "fidelity.jsonl"
# What of a case may differ: how it is run, not what is run.
HOW = ("stack", "precision", "attention", *FREE)

HALVES = 100  # that the interval of a difference of FIDs rests on

Frechet = dict[str, Any]  # what `fids` gives


@dataclass(frozen=True)
class Distance:
    """Between images of the same numbers, in levels of 255.

    psnr_db: of the mean squared error over all images; None if there is no error.
    identical: share of images without any difference.  max: the largest of any value.
    """

    psnr_db: float | None
    identical: float
    mean: float
    max: int


@dataclass(frozen=True)
class Tokens:
    """One side's decodes.  drawn: (N, L) its own.  best: (N, L) the best token of each place
    after A's tokens of the scales before.  forced: (N, H, W, 3) its images of A's tokens."""

    drawn: torch.Tensor
    best: torch.Tensor
    forced: Images


def compare(
    a: SampleSet,
    b: SampleSet,
    device: str,
    images: int,
    batch_size: int,
    download: bool = False,
    fid: Callable[[SampleSet, SampleSet], Frechet] | None = None,
) -> dict[str, Any]:
    """One record: shares of equal tokens by scale, distances of images, FID.

    images: the tokens of so many, the first of the sets, are looked at.  fid: `fids`, with what it
    takes; it comes first, since it may refuse the sets, and tokens take longest.
    Raises UsageError for sets that differ in more than how they were run.
    """
    check_same(a, b)
    of_sets = fid(a, b) if fid else None
    numbers = range(min(images, len(a)))
    scales, of_a = tokens(a, device, numbers, batch_size, download)
    _, of_b = tokens(b, device, numbers, batch_size, download, of_a.drawn)
    return {
        "a": side(a.manifest),
        "b": side(b.manifest),
        "preset": a.manifest["preset"],
        "sampling": a.manifest["sampling"],
        "seed": a.manifest["seed"],
        "images": len(a),
        "images_with_tokens": len(numbers),
        "teacher_forced_agreement_by_scale": by_scale(of_a.best, of_b.best, scales),
        "free_running_agreement_by_scale": by_scale(of_a.drawn, of_b.drawn, scales),
        "same_tokens": asdict(distance(iter([(of_a.forced, of_b.forced)]))),
        "free_running": asdict(
            distance(zip(*(open_images(s.folder).pixels() for s in (a, b)), strict=True))
        ),
        "fid": of_sets,
    }


def check_same(a: SampleSet, b: SampleSet) -> None:
    """Raises UsageError unless the sets differ in nothing but how they were run."""
    one, other = same_of(a.manifest), same_of(b.manifest)
    weights = common(a.manifest["weights_sha256"], b.manifest["weights_sha256"])
    for side_, hashes in zip((one, other), weights, strict=True):
        side_ |= {f"the weights' hash of {source}": sha for source, sha in hashes.items()}
    differ = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    if differ:
        key = differ[0]
        raise UsageError(
            f"{a.folder} and {b.folder} differ in more than stack and precision: {key} is "
            f"{one.get(key)} and {other.get(key)}"
        )


def same_of(manifest: Manifest) -> dict[str, Any]:
    """What must not differ."""
    case = {key: value for key, value in manifest["case"].items() if key not in (*HOW, "seed")}
    keys = ("seed", "images", "classes", "side", "sources", "sampling")
    return {**case, **{key: manifest[key] for key in keys}}  # type: ignore[literal-required]


def side(manifest: Manifest) -> dict[str, Any]:
    keys = ("label", "case", "sources", "weights_sha256", "machine", "torch", "commit", "dirty")
    return {key: manifest[key] for key in keys}  # type: ignore[literal-required]


# FID


def fids(
    a: SampleSet,
    b: SampleSet,
    reference: str,
    extractor: Extractor,
    cache: Path,
    batch_size: int,
) -> Frechet:
    """FID of either set against a reference (REF, as `bench.py eval` takes it), and between them.

    difference_interval: 95 % of b - a, from the same halves of both sets.  Since images of the same
    numbers share their seeds, what chance gives to one it gives to the other, and the interval is
    narrower than either set's own.  None where there are too few images for halves.
    Raises UsageError for too few images, and for a reference that gives no FID.
    """
    sets = open_images(a.folder), open_images(b.folder)
    held = open_reference(reference, sets[0].size)
    for images in sets:
        check_counts(images, held, extractor, ["fid"], bootstrap=0)

    def pool(images: ImageSet) -> Features:
        return extract(images, extractor, ["pool"], cache, batch_size)

    of_reference = None if held.gaussians or not held.images else pool(held.images)
    of_a, of_b = (pool(images).layers["pool"].to(extractor.device) for images in sets)
    if of_reference:
        theirs = Gaussian.of(of_reference.layers["pool"].to(extractor.device))
    else:
        theirs = held.gaussians["pool"].to(extractor.device)
    enough = len(a) >= enough_for_halves(extractor.widths["pool"])
    halves = Halves.draw(len(a), HALVES, a.labels) if enough else None
    try:
        (fid_a, halves_a), (fid_b, halves_b) = (
            frechet_of_halves(features, theirs, halves) for features in (of_a, of_b)
        )
    except ValueError as e:
        raise UsageError(f"{held.name}: {e}") from None
    between = frechet_distance(Gaussian.of(of_a), Gaussian.of(of_b))
    if not all(map(math.isfinite, (fid_a, fid_b, between))):
        raise UsageError("FID: not finite; these features give no valid figure")
    apart = [other - one for one, other in zip(halves_a, halves_b, strict=True)]
    return {
        "a": fid_a,
        "b": fid_b,
        "between": between,
        "difference_interval": interval(fid_b - fid_a, apart) if apart else None,
        **measured_by(held, of_reference, extractor),
    }


# Tokens


def tokens(
    samples: SampleSet,
    device: str,
    numbers: range,
    batch_size: int,
    download: bool,
    leader: torch.Tensor | None = None,
) -> tuple[Scales, Tokens]:
    """One side's, decoded anew; the models are gone when it returns.

    leader: (N, L) A's drawn tokens; None for A itself.
    """
    (case,) = sampled([make_case(samples.manifest["case"])], str(samples.folder))
    loaded = load(case, download, device)
    for source, sha in samples.manifest["weights_sha256"].items():
        if weights_sha256(source) != sha:
            raise UsageError(f"{source}: no longer the weights that made {samples.folder}")
    scales, seed = loaded.plan.scales, samples.manifest["seed"]
    drawn, best, forced = [], [], []
    try:
        for first in range(0, len(numbers), batch_size):
            part = numbers[first : first + batch_size]
            own = tokens_of(loaded, seed, part).tokens
            along = own if leader is None else leader[part.start : part.stop].to(own.device)
            picked: list[torch.Tensor] = []

            def choose(
                logits_BlV: torch.Tensor,
                k: int,
                along: torch.Tensor = along,
                picked: list[torch.Tensor] = picked,
            ) -> torch.Tensor:
                picked.append(logits_BlV.argmax(dim=-1))
                return along[:, scales.slices[k]]

            made = tokens_of(loaded, seed, part, choose)
            drawn.append(own.cpu())
            best.append(torch.cat(picked, dim=1).cpu())
            forced.append(pixels(loaded, made).cpu().numpy())
    except Exception as e:
        if not is_oom(e):
            raise
        raise UsageError(f"out of memory ({reason(e)}); a smaller --batch-size") from None
    return scales, Tokens(torch.cat(drawn), torch.cat(best), np.concatenate(forced))


def by_scale(one: torch.Tensor, other: torch.Tensor, scales: Scales) -> list[float]:
    """Share of equal tokens at each scale."""
    equal = (one == other).double()
    return [equal[:, where].mean().item() for where in scales.slices]


# Images


def distance(pairs: Iterator[tuple[Images, Images]]) -> Distance:
    """Over all images of the pairs of batches."""
    squares, levels, values, equal, images, largest = 0, 0, 0, 0, 0, 0
    for one, other in pairs:
        apart = np.abs(one.astype(np.int64) - other)
        squares += int((apart**2).sum())
        levels += int(apart.sum())
        values += apart.size
        equal += int((apart.reshape(len(apart), -1).max(axis=1) == 0).sum())
        images += len(apart)
        largest = max(largest, int(apart.max()))
    psnr = 10 * math.log10(255**2 * values / squares) if squares else None
    return Distance(psnr, equal / images, levels / values, largest)


# Records


def append(folder: Path, found: dict[str, Any], env: dict[str, Any], device: str) -> Path:
    """Adds a line to the folder's `fidelity.jsonl` and gives its path.  Raises UsageError."""
    here = {
        "schema": SCHEMA,
        "device": device,
        "machine": env["machine"],
        "torch": env["packages"]["torch"],
        "commit": env["commit"],
        "dirty": env["dirty"],
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    file = folder / FILE
    append_record(file, {**here, **found})
    return file


def printed(found: dict[str, Any]) -> Printed:
    """The record for people."""
    ways = {"teacher-forced": "teacher_forced", "free-running": "free_running"}
    rows = {name: found[f"{key}_agreement_by_scale"] for name, key in ways.items()}
    data = pd.DataFrame(
        [[name, *shares] for name, shares in rows.items()],
        columns=["equal tokens", *(f"scale {k + 1}" for k in range(len(rows["free-running"])))],
    )
    text = data.map(lambda cell: cell if isinstance(cell, str) else f"{cell:.4f}")
    one, other = (how(found[key]["case"]) for key in "ab")
    notes = [
        f"Tokens: of {found['images_with_tokens']} images.  Teacher-forced: the best token after "
        "A's tokens of the scales before.  Free-running: each draws its own from the same seeds.",
        f"Images of A's tokens: {words(found['same_tokens'])}.",
        f"Images of the sets, {found['images']}: {words(found['free_running'])}.",
    ]
    if found["fid"] is not None:
        notes.append(frechet_words(found["fid"]))
    title = f"{found['a']['label']}: {one} against {other}, preset {found['preset']}"
    return Printed(title, data, text, notes)


def frechet_words(fid: Frechet) -> str:
    apart = f"{fid['b'] - fid['a']:+.3f}"
    if fid["difference_interval"]:
        low, high = fid["difference_interval"]
        apart += f" (95 %: {low:+.3f} to {high:+.3f})"
    own = "" if fid["published"] else " (weights of one's own)"
    return (
        f"FID: {fid['a']:.3f} and {fid['b']:.3f}, {apart}; between the sets {fid['between']:.3f}.  "
        f"Features of {fid['extractor']}{own}, reference {fid['reference']}."
    )


def how(case: dict[str, Any]) -> str:
    attention = "" if case["attention"] == "auto" else f" {case['attention']}"
    return f"{case['stack']} {case['precision']}{attention}"


def words(apart: dict[str, Any]) -> str:
    """A distance."""
    psnr = "no difference" if apart["psnr_db"] is None else f"{apart['psnr_db']:.1f} dB"
    return f"{psnr}, {apart['identical']:.1%} identical, at most {apart['max']} levels apart"
