"""What the system's files say of the CPU, and what is warned of before a run."""

from __future__ import annotations

import os
import re
import subprocess
from types import SimpleNamespace

import psutil
import pytest
import torch

from bench.measure import cgroup, cpu, machine
from bench.study.units import GIB
from bench.tables import tables

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes files of /proc and /sys; there are no others."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)

    def write(**files):
        for path, text in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")

    return lambda files: write(**files)


@pytest.fixture
def quiet(system, monkeypatch):
    """A machine with nothing to warn of, on which nobody waits."""
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(machine, "cpus_allowed", lambda: 8)
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: None)
    return system


def test_two_sockets_with_their_governor_and_turbo(system):
    for i in range(4):
        base = f"sys/devices/system/cpu/cpu{i}"
        system({f"{base}/topology/physical_package_id": str(i // 2)})
        system({f"{base}/cpufreq/scaling_governor": "performance"})
    system({"sys/devices/system/node/node0/cpulist": "0-1"})
    system({"sys/devices/system/node/node1/cpulist": "2-3"})
    system({"sys/devices/system/cpu/intel_pstate/no_turbo": "1"})
    found = cpu.cpu_facts()
    assert (found["cpu_sockets"], found["numa_nodes"]) == (2, 2)
    assert (found["cpu_governor"], found["cpu_turbo"]) == ("performance", False)
    system({"sys/devices/system/cpu/cpu3/cpufreq/scaling_governor": "powersave"})
    assert cpu.cpu_facts()["cpu_governor"] == "performance, powersave"


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("intel_pstate/no_turbo", "0", True),
        ("cpufreq/boost", "1", True),
        ("cpufreq/boost", "0", False),
        ("unrelated", "1", None),
    ],
)
def test_turbo(system, file, text, expected):
    system({f"sys/devices/system/cpu/{file}": text})
    assert cpu.turbo() is expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        # A slice above the process's own group has the tighter limit.
        (
            {
                "proc/self/cgroup": "0::/jobs/one",
                "sys/fs/cgroup/jobs/cpu.max": "200000 100000",
                "sys/fs/cgroup/jobs/one/cpu.max": "400000 100000",
            },
            2.0,
        ),
        # Version 1, in a container that does not see its group's path.
        (
            {
                "proc/self/cgroup": "3:memory:/docker/a\n2:cpu,cpuacct:/docker/a",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_the_quota_of_a_container(system, files, expected):
    system(files)
    assert cgroup.cpu_quota() == expected


@pytest.mark.parametrize(
    ("files", "limit", "available"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"}, None, None),
        # Version 2: 4 GiB, of which 3 are taken, one of them by pages of files that can go.
        (
            {
                "proc/self/cgroup": "0::/docker/a",
                "sys/fs/cgroup/memory.max": str(4 * GIB),
                "sys/fs/cgroup/memory.current": str(3 * GIB),
                "sys/fs/cgroup/memory.stat": f"anon {2 * GIB}\ninactive_file {GIB}",
            },
            4 * GIB,
            2 * GIB,
        ),
        # A slice above the process's own group has the tighter limit.
        (
            {
                "proc/self/cgroup": "0::/jobs/one",
                "sys/fs/cgroup/jobs/memory.max": str(2 * GIB),
                "sys/fs/cgroup/jobs/one/memory.max": str(8 * GIB),
            },
            2 * GIB,
            2 * GIB,
        ),
        # Version 1, which says "no limit" with a number.
        (
            {
                "proc/self/cgroup": "3:memory:/docker/a",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
                "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "9223372036854771712",
            },
            GIB,
            GIB,
        ),
    ],
)
def test_the_memory_of_a_container_is_the_machines(system, files, limit, available, monkeypatch):
    system(files)
    host = SimpleNamespace(total=64 * GIB, available=32 * GIB)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: host)
    assert machine.memory_bytes() == (limit or host.total)
    assert machine.available_bytes() == (host.available if available is None else available)


def test_a_system_that_tells_nothing_is_no_error(system, monkeypatch):
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    found = cpu.cpu_facts()
    unknown = {"cpu_governor", "cpu_mhz", "cpu_turbo", "cpu_sockets", "numa_nodes", "cpu_quota"}
    assert {key for key in unknown if found[key] is not None} == set()


def test_variables_that_change_speed_without_anybodys_folders(monkeypatch):
    for key in list(os.environ):
        monkeypatch.delenv(key)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    monkeypatch.setenv("LD_PRELOAD", "/home/somebody/lib/libtcmalloc.so.4:/opt/b.so")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("CUDA_HOME", "/usr/local/cuda")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert machine.speed_variables() == {
        "CUDA_VISIBLE_DEVICES": "1,0",
        "GOMP_SPINCOUNT": "20000",  # as cases have them, unless they are set
        "TORCH_CUBLAS_WORKSPACE_CACHE": "1",
        "LD_PRELOAD": "libtcmalloc.so.4:b.so",
        "OMP_NUM_THREADS": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }


def test_a_quiet_machine_gets_no_warning(quiet):
    assert machine.find_disturbances(CPU) == []


def test_each_trouble_gets_a_line_that_says_what_to_do(quiet, monkeypatch):
    monkeypatch.setattr(machine.OtherLoad, "cores", lambda self: 1.26)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 64)
    battery = SimpleNamespace(power_plugged=False)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    monkeypatch.setattr(machine, "cpus_allowed", lambda: 1)
    quiet({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "250000 100000"})
    quiet({"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave"})
    assert machine.find_disturbances(CPU) == [
        "other processes keep 1.3 of 64 CPUs busy: end them, or measure later",
        "this container may use 2.5 CPUs but torch has 8 threads: set OMP_NUM_THREADS=2",
        "this process, by its affinity, may use 1 CPUs but torch has 8 threads: "
        "set OMP_NUM_THREADS=1",
        "the machine runs on battery, which slows it down: plug it in",
        "the CPU's governor is powersave: sudo cpupower frequency-set -g performance",
    ]


def test_the_environments_table_reads_without_json(monkeypatch):
    found = machine.environment()
    found |= {"gpus": [{"name": "NVIDIA L20", "ecc": True, "driver": "580"}], "numa_nodes": 1}
    text = tables.environment(found).text.set_index("what")["value"]
    assert text["cuda:0"] == "name NVIDIA L20, ecc yes, driver 580"
    assert text["numa_nodes"] == "1"
    assert re.match(r"torch \d", text["packages"])
    assert not any(set(value) & set('{}[]"') for value in text)


def test_what_git_refuses_is_said_once(tmp_path, monkeypatch, capsys):
    (tmp_path / ".git").write_text("gitdir: /elsewhere")
    monkeypatch.setattr(machine, "CODE", tmp_path)
    assert [machine.git()["commit"] for _ in range(2)] == [None, None]
    said = capsys.readouterr().err
    assert "warning: records will name no commit: git: fatal: not a git repository" in said
    assert said.count("\n") == 1


def test_a_tree_is_changed_by_code_and_not_by_what_runs_leave(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    files = [tmp_path / name for name in ("code.py", "results/a.jsonl", "docs/a.md", "README.md")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("as committed")
    git("init")
    git("add", ".")
    git("commit", "-m", "all of it")
    monkeypatch.setattr(machine, "CODE", tmp_path)
    for file in files[1:]:
        file.write_text("changed")
    files[1].unlink()
    assert machine.git()["dirty"] is False
    files[0].write_text("changed")
    assert machine.git()["dirty"] is True
