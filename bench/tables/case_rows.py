"""Rows of a run for figures and pages: a case with its figures and its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from bench.study.errors import UsageError
from bench.study.experiment import WHOLE
from bench.study.names import weights_in_words
from bench.tables import frames
from bench.tables.frames import Run
from codevar.stacks import STACKS

Row = frames.Row  # with `case`


class NoDataError(UsageError):
    """The run lacks what a figure shows."""


def rows_of(run: Run) -> list[Row]:
    """A row for each case; `fid_known` is its FID with all that is known of it."""
    rows, quality = frames.known(frames.frame(run)), run.quality.by_key
    return [
        {**row, "case": case, "fid_known": quality[case.key].known.get("fid")}
        if case.key in quality
        else {**row, "case": case}
        for case, row in zip(run.sweep.cases, rows, strict=False)
    ]


def lacks(run: Run, what: str, experiment: str) -> NoDataError:
    """What to say where a figure needs what the run has not measured."""
    return NoDataError(f"{run.sweep.name} has {what}; `bench.py run {experiment}` measures it")


def at_common_batch(run: Run, rows: list[Row], key: str = "latency_s") -> list[Row]:
    """The rows of one batch size: where most have the value; of those the papers' 64, or else
    the largest."""
    counts = Counter(row["batch_size"] for row in rows if key in row)
    if not counts:
        raise lacks(run, "no case that was measured", run.sweep.name)
    chosen = max(counts, key=lambda batch: (counts[batch], batch == 64, batch))
    return [row for row in rows if row["batch_size"] == chosen]


def distinct(rows: Iterable[Row], key: str) -> list[Any]:
    """Each value of a key once, in the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows))


def stacks_of(rows: Iterable[Row]) -> list[str]:
    """The stacks of the rows, in the order of `STACKS`."""
    return [stack for stack in STACKS if stack in distinct(rows, "stack")]


def baseline_name(run: Run, rows: Iterable[Row]) -> str | None:
    """What speed-ups are over: a method, or the same case with other keys."""
    baseline = run.sweep.experiment.baseline
    if baseline == WHOLE:
        return "itself with nothing left out"
    if baseline and "method" not in baseline:
        return "itself with " + ", ".join(f"{key} {value}" for key, value in baseline.items())
    for row in rows:
        wanted = run.sweep.baseline_of(row["case"].model_dump())
        if wanted and all(getattr(row["case"], key, None) == v for key, v in wanted.items()):
            return row["method"]
    return None


def footer(run: Run, rows: Sequence[Row], *notes: str) -> str:
    """Notes, then what the rows were measured on, or that they were not, and their settings."""
    settings = (
        []
        if any("fid" in row for row in rows)
        else ["predicted from shapes (nothing was measured)"]
    )
    if any("latency_s" in row for row in rows):
        settings = [f"measured on {run.device_name}", run.software]
    batches, stacks = distinct(rows, "batch_size"), stacks_of(rows)
    settings += [f"batch {batches[0]}"] if len(batches) == 1 else []
    settings += ["/".join(distinct(rows, "precision"))]
    settings += [f"{stacks[0]} stack"] if len(stacks) == 1 else []
    names = list(dict.fromkeys(weights_in_words(row["case"]) for row in rows))
    line = ", ".join([*settings, f"{' and '.join(names)} weights."])
    invalid = distinct((row for row in rows if row.get("invalid")), "name")
    marked = [f"Times not to be judged: {', '.join(invalid)}."] if invalid else []
    return " ".join([*notes, line[0].upper() + line[1:], *marked])


def starred(row: Row) -> str:
    """A mark where quality and speed are not of the same weights, precision, stack or preset."""
    return "*" if row.get("fid_differs") else ""


def quality_note(run: Run, rows: list[Row]) -> list[str]:
    """What a measured FID rests on."""
    notes = [f"FID: {run.quality.how['fid']}."]
    if differs := [d for row in rows if (d := row.get("fid_differs"))]:
        notes.append(f"* Quality with {'; '.join(dict.fromkeys(differs))}.")
    return notes
