"""Sample sets of seconds: models of four scales and 8 x 8 pixels in the place of the cases' own."""

from __future__ import annotations

import functools
import multiprocessing

import torch

import codevar
from bench.methods.loaded import Loaded
from bench.quality import sample_set, sampling
from bench.study.cases import make_case
from tests import tiny

# Processes forked off one that has imported all and done nothing.
multiprocessing.set_forkserver_preload(["bench.quality.sampling", "tests.tiny", "typer", "pytest"])
PROCESSES = multiprocessing.get_context("forkserver")
torch.set_num_threads(1)

PER_CLASS, CLASSES = 3, 10
N = PER_CLASS * CLASSES
ENV = {"machine": "here", "commit": "0" * 40, "dirty": False, "packages": {"torch": "2"}}


def case_of(**changes):
    values = {"method": "var", "depth": 2, "precision": "float32", "device": "cpu"}
    return make_case(values | {"batch_size": 7} | changes)


def tiny_loaded(case, download):
    """`Loaded.of`, of seeded models."""
    how = codevar.stack(case.stack, case.precision)
    models = [model(depth, how.weights) for depth in case.depths]
    sources = [f"seeded:var_d{depth}:0" for depth in case.depths]
    return Loaded(case, case.plan(*models), vqvae(how.weights), how, sources)


@functools.cache
def model(depth, dtype):
    return tiny.var(depth, seed=depth, dtype=dtype)


@functools.cache
def vqvae(dtype):
    return tiny.vqvae().cast(dtype)


def make_small(monkeypatch):
    """Tiny models, and shards of eight images."""
    monkeypatch.setattr(sampling.Loaded, "of", tiny_loaded)
    monkeypatch.setattr(sample_set, "SHARD", 8)
