"""Bundles of runs that nobody measured, whose cases lose a planted share of FID."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from unittest import mock

import numpy as np

from bench.measure import runner
from bench.metrics.jackknife import interval
from bench.study import evaluations, storage
from bench.study.records import Paired
from bench.tables import bundle
from bench.tables.frames import Run
from tests.report.pages import on_disk, quiet_run
from tests.synthetic import fake_evaluation

EXPERIMENT = """
title = "Mini world, some of it left out"
baseline = { method = "var" }
[defaults]
weights = "mini"
sampling = "mini"
stack = "modern"
precision = "float32"
batch_size = 64
[[cases]]
method = "var"
[[cases]]
method = "var"
skip_scales = "10"
[[cases]]
method = "code"
draft_steps = [9, 6]
"""
BASE_FID = 4.5
#: FID lost by each case, over the baseline's.
LOST = {"VAR-d12, without scale 10": 0.4, "CoDe N=9 (d12+d4)": 0.01, "CoDe N=6 (d12+d4)": 0.1}
LARGE, SMALL = {"mini_large": "a" * 64}, {"mini_small": "b" * 64}
WEIGHTS = {"VAR": LARGE, "CoDe": LARGE | SMALL}


def submitted(folder: Path, images: int = 10_000) -> Run:
    """A run on disk: paired, three rounds, each case with its quality against the baseline's."""
    file = folder / "mine.toml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(EXPERIMENT)
    with mock.patch.object(runner, "trained_as", return_value="training-free"):
        run = quiet_run(str(file))
    rng, by_case = np.random.default_rng(0), {(r.key, r.round): r for r in run.records}
    bases = {case.key: run.sweep.baseline_case(case) for case in run.sweep.cases}
    for record in run.records:
        record.weights_sha256 = WEIGHTS[record.method[:4].strip("-")]
        base = bases[record.key]
        both = record, by_case[base.key, record.round]
        own, theirs = (one.samples.latency_s for one in both)
        if record.key != base.key:
            record.paired = Paired(baseline=base.key, latency_s=own, baseline_latency_s=theirs)
    for case in run.sweep.cases:
        base = bases[case.key]
        apart = LOST.get(case.label, 0.0) * BASE_FID
        replicates = (apart + 0.003 * rng.standard_normal(50)).tolist()
        against = {
            "paired": True,
            "case": base.model_dump(),
            "label": base.label,
            "samples_sha256": f"{base.key}-{images}",
            "weights_sha256": WEIGHTS["VAR"],
            "metrics": {"fid": BASE_FID},
            "differences": {"fid": (BASE_FID + apart) - BASE_FID},
            "difference_intervals": {"fid": interval((BASE_FID + apart) - BASE_FID, replicates)},
            "difference_replicates": {"fid": replicates},
            "distances": {"psnr_db": {"mean": 20.0, "interval": (19.9, 20.1)}},
        }
        found = fake_evaluation(case, images, fid=BASE_FID + apart)
        found.weights_sha256 = next(r.weights_sha256 for r in run.records if r.key == case.key)
        found.against = None if case is base else against
        run.evaluations.append(found)
    on_disk(run, folder / "run")
    for found in run.evaluations:
        evaluations.append(folder / "run", found)
    return bundle.load(folder / "run")


def bundled(folder: Path, name: str = "mine.zip", **options) -> Path:
    """A bundle that passes; `dataclasses.replace` options of the run."""
    file = folder / name
    bundle.write(dataclasses.replace(submitted(folder / "made"), **options), file)
    return file


def of_a_plugin(folder: Path, label: str, machine: str) -> Path:
    """A bundle in which a plugin's method has that name, and the machine's card that one."""
    run = submitted(folder / "made")
    file, like = run.folder / "run.json", run.sweep.cases[-1]
    what = json.loads(file.read_text())
    values = {**what["experiment"]["defaults"], "method": "theirs", "device": "cuda"}
    what["experiment"]["cases"].append({"method": "theirs"})
    facts = {"key": "f" * 12, "label": label, "steps": "10"}
    what["foreign"] = {json.dumps(values, sort_keys=True): facts}
    file.write_text(json.dumps(what))
    (run.folder / "env.json").write_text(json.dumps(run.env | {"gpus": [{"name": machine}]}))
    lines = [
        record.model_copy(update={"key": facts["key"], "method": label, "case": values})
        for record in run.records
        if record.key == like.key
    ]
    storage.write_lines(run.folder / "records.jsonl", [*run.records, *lines])
    bundle.write(bundle.load(run.folder), folder / "theirs.zip")
    return folder / "theirs.zip"
