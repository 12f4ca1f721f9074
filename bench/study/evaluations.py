"""Evaluations as records: one JSON line each, and which of them speaks of which case.

    evaluations.jsonl in a run's folder; by default results/<machine>/evaluations/

Reading checks every line, as `bench.study.records` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing's own before Python 3.12 lacks what pydantic needs

from bench.study.storage import append_record, parsed_lines

SCHEMA = 1
FILE = "evaluations.jsonl"

Evaluation = dict[str, Any]  # what `Line` describes
Figure = Annotated[float, Field(allow_inf_nan=False)]


class Line(TypedDict):
    """One evaluation, as it stands in a line.

    case, label, preset, seed, sources, weights_sha256, sampled: of a sample set, from its
    manifest; null where the images are of unknown origin.  reference_sha256: of the file of
    statistics, else of the images.  published: whether the extractor's weights are the ones that
    others measure with.  intervals: 95 %, from `bootstrap` halves.  metric_weights_sha256: of
    `bench.py iqa`, whose metrics have a network each.
    """

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    schema: Literal[1]
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
    metric_weights_sha256: NotRequired[dict[str, str]]
    metrics: dict[str, Figure]
    intervals: dict[str, tuple[Figure, Figure]]
    bootstrap: int
    class_accuracy_by_class: list[Figure] | None
    machine: str
    device: str
    packages: dict[str, str | None]
    commit: str | None
    dirty: bool | None
    evaluated_at: str
    duration_s: float


LINE = TypeAdapter(Line)


def append(folder: Path, evaluation: Evaluation) -> Path:
    """Adds a line to the folder's file.  Raises UsageError, with the file as it was."""
    file = folder / FILE
    append_record(file, evaluation)
    return file


def read(file: Path) -> tuple[list[Evaluation], list[str]]:
    """The lines that can be read, and a complaint for each that cannot."""
    return parsed_lines(file, parse)


def parse(line: str) -> Evaluation:
    """Raises ValueError: what is wrong, in a few words."""
    try:
        values = json.loads(line)
    except ValueError as e:
        raise ValueError(f"no JSON: {e}") from None
    version = values.get("schema") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise ValueError(f"schema {version}: newer than this program; update it")
    try:
        return dict(LINE.validate_python(values))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where or 'the line'}: {first['msg']}") from None


def every(*folders: Path) -> tuple[list[Evaluation], list[str]]:
    """All evaluations in these folders and below, newest first, and complaints."""
    found, complaints = [], []
    for file in dict.fromkeys(f.resolve() for folder in folders for f in folder.rglob(FILE)):
        lines, wrong = read(file)
        found += lines
        complaints += wrong
    return sorted(found, key=lambda line: line["evaluated_at"], reverse=True), complaints


# Which evaluation speaks of which case
