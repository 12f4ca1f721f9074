"""One process for several cases: it is shared, and what happens to one case is only that one's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.measure import runner
from bench.measure.shared import SharedProcess

# In place of `bench.measure.child`: what a job's weights say, it does.
CHILD = """
import json, os, sys, time
for line in sys.stdin:
    todo = json.loads(line)["case"]["weights"]
    if todo == "crash":
        os.abort()
    if todo == "hang":
        time.sleep(60)
    print(json.dumps({"status": todo, "pid": os.getpid()}), flush=True)
"""


@pytest.fixture
def process(monkeypatch):
    begin = runner.start_child

    def start(log):
        with monkeypatch.context() as patch:
            real = subprocess.Popen
            python = [sys.executable, "-c", CHILD]
            patch.setattr(subprocess, "Popen", lambda _, **options: real(python, **options))
            return begin(log)

    monkeypatch.setattr(runner, "start_child", start)
    shared = SharedProcess()
    yield shared
    shared.close()


def ask(process, tmp_path, todo, stack="modern"):
    job = {"case": {"device": "cuda", "stack": stack, "weights": todo}}
    return process(job, 0.5 if todo == "hang" else 60, tmp_path / "log")


def test_cases_share_a_process(process, tmp_path):
    assert not process.started
    first, second = (ask(process, tmp_path, "ok") for _ in range(2))
    assert first == second
    assert process.started


@pytest.mark.parametrize(
    ("todo", "status", "reason"),
    [
        ("crash", "error", "crashed: SIGABRT"),
        ("hang", "timeout", "took longer than 0.5 s"),
        ("oom", "oom", None),
        ("failed", "error", None),
    ],
)
def test_a_case_that_fails_takes_no_other_along(process, tmp_path, todo, status, reason):
    before = ask(process, tmp_path, "ok")
    failed = ask(process, tmp_path, todo)
    assert (failed["status"], failed.get("reason")) == (status, reason)
    after = ask(process, tmp_path, "ok")
    assert after["status"] == "ok"
    assert after["pid"] != before["pid"]


def test_a_compiled_case_has_a_process_of_its_own(process, tmp_path):
    pids = [ask(process, tmp_path, "ok", how)["pid"] for how in ("modern", "compiled", "modern")]
    assert len(set(pids)) == 3
