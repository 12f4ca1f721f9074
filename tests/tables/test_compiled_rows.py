"""A row of the `compiled` stack: its memory is as predicted, and one that ran eagerly says so."""

from __future__ import annotations

import pytest
import torch

from bench.figures.looks import STACK_COLORS, STACK_LINES
from bench.measure import child
from bench.predict.prediction import memory_differs, predict
from bench.report.marks import marks
from bench.study.cases import make_case
from bench.study.records import DEGRADED, MemoryUse, StartUp
from bench.tables import sides, tables
from codevar import compiled, graphs
from codevar.stacks import STACKS
from tests.synthetic import fake_run

CASE = {"method": "var", "depth": 4, "weights": "mini", "sampling": "mini"} | {
    "stack": "compiled",
    "precision": "bf16",
    "batch_size": 16,
    "device": "cpu",
}
WHY = "InvalidCxxCompiler: No working C++ compiler found"


@pytest.fixture(autouse=True)
def unlimited(monkeypatch):
    monkeypatch.setattr(child, "limit_memory", lambda *_: None)


@pytest.mark.skipif(
    bool(compiled.cannot_compile(torch.device("cpu"))), reason="torch.compile does not work here"
)
def test_its_memory_is_as_predicted(job):
    case = make_case(CASE)
    result = child.run(case, job)
    assert "not_compiled" not in result
    used = MemoryUse.model_validate(result["memory"])
    assert memory_differs(used, predict(case).figures(), "cpu") == []
    exact = pytest.approx(predict(case).running_bytes / 2**20, rel=0.01)
    assert result["memory"]["running_mib"] == exact


def test_a_case_that_ran_eagerly_says_why(monkeypatch, job):
    for module in (compiled, child):
        monkeypatch.setattr(module, "cannot_compile", lambda device: WHY)
    case = make_case(CASE)
    result = child.run(case, job)
    assert (result["status"], result["not_compiled"]) == ("ok", WHY)
    used = MemoryUse.model_validate(result["memory"])
    assert memory_differs(used, predict(case).figures(), "cpu") == []
    modern = child.run(make_case(CASE | {"stack": "modern"}), job)
    assert "not_compiled" not in modern
    assert modern["tokens_sha256"] == result["tokens_sha256"]


@pytest.mark.parametrize(("lost", "short"), [(n, short) for n, (short, _) in DEGRADED.items()])
def test_no_table_takes_it_for_a_compiled_one(lost, short):
    run = fake_run("d16_cpu", method="var", batch_size=1, stack=["modern", "compiled"])
    for record in run.records:
        if record.stack == "compiled":
            setattr(record, lost, WHY)
    printed = tables.measured(run)
    by_stack = dict(zip(printed.data["stack"], printed.text["status"], strict=True))
    assert by_stack["modern"] == "ok"
    assert by_stack["compiled"] == f"ok, {short}"
    (note,) = [note for note in printed.notes if short in note]
    assert WHY in note
    found = [mark for row in printed.data.to_dict("records") for mark in marks(row)]
    assert [mark.kind for mark in found if mark.short == short] == ["not comparable"]


@pytest.mark.parametrize("lost", DEGRADED)
def test_the_gate_tells_it(lost):
    run = fake_run("d16_cpu", method="var", batch_size=1, stack="compiled")
    setattr(run.records[0], lost, WHY)
    assert WHY in sides.of_run(run).told[lost]


def test_what_graphs_take_is_told():
    """Their pool, beside the memory of a decode without; the seconds of the capture."""

    class Graphs:
        seconds, pool_bytes = 1.5, 300 * 2**20

    run = fake_run("d16_cpu", method="var", batch_size=1, stack="compiled")
    for record in run.records:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(graphs, "known_of", lambda plan: [graphs.Known(Graphs())])
            start_up, used = record.start_up.to_json(), record.memory.to_json()
            assert child.note_graphs(None, start_up, used) == {}
        record.start_up = StartUp(**start_up)
        record.memory = MemoryUse(**used)
    printed = tables.measured(run)
    (note,) = [note for note in printed.notes if "CUDA graphs" in note]
    assert note.endswith("VAR-d16 300 MiB.")
    (shown,) = tables.how_measured(printed.data).text["capture s"]
    assert shown == "1.50"


def test_why_there_are_no_graphs_is_told(monkeypatch):
    monkeypatch.setattr(graphs, "known_of", lambda plan: [graphs.Known(reason=WHY)])
    assert child.note_graphs(None, {}, {}) == {"not_captured": WHY}


def test_every_stack_can_be_drawn():
    for looks in (STACK_COLORS, STACK_LINES):
        assert set(looks) == set(STACKS)
        assert len({str(look) for look in looks.values()}) == len(STACKS)
