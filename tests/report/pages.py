"""Runs on disk that nobody measured, to make pages of."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.quality.sample_set import FILE, NPZ, png_of
from bench.study import storage
from bench.tables.frames import Run
from tests.synthetic import fake_run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{7*7}}|$^_"
SMALL: dict[str, Any] = {"depth": 4, "refiner_depth": 2, "subnet_depth": 2}


def quiet_run(name: str = "d16_cpu", rounds: int = 3, **axes: Any) -> Run:
    """Small models, on a machine that does nothing else, whose rounds differ a little."""
    run = fake_run(name, rounds=rounds, **(SMALL | axes if name == "d16_cpu" else axes))
    rng = np.random.default_rng(0)
    for record in run.records:
        record.other_load_cores = 0.01
        if record.status == "ok":
            taken, by = record.samples, rng.normal(1, 0.005)
            taken.latency_s = [seconds * by for seconds in taken.latency_s]
    return run


def changed(run: Run, by: float, method: str = "CoDe") -> Run:
    """The run again, with other noise; what has that method in its name takes so much longer."""
    new, rng = copy.deepcopy(run), np.random.default_rng(1)
    for record in new.records:
        taken, factor = record.samples, by if method in record.method else 1
        taken.latency_s = [s * factor * rng.normal(1, 0.002) for s in taken.latency_s]
    return new


def on_disk(run: Run, folder: Path) -> Path:
    folder.mkdir(parents=True)
    what = {
        "name": run.sweep.name,
        "device": run.sweep.device,
        "cases": [case.key for case in run.sweep.cases],
        "experiment": run.sweep.experiment.model_dump(mode="json"),
    }
    (folder / "run.json").write_text(json.dumps(what))
    (folder / "env.json").write_text(json.dumps(run.env))
    storage.write_lines(folder / "records.jsonl", run.records)
    return folder


def sample_set(folder: Path, format: str = "png", label: str = "VAR-d4", **more: Any) -> Path:
    """Twelve images of ten classes; image i is of one colour."""
    images = np.stack([np.full((48, 48, 3), (20 * i, 90, 200), np.uint8) for i in range(12)])
    sampling = {name: [1.0] * 10 for name in ("cfg", "top_p", "temperature")}
    here = {"machine": "l20", "torch": None, "commit": None, "dirty": None}
    told: dict[str, Any] = {
        "schema": 1,
        "case": {},
        "label": label,
        "preset": "paper",
        "seed": 0,
        **here,
        "sampling": {**sampling, "top_k": [900] * 10, "more_smooth": False},
        "sources": [],
        "per_class": 1,
        "classes": 10,
        "images": 12,
        "side": 48,
        "format": format,
        "runs": [],
        "finished": True,
        "images_per_s": None,
        "waited_for_writing_s": None,
        "weights_sha256": {},
        **more,
    }
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps(told))
    if format == "npz":
        np.savez(folder / NPZ, arr_0=images, arr_1=np.arange(12) % 10)
        return folder
    (folder / png_of(0)).parent.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / png_of(i))
    return folder
