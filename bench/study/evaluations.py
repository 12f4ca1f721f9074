"""Evaluations as records: one JSON line each.

evaluations.jsonl in a run's folder; by default results/<machine>/evaluations/
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr

from bench.study import storage
from bench.study.folders import is_shipped
from bench.study.storage import Line

FILE = "evaluations.jsonl"
# Halves of more images than this had a last split of very few, whose IS counted as much as that
# of 5000: the intervals of earlier versions are wrong there, and are not shown.
IS_SPLIT = 5000


class Evaluation(Line):
    """One evaluation.

    case, label, preset, seed, sources, weights_sha256, sampled: of a sample set, from its
    manifest; None where the images are of unknown origin.  reference_sha256: of the file of
    statistics, else of the images.  published: whether the extractor's weights are the ones that
    others measure with.  intervals: 95 %, by a jackknife over `groups` of images, or, of earlier
    versions, from `bootstrap` halves of them.  replicates: of the jackknife, which give the
    difference to any set of the same seed its interval.  metric_weights_sha256: of `bench.py iqa`,
    whose metrics have a network each.  foreign: what to call metrics of a plugin.  floor: figures
    of as many real images.  against: a baseline's figures and the differences to them
    (`bench.quality.against`).
    """

    samples: str
    samples_sha256: str
    images: int
    size: tuple[int, int]
    case: dict[str, Any] | None
    label: str | None
    preset: str | None
    seed: int | None
    sources: list[str] | None
    weights_sha256: dict[str, str] | None
    sampled: dict[str, Any] | None
    reference: str
    reference_sha256: str | None
    reference_images: int | None
    extractor: str
    extractor_sha256: str
    published: bool
    metric_weights_sha256: dict[str, str] | None = None
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    replicates: dict[str, list[float]] = Field(default_factory=dict)
    bootstrap: int = 0
    groups: int | None = None
    as_published: bool = False
    floor: dict[str, float] | None = None
    against: dict[str, Any] | None = None
    class_accuracy_by_class: list[float] | None
    foreign: dict[str, dict[str, Any]] = Field(default={})
    machine: str
    device: str
    packages: dict[str, str | None]
    commit: str | None
    dirty: bool | None
    evaluated_at: str
    duration_s: float
    _file: Path | None = PrivateAttr(None)

    def is_in(self, folder: Path | None) -> bool:
        """Whether it was read from there or below."""
        here = folder.resolve() if folder else None
        return bool(here and self._file and self._file.is_relative_to(here))

    @property
    def source(self) -> str:
        """The commit that drew the samples, in short."""
        return ((self.sampled or {}).get("commit") or self.commit or "unknown")[:9]

    @property
    def right_intervals(self) -> dict[str, tuple[float, float]]:
        """Without those of earlier versions that are wrong."""
        wrong = {"inception_score"} if self.bootstrap and self.images > IS_SPLIT else set()
        return {name: span for name, span in self.intervals.items() if name not in wrong}


def append(folder: Path, evaluation: Evaluation) -> Path:
    """Adds a line to the folder's file.  Raises UsageError, with the file as it was."""
    file = folder / FILE
    storage.append_record(file, evaluation)
    return file


def read(file: Path) -> tuple[list[Evaluation], list[str]]:
    """The lines that can be read, and a complaint for each that cannot."""
    lines, complaints = storage.read_lines(file, Evaluation)
    for line in lines:
        line._file = file.resolve()
    return lines, complaints


def every(*folders: Path) -> tuple[list[Evaluation], list[str]]:
    """All evaluations in these folders and below, newest first, and complaints; those that come
    with the project only of folders among theirs."""
    found, complaints = [], []
    files = {
        file.resolve(): None
        for folder in folders
        for file in folder.rglob(FILE)
        if is_shipped(file) == is_shipped(folder)
    }
    for file in files:
        lines, wrong = read(file)
        found += lines
        complaints += wrong
    return sorted(found, key=lambda line: line.evaluated_at, reverse=True), complaints
