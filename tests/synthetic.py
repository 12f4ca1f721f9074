"""Runs that nobody measured: records as the runner makes them, with invented samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench.measure import runner
from bench.methods.meta import meta_plan
from bench.predict.prediction import CUBLAS_BYTES, predict
from bench.study import experiment
from bench.study.cases import Case, VARCase, make_case
from bench.study.evaluations import Evaluation
from bench.study.records import MemoryUse, Samples
from bench.study.units import MIB
from bench.tables.frames import Run

ENV: dict[str, Any] = {
    "cpu": "Invented CPU",
    "gpus": [{"name": "NVIDIA L20", "memory_gib": 44.5}],
    "packages": {"torch": "2.9.0"},
    "commit": "0123456789abcdef",
    "dirty": False,
    "machine": "l20",
}
FLOP_PER_S = {"published": 100e12, "modern": 170e12, "compiled": 190e12}
LAYER_S = {
    "published": 1.1e-3,
    "modern": 0.25e-3,
    "compiled": 0.1e-3,
}  # a layer takes no less, however small


def fake_run(
    experiment_name: str, measured: bool = True, gpu_gib: float = 44.5, rounds: int = 1, **axes: Any
) -> Run:
    """The experiment as if run on a GPU of that memory; a case that needs more is out of memory.

    rounds: as many records of each case.  axes: as of `--set`, one value or a list.  measured:
    False leaves out all records.
    """
    changes = [
        f"{axis}={','.join(map(str, value if isinstance(value, list | tuple) else [value]))}"
        for axis, value in axes.items()
    ]
    sweep = experiment.load(experiment_name, [*changes, f"rounds={rounds}"], device="cuda")
    if not measured:
        return Run(sweep)

    def invented(job: dict[str, Any], *_: Any) -> dict[str, Any]:
        return invent(make_case(job["case"]), job["effort"]["samples"], gpu_gib)

    with mock.patch.object(runner, "run_in_process", invented):
        records = [
            runner.run_case(case, sweep, Path(), ENV, round_=round_)
            for round_, case in runner.remaining_measurements(sweep, [])
        ]
    return Run(sweep, records, env=ENV)


def invent(case: Case, samples: int, gpu_gib: float) -> dict[str, Any]:
    """What `bench.measure.child` would say: latency from FLOPs, memory as predicted."""
    told = predict(case)
    params, cache = told.params_bytes / MIB, [b / MIB for b in told.kv_cache_bytes]
    running, total = told.running_bytes / MIB, told.total_bytes / MIB
    if total > gpu_gib * 1024:
        return {"status": "oom", "reason": "OutOfMemoryError: CUDA out of memory."}
    layers = [24] * len(told.flops)  # of a baseline
    if isinstance(case, VARCase):
        layers = [len(step.layers) for step in meta_plan(case).steps]
    seconds = [
        flops / FLOP_PER_S[case.stack] + n * LAYER_S[case.stack]
        for flops, n in zip(told.flops, layers, strict=True)
    ]
    noise = np.random.default_rng(case.seed).uniform(1, 1.02, (samples, len(seconds)))
    by_scale = (noise * seconds).tolist()
    decoder = [0.02 + 0.006 * case.batch_size] * samples
    totals = [sum(s) for s in by_scale]
    taken = Samples(
        warmup_latency_s=totals[:2],
        steady=True,
        latency_s=totals,
        scale_latency_s=by_scale,
        vqvae_latency_s=decoder,
        stopped_by="target",
    )
    start_up = {"import_s": 5.0, "load_s": 9.0, "prepare_s": 0.5, "first_image_s": 20.0}
    start_up |= {"first_latency_s": 2 * sum(seconds)}
    used = MemoryUse(
        params_mib=params,
        kv_cache_mib=max(cache),
        running_mib=running,
        total_mib=total,
        peak_by_scale_mib=[b / MIB for b in told.peak_bytes],
        live_by_scale_mib=[b / MIB for b in told.live_bytes],
        kv_cache_by_scale_mib=cache,
        unaccounted_mib=0.0,
        accounted=True,
        workspace_mib=CUBLAS_BYTES / MIB,
        rounding_mib=0.0,
        reserved_mib=total * 1.02,
        fragmentation_mib=total * 0.02,
        inactive_split_mib=total * 0.01,
        process_mib=total + 500,
        process_by="nvml",
    )
    return {
        "status": "ok",
        "samples": taken.model_dump(),
        "start_up": {**start_up, "first_vqvae_latency_s": 2 * decoder[0]},
        "memory": used.model_dump(),
        "tokens_sha256": "0" * 64,
        "sources": [f"seeded:{name}:{case.seed}" for name in case.model_names()],
        "torch_threads": 1,
    }


def fake_evaluation(
    case: Case, images: int = 50_000, at: str = "2026-01-01T00:00:00+00:00", **metrics: float
) -> Evaluation:
    """An evaluation of a sample set of the case, as `bench.quality.evaluate` writes it."""
    found = {
        "samples": case.label,
        "samples_sha256": f"{case.key}-{images}",
        "images": images,
        "size": [256, 256],
        "case": case.model_dump(),
        "label": case.label,
        "preset": case.sampling,
        "seed": 0,
        "sources": list(case.model_names()),
        "weights_sha256": {},
        "sampled": {},
        "reference": "VIRTUAL_imagenet256_labeled.npz",
        "reference_sha256": "1" * 64,
        "reference_images": 10_000,
        "extractor": "inception-v3-compat",
        "extractor_sha256": "6726825d" + "0" * 56,
        "published": True,
        "metrics": metrics,
        "intervals": {},
        "groups": None,
        "class_accuracy_by_class": None,
        "machine": "l20",
        "device": "cuda",
        "packages": {},
        "commit": None,
        "dirty": None,
        "evaluated_at": at,
        "duration_s": 1.0,
    }
    return Evaluation.model_validate(found)
