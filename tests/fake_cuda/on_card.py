"""Both papers' memory tables by torch's own caching allocator, on a card of their size: run by
test_fake_cuda.py."""

from __future__ import annotations

import gc
import os

import pytest
import torch

import codevar
from bench.measure import memory
from bench.measure.machine import CHILD_ENVIRON
from bench.methods.loaded import Loaded
from bench.predict.prediction import memory_differs, predict
from bench.study import experiment
from bench.study.cases import make_case
from codevar import VAR, VQVAE, VARConfig, VQVAEConfig, graphs

pytestmark = pytest.mark.gpu
os.environ |= CHILD_ENVIRON
CUDA = torch.device("cuda", 0)


def on_card(model, device, dtype, **_):
    """The model with whatever the card's memory holds for weights."""
    model = model.cast(dtype) if isinstance(model, VQVAE) else model.to(dtype)
    return model.to_empty(device=device).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def an_empty_card():
    gc.collect()  # an OutOfMemoryError keeps the frames it came through
    torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    def var(source, **options):
        with torch.device("meta"):
            _, name, _ = source.split(":")  # as in seeded:var_d30:0
            model = VAR(VARConfig.published(int(name.removeprefix("var_d"))))
        return on_card(model, **options)

    def vqvae(source, **options):
        with torch.device("meta"):
            model = VQVAE(VQVAEConfig())
        return on_card(model, **options)

    monkeypatch.setattr(codevar, "load_var", var)
    monkeypatch.setattr(codevar, "load_vqvae", vqvae)


def measured(case):
    loaded = Loaded.of(case, download=False)
    with graphs.launched():
        loaded.decode(lambda k: None)
    return memory.measure_memory(loaded.decode, loaded.networks, CUDA)[0]


def rows(table):
    """(the paper's row, its case)."""
    sweep = experiment.load(table, device="cuda")
    for case in sweep.cases:
        row = sweep.paper_rows[case.key]
        yield pytest.param(row.columns, case, id=f"{row.label} {case.batch_size}")


@pytest.mark.parametrize(("row", "case"), rows("code_table3"))
def test_memory_is_the_papers_and_the_predicted(row, case):
    if row["status_paper"] == "oom":
        with pytest.raises(torch.OutOfMemoryError):
            measured(case)
        return
    used = measured(case)
    assert used.accounted
    assert used.params_mib == pytest.approx(row["params_mib_paper"], rel=1e-3)
    assert used.kv_cache_mib == pytest.approx(row["kv_cache_mib_paper"], rel=8e-3)
    running = used.running_mib - used.rounding_mib
    assert running == pytest.approx(row["running_mib_paper"], rel=0.01)
    assert memory_differs(used, predict(case).figures(), "cuda") == []


@pytest.mark.parametrize(("row", "case"), rows("variant_table3"))
def test_memory_runs_out_where_the_papers_did(row, case):
    """Not for the images either: VARiant-d2 at batch 256 leaves them 4 GiB of the card."""
    loaded = Loaded.of(case, download=False)
    if row["status_paper"] == "oom":
        with pytest.raises(torch.OutOfMemoryError):
            loaded.decode(lambda k: None)
    else:
        assert len(loaded.images(loaded.decode(lambda k: None))) == case.batch_size


METHODS = {
    "var": {},
    "code": {"draft_steps": 6},
    "variant": {"subnet_depth": 16, "bridge_scales": 6},
}


@pytest.mark.parametrize(
    ("stack", "method", "batch_size"),
    [
        ("modern", "var", 1),
        ("modern", "code", 64),
        ("modern", "variant", 64),
        ("compiled", "var", 1),
    ],
)
def test_memory_of_every_stack_is_the_predicted(stack, method, batch_size):
    values = {"method": method, "stack": stack, "batch_size": batch_size, "precision": "bf16"}
    case = make_case(METHODS[method] | values | {"device": "cuda"})
    used = measured(case)
    assert memory_differs(used, predict(case).figures(), "cuda") == []
