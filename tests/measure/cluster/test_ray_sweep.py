"""A sweep on Ray itself: several nodes, one of them killed in the middle; a driver killed too.

The nodes are Ray's own, as processes on this machine, and so are the driver, the slots and the
process of each case; only what that process would measure is made up, by `sitecustomize`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from bench.study import experiment, records
from bench.study.records import Record
from bench.study.units import MIB
from tests.measure.cluster.nodes import RESULT, TINY

pytest.importorskip("ray")
ROOT = Path(__file__).parents[3]
# In place of `bench.measure.child`.  A file "hold-MACHINE" with n in it keeps that machine from its
# n-th case on; each case leaves its process id in "began-MACHINE-n".
INSTEAD = """
import json, os, sys, time
if sys.orig_argv[1:3] == ["-m", "bench.measure.child"]:
    here, name = os.environ["INSTEAD"], os.environ["CODEVAR_MACHINE"]
    json.load(sys.stdin)
    number = 1 + sum(f.startswith(f"began-{name}-") for f in os.listdir(here))
    with open(f"{here}/began-{name}-{number}", "w") as file:
        file.write(str(os.getpid()))
    parent = os.getppid()
    try:
        while number >= int(open(f"{here}/hold-{name}").read()) and os.getppid() == parent:
            time.sleep(0.05)
    except OSError:
        pass
    print(open(f"{here}/result.json").read(), flush=True)
    os._exit(0)
"""


class Nodes:
    """A cluster of named nodes with one CPU each."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        (folder / "sitecustomize.py").write_text(INSTEAD)
        (folder / "result.json").write_text(json.dumps(RESULT))
        (folder / "tiny.toml").write_text(TINY.replace("[1, 2]", "[1, 2, 4]"))
        self.sweep = experiment.load(str(folder / "tiny.toml"), ["rounds=1"], device="cpu")
        quickly = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
        small = {"object_store_memory": 80 * MIB, "include_dashboard": False}
        self.ray = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "_system_config": quickly, **small},
        )
        self.up = {name: self.add(name) for name in ("alpha", "beta")}

    def add(self, name: str):
        return self.ray.add_node(
            node_name=name,
            num_cpus=1,
            object_store_memory=80 * MIB,
            env_vars={
                "CODEVAR_MACHINE": name,
                "INSTEAD": str(self.folder),
                "PYTHONPATH": str(self.folder),
                "RAY_worker_niceness": "0",
            },
        )

    def hold(self, name: str, number: int) -> None:
        for file in self.folder.glob(f"began-{name}-*"):
            file.unlink()
        (self.folder / f"hold-{name}").write_text(str(number))

    def holds(self, name: str, driver: subprocess.Popen) -> psutil.Process:
        """Waits until the node is held; the process of the case that it is at."""
        number = (self.folder / f"hold-{name}").read_text()
        file = self.folder / f"began-{name}-{number}"
        while not (file.exists() and file.read_text()):
            assert driver.poll() is None, driver.communicate()[0]
            time.sleep(0.05)
        return psutil.Process(int(file.read_text()))

    def release(self, name: str) -> None:
        (self.folder / f"hold-{name}").unlink()

    def run(self, *more: str) -> subprocess.Popen:
        command = [sys.executable, "bench.py", "run", str(self.folder / "tiny.toml")]
        where = ["--cluster", self.ray.address, "--out", str(self.folder / "{machine}" / "run")]
        return subprocess.Popen(
            [*command, *where, "--set", "rounds=1", *more],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )

    def records(self) -> dict[str, list[Record]]:
        found = {}
        for file in sorted(self.folder.glob("*/run/records.jsonl")):
            found[file.parent.parent.name], complaints = records.read_lines(file)
            assert complaints == []
        return found

    def each_once(self) -> bool:
        every = [record.key for lines in self.records().values() for record in lines]
        return Counter(every) == Counter(case.key for case in self.sweep.cases)


@pytest.fixture
def nodes(tmp_path):
    nodes = Nodes(tmp_path)
    yield nodes
    nodes.ray.shutdown()


@pytest.mark.slow
def test_a_node_and_a_driver_are_killed_and_nothing_is_lost_or_doubled(nodes):
    nodes.hold("alpha", 4)  # in the middle of its second family of two
    nodes.hold("beta", 1)
    driver = nodes.run()
    nodes.holds("alpha", driver)
    first = nodes.holds("beta", driver)
    before = {name: len(lines) for name, lines in nodes.records().items()}
    assert before == {"alpha": 3}

    nodes.ray.remove_node(nodes.up["alpha"], allow_graceful=False)
    nodes.hold("beta", 3)  # two cases on: in the middle of what alpha had begun
    assert first.is_running()
    child = nodes.holds("beta", driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert psutil.wait_procs([child], timeout=30)[1] == []  # nothing measures beside an orphan
    kept = (nodes.folder / "beta" / "run" / "records.jsonl").read_text()
    assert kept.count("\n") == 3

    nodes.release("beta")
    driver = nodes.run("--resume")
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    assert "Traceback" not in output
    assert nodes.each_once()
    found = nodes.records()
    assert {name: len(lines) for name, lines in found.items()} == {"alpha": 2, "beta": 4}
    assert (nodes.folder / "beta" / "run" / "records.jsonl").read_text().startswith(kept)
    for name, lines in found.items():
        assert {r.place for r in lines} == {r.machine for r in lines} == {name}
        assert {r.commit for r in lines} == {json.loads(env(nodes, name))["commit"]}
        assert all(
            (nodes.folder / name / "run" / "logs" / f"{r.key}-1.log").exists() for r in lines
        )
    # The nodes are on one host, and while alpha was there beta's case ran beside alpha's.
    assert any(r.shared_with for r in found["alpha"])
    for name in ("alpha", "beta"):
        assert str(nodes.folder / name / "run") in output.replace("\n", "")


def env(nodes: Nodes, name: str) -> str:
    return (nodes.folder / name / "run" / "env.json").read_text()


@pytest.mark.slow
def test_real_cases_on_a_cluster_of_this_machine(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    command = [sys.executable, "bench.py", "run", str(tmp_path / "tiny.toml"), "--set", "rounds=1"]
    where = ["--cluster", "local", "--device", "cpu", "--out", str(tmp_path / "runs")]
    done = subprocess.run([*command, *where], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "runs").glob("*/records.jsonl")
    lines, _ = records.read_lines(file)
    assert [r.status for r in lines] == ["ok"] * 4
    assert all(r.memory.params_mib == r.predicted.params_mib for r in lines)
