"""Runs as data frames: what was measured, what shapes predict, and what the papers print.

A frame has a row for each case of the experiment, whether or not it has been run, and one for
each row of the paper's table that no case repeats; every figure is in a column of its own
(`latency_s`, `latency_s_paper`, `kv_cache_mib_predicted`, ...).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from bench.measure.validity import known_ceilings, why_any_invalid
from bench.metrics import METRICS
from bench.metrics.frechet import DIFFERENCE, SAME_SEED
from bench.predict.prediction import memory_differs, predict
from bench.study import printing, records, storage
from bench.study.cases import Case, Foreign, explain
from bench.study.errors import NoPredictionError, UsageError
from bench.study.evaluations import Evaluation
from bench.study.experiment import Experiment, Sweep
from bench.study.folders import is_shipped
from bench.study.names import distinguishing_settings, name_of, weights_of
from bench.study.records import Predicted, Record
from bench.tables import summary
from bench.tables.links import Linked, Quality, link

Row = dict[str, Any]
#: Keys that a page or a table shows otherwise than in a row's name.
SHOWN = ("batch_size", "stack")
ALIKE = (*SHOWN, "precision", "weights")  # and those that have columns of their own in JSON


@dataclass
class Run:
    """An experiment with what has been measured of it.

    shipped: its records come with the project, of another machine than the reader's.
    """

    sweep: Sweep
    records: list[Record] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    env: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    evaluations: list[Evaluation] = field(default_factory=list)  # of any run, newest first
    shipped: bool = False

    @functools.cached_property
    def quality(self) -> Linked:
        """What the evaluations say of the cases."""
        weights = {key: own[-1].weights_sha256 for key, own in self.by_key.items()}
        return link(self.sweep.cases, self.evaluations, weights, self.folder)

    @property
    def devices(self) -> list[str]:
        """What its cases ran on: "cpu", "cuda", "cuda:1"."""
        return list(dict.fromkeys(case.device for case in self.sweep.cases))

    @property
    def device_name(self) -> str:
        """The names of these: of the machine's CPU, or of its GPUs."""
        gpus = self.env.get("gpus") or []
        cpu = self.env.get("cpu") or self.env.get("machine") or "a machine that is not named"
        by_device = {f"cuda:{i}": gpu["name"] for i, gpu in enumerate(gpus)}
        by_device["cuda"] = by_device.get("cuda:0", cpu)
        return " and ".join(dict.fromkeys(by_device.get(device, cpu) for device in self.devices))

    @property
    def software(self) -> str:
        """torch and commit of the run, and of the measurements that were made with others."""
        torch = (self.env.get("packages") or {}).get("torch", "unknown")
        of_all = software_name(torch, self.env.get("commit"), self.env.get("dirty"))
        of_each = Counter(software_name(r.torch, r.commit, r.dirty) for r in self.records)
        apart = [f"{n} on {which}" for which, n in of_each.items() if which != of_all]
        also = f"; of {len(self.records)} measurements {', '.join(apart)}" if apart else ""
        return of_all + also

    @property
    def by_key(self) -> dict[str, list[Record]]:
        """The records of each case, by round."""
        found: dict[str, list[Record]] = {}
        for record in sorted(self.records, key=lambda record: record.round):
            found.setdefault(record.key, []).append(record)
        return found


def software_name(torch: str | None, commit: str | None, dirty: bool | None) -> str:
    """In short, of a record or of a machine."""
    return f"torch {torch}, commit {(commit or 'unknown')[:9]}" + " + changes" * bool(dirty)


def load(folder: Path) -> Run:
    """A run from its folder.  Raises UsageError if there is none."""
    what = records.read_run(folder)
    lines, complaints = records.read_lines(folder / records.FILE)
    try:
        parsed = Experiment.model_validate(what["experiment"])
        sweep = Sweep(
            what["name"], parsed, str(folder), what["device"], foreign=what.get("foreign") or {}
        )
    except (KeyError, TypeError) as e:
        raise UsageError(f"{folder / 'run.json'}: damaged ({e} is missing)") from None
    except ValidationError as e:
        raise UsageError(f"{folder / 'run.json'}: {explain(e, Experiment)}") from None
    env = storage.read_json(folder / "env.json") or {}
    return Run(sweep, lines, complaints, env, folder, shipped=is_shipped(folder))


# Rows


def frame(run: Run) -> pd.DataFrame:
    """Every figure of a run, a row for each case and for each further row of the paper."""
    rows, by_key = [], run.by_key
    top = known_ceilings(run.folder, run.env) if run.folder else None
    for case in run.sweep.cases:
        own, base = by_key.get(case.key, []), run.sweep.baseline_case(case)
        repeated = run.sweep.paper_rows.get(case.key)
        rows.append(
            {
                **case_columns(case),
                "name": name_of(case, run.sweep.cases, SHOWN),
                "details": ", ".join(
                    distinguishing_settings(case, run.sweep.cases, ALIKE).values()
                ),
                "control_of": run.sweep.controlled(case),
                **predicted_columns(case, own),
                **summary.measured(own),
                "invalid": why_any_invalid(own, top) or None,
                **(summary.speedup(own, by_key.get(base.key, [])) if base else {}),
                **checked_columns(own),
                **quality_columns(run.quality.by_key.get(case.key)),
                **(repeated.columns if repeated else {}),
            }
        )
    rows += [
        {"method": row.label, "name": row.label, "status": "not measured", **row.columns}
        for row in run.sweep.further_paper_rows()
    ]
    data = pd.DataFrame(rows)
    counts = ("batch_size", "params", "samples", "rounds", "pairs", "quality_images")
    whole = {name: "Int64" for name in counts if name in data}
    return data.astype(whole)


def known(data: pd.DataFrame) -> list[Row]:
    """The rows of a frame without their empty cells."""
    rows = data.to_dict("records")
    return [{str(k): v for k, v in row.items() if not printing.missing(v)} for row in rows]


def case_columns(case: Case) -> dict[str, Any]:
    """What is known of a case before it is measured."""
    names = ("batch_size", "stack", "precision", "attention", "device", "weights")
    return {
        "method": case.label,
        "case": case.model_copy(update={"device": "auto"}).key,
        "steps": case.steps,
        **{name: getattr(case, name) for name in names},
        "weights_name": weights_of(case),
        **({"extrapolated": True} if case.in_part else {}),
    }


def prediction_of(case: Case, records: Sequence[Record]) -> Predicted:
    """What was predicted with the newest measurement, by the code and on the machine that it is
    of.  Computed where nothing was measured, and where an old record lacks some of it.

    Raises NoPredictionError for what nobody can predict, or only with a plugin that is not loaded.
    """
    recorded = records[-1].predicted if records else None
    whole = recorded and recorded.model_fields_set >= Predicted.model_fields.keys()
    if recorded and (whole or isinstance(case, Foreign)):
        return recorded
    computed, kept = predict(case).figures(), recorded.to_json() if recorded else {}
    return computed.model_copy(update=kept)


def predicted_columns(case: Case, records: Sequence[Record]) -> dict[str, Any]:
    """The prediction under the names of a frame, or why there is none."""
    try:
        predicted = prediction_of(case, records)
    except NoPredictionError as e:
        return {"not_predicted": str(e)}
    memory = {name: value for name, value in predicted.to_json().items() if name.endswith("_mib")}
    return {
        "params": predicted.params,
        **{f"{name}_predicted": value for name, value in memory.items()},
        "tflops_predicted": predicted.flops / 1e12,
        "gflops_by_scale_predicted": [f / 1e9 for f in predicted.flops_by_scale],
    }


def checked_columns(records: Sequence[Record]) -> dict[str, Any]:
    """Where the memory measured is not the memory predicted; empty where it is."""
    differs = [
        where
        for record in records
        if record.ok and record.memory and record.predicted
        for where in memory_differs(record.memory, record.predicted, record.device)
    ]
    return {"memory_differs": ", ".join(dict.fromkeys(differs))} if records else {}


def quality_columns(quality: Quality | None) -> dict[str, Any]:
    """Figures of evaluations, their intervals as fid_low, fid_high, ...; of how many images; as
    fid_from, ... `Quality.source`, as fid_differs, ... what was not measured alike."""
    if quality is None:
        return {}
    columns = {name: metric.column for name, metric in METRICS.items()}
    columns |= {name: name for name in (DIFFERENCE, SAME_SEED)}
    there = {name: column for name, column in columns.items() if name in quality.figures}
    found: dict[str, Any] = {column: quality.figures[name] for name, column in there.items()}
    for name, column in there.items():
        if name in quality.intervals:
            low, high = quality.intervals[name]
            found |= {f"{column}_low": low, f"{column}_high": high}
        if quality.differs[name]:
            found[f"{column}_differs"] = quality.differs[name]
        found[f"{column}_from"] = quality.source[name]
    return {**found, "quality_images": max(quality.images.values())}
