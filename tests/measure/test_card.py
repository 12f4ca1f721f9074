"""What is asked of NVML, and what becomes of its refusals: a fake NVML on real constants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pynvml
import pytest
import torch

from bench.measure import card, child, find_ceilings, machine, memory, selfcheck
from bench.measure.card import Card
from bench.study.cases import make_case
from bench.study.units import MIB

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
UUID = "5eb6c0de-0000-1111-2222-333344445555"


class FakeNvml:
    """pynvml for one card.  `refused`: names of the functions that this card does not support."""

    def __init__(self):
        self.refused = set()
        self.mig = 0
        self.reasons = 0
        self.violation_ns = 5_000_000_000
        self.joules = 1000.0
        self.utilization = 0
        self.power_limit_w = 275
        self.used_mib = 3
        self.computing = []
        self.drawing = []

    def __getattr__(self, name):  # constants and exceptions are the real ones
        return getattr(pynvml, name)

    def installed(self, monkeypatch):
        answers = {
            "nvmlInit": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: "580.95.05",
            "nvmlSystemGetCudaDriverVersion": lambda: 13020,
            "nvmlDeviceGetHandleByUUID": self.handle,
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda h: "card",
            "nvmlDeviceGetEnforcedPowerLimit": lambda h: self.power_limit_w * 1000,
            "nvmlDeviceGetPowerManagementDefaultLimit": lambda h: 275000,
            "nvmlDeviceGetMaxClockInfo": lambda h, kind: {1: 2520, 2: 9001}[kind],
            "nvmlDeviceGetPersistenceMode": lambda h: 1,
            "nvmlDeviceGetEccMode": lambda h: [0, 1],
            "nvmlDeviceGetMigMode": lambda h: [self.mig, self.mig],
            "nvmlDeviceGetClockInfo": lambda h, kind: {1: 2475, 2: 9001}[kind],
            "nvmlDeviceGetTemperature": lambda h, sensor: 61,
            "nvmlDeviceGetPowerUsage": lambda h: 201_500,
            "nvmlDeviceGetUtilizationRates": lambda h: SimpleNamespace(
                gpu=self.utilization, memory=1
            ),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda h: self.reasons,
            "nvmlDeviceGetViolationStatus": lambda h, policy: SimpleNamespace(
                referenceTime=0, violationTime=self.violation_ns
            ),
            "nvmlDeviceGetTotalEnergyConsumption": lambda h: int(self.joules * 1000),
            "nvmlDeviceGetMemoryInfo": lambda h, version: SimpleNamespace(
                used=self.used_mib * MIB, reserved=600 * MIB
            ),
            "nvmlDeviceGetComputeRunningProcesses": lambda h: self.computing,
            "nvmlDeviceGetGraphicsRunningProcesses": lambda h: self.drawing,
        }
        for name, function in answers.items():
            assert hasattr(pynvml, name)
            monkeypatch.setattr(self, name, self.guarded(name, function), raising=False)
        monkeypatch.setattr(card, "pynvml", self)

    def guarded(self, name, function):
        def ask(*arguments):
            if name in self.refused:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return function(*arguments)

        return ask

    def handle(self, uuid):
        if uuid == f"GPU-{UUID}" and not self.mig:
            return "card"
        if uuid == f"MIG-{UUID}" and self.mig:
            return "slice"
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    fake.installed(monkeypatch)
    properties = SimpleNamespace(
        uuid=UUID, name="NVIDIA L20", total_memory=45 * 2**30, major=8, minor=9
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    return fake


def process(pid, mib):
    return SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * MIB)


@pytest.fixture
def stranger():
    """A process that is neither our ancestor nor our child: its parent has ended."""
    start = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=-3).pid)"
    pid = int(subprocess.check_output([sys.executable, "-c", start]))
    yield pid
    os.kill(pid, 9)


def test_facts_are_what_an_engineer_asks_of_a_figure(nvml):
    assert Card(CUDA).facts() == {
        "driver": "580.95.05",
        "cuda_driver": "13.2",
        "power_limit_w": 275.0,
        "power_limit_default_w": 275.0,
        "max_sm_clock_mhz": 2520,
        "max_memory_clock_mhz": 9001,
        "persistence_mode": True,
        "ecc": False,
        "mig": False,
    }


def test_state_is_what_changes(nvml):
    nvml.reasons = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonSyncBoost
    nvml.utilization = 97
    assert Card(CUDA).state() == {
        "sm_clock_mhz": 2475,
        "memory_clock_mhz": 9001,
        "temperature_c": 61,
        "power_w": 201.5,
        "throttle_reasons": ["sw_power_cap", "sync_boost"],
        "gpu_utilization_percent": 97,
    }


def test_one_refusal_takes_nothing_else_along(nvml):
    nvml.refused = {
        "nvmlDeviceGetEccMode",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetGraphicsRunningProcesses",
    }
    found = Card(CUDA)
    assert "ecc" not in found.facts()
    assert found.facts()["driver"] == "580.95.05"
    state = found.state()
    assert [key for key, value in state.items() if value is None] == [
        "power_w",
        "throttle_reasons",
        "gpu_utilization_percent",
    ]
    assert state["sm_clock_mhz"] == 2475
    assert found.throttled() == []  # the counter of heat is still there
    assert found.energy_j() is None
    assert found.others() == []


def test_a_card_that_refuses_everything_answers_none(nvml):
    nvml.refused = {name for name in vars(nvml) if name.startswith("nvml")}
    found = Card(CUDA)
    assert "Not Supported" in found.facts()["nvml"]
    answers = found.state(), found.throttled(), found.energy_j(), found.others()
    assert answers == (None,) * 4
    nvml.refused -= {"nvmlInit", "nvmlDeviceGetHandleByUUID"}
    found = Card(CUDA)
    assert found.facts() == {}
    assert set(found.state().values()) == {None}
    answers = found.throttled(), found.energy_j(), found.others(), found.own_bytes()
    assert answers == (None,) * 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="NVML is there")
def test_without_nvml_every_answer_is_none_and_the_record_says_why(monkeypatch):
    properties = SimpleNamespace(uuid=UUID)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    found = Card(CUDA)  # the real pynvml, which finds no library
    assert list(found.facts()) == ["nvml"]
    assert found.facts()["nvml"]
    answers = found.state(), found.throttled(), found.energy_j(), found.others(), found.own_bytes()
    assert answers == (None,) * 5


def garbled(*_):
    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


@pytest.mark.parametrize("answer", [garbled, lambda *_: "?", lambda *_: None, lambda *_: ()])
def test_whatever_nvml_answers_is_no_exception(nvml, monkeypatch, answer):
    for name in [name for name in vars(nvml) if name.startswith("nvml")]:
        if name not in ("nvmlInit", "nvmlDeviceGetHandleByUUID"):
            monkeypatch.setattr(nvml, name, answer)
    found = Card(CUDA)
    assert set(found.facts()) <= {"driver", "persistence_mode", "ecc", "mig"}
    assert not any(found.state().values())
    assert (found.throttled(), found.energy_j(), found.own_bytes()) == (None,) * 3
    found.others()


def test_another_package_of_that_name_is_no_nvml(nvml, monkeypatch):
    monkeypatch.setattr(card, "pynvml", SimpleNamespace())
    assert "no attribute 'nvmlInit'" in Card(CUDA).facts()["nvml"]


def test_a_cpu_has_no_card():
    found = Card(CPU)
    assert found.facts() == {}
    assert (found.state(), found.throttled(), found.energy_j(), found.others()) == (None,) * 4


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (pynvml.nvmlClocksEventReasonGpuIdle, []),
        (pynvml.nvmlClocksEventReasonSwPowerCap, []),
        (pynvml.nvmlClocksEventReasonApplicationsClocksSetting, []),
        (pynvml.nvmlClocksEventReasonSwThermalSlowdown, ["sw_thermal_slowdown"]),
        (
            pynvml.nvmlClocksEventReasonHwSlowdown
            | pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown
            | pynvml.nvmlClocksEventReasonSwPowerCap,
            ["hw_slowdown", "hw_power_brake_slowdown"],
        ),
    ],
)
def test_slowdowns_spoil_a_timing_the_power_cap_and_settings_do_not(nvml, bits, reasons):
    nvml.reasons = bits
    assert Card(CUDA).throttled() == reasons


def test_heat_that_came_and_went_inside_a_sample_is_seen(nvml):
    found = Card(CUDA)
    assert found.throttled() == []  # what was before the first call is not ours
    nvml.violation_ns += 3_000_000
    assert found.throttled() == ["thermal_violation"]
    assert found.throttled() == []


def test_a_slowdown_that_held_when_the_sample_began_spoils_it(nvml):
    found = Card(CUDA)
    nvml.reasons = pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown
    found.throttled()
    nvml.reasons = 0
    assert found.throttled() == ["hw_power_brake_slowdown"]
    assert found.throttled() == []


def test_energy_is_in_joules(nvml):
    found = Card(CUDA)
    before = found.energy_j()
    nvml.joules += 12.5
    assert found.energy_j() - before == pytest.approx(12.5)


def test_on_mig_the_processes_are_the_slices_and_the_energy_nobodys(nvml):
    nvml.mig = 1
    nvml.computing = [process(os.getpid(), 700)]
    asked = []
    nvml.nvmlDeviceGetComputeRunningProcesses = lambda h: asked.append(h) or nvml.computing
    found = Card(CUDA)
    assert found.facts()["mig"] is True
    assert found.state()["sm_clock_mhz"] == 2475
    assert found.own_bytes() == 700 * MIB
    assert asked == ["slice"]
    assert found.energy_j() is None


def test_others_are_not_we_our_ancestors_or_our_children(nvml, stranger):
    child = subprocess.Popen(["sleep", "60"])
    try:
        nvml.computing = [
            process(os.getpid(), 900),
            process(os.getppid(), 500),
            process(child.pid, 300),
            process(2**22 + 1, None),  # no such pid here
        ]
        nvml.drawing = [process(stranger, 40)]
        found = Card(CUDA)
        assert found.others() == [
            {"pid": stranger, "name": "sleep", "mib": 40},
            {"pid": 2**22 + 1, "name": None, "mib": None},
        ]
        assert found.own_bytes() == 900 * MIB
    finally:
        child.kill()
        child.wait()


def test_pids_of_another_namespace_say_nothing_of_others(nvml, monkeypatch):
    nvml.computing = [process(2**22 + 1, 900)]  # this process, as the host calls it
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 900 * MIB)
    assert Card(CUDA).others() is None


def test_the_memory_of_the_process_is_nvmls_or_else_cudas(nvml, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 * MIB, 100 * MIB))
    nvml.computing = [process(os.getpid(), 900)]
    assert memory.process_bytes(CUDA) == (900 * MIB, "nvml")
    nvml.computing = [process(os.getpid(), None)]
    assert memory.process_bytes(CUDA) == (60 * MIB, "cuda (whole card)")


def test_the_environment_holds_the_cards_facts_as_json(nvml, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    (found,) = json.loads(json.dumps(machine.environment()["gpus"]))
    assert found["name"] == "NVIDIA L20"
    assert found["driver"] == "580.95.05"
    assert found["power_limit_w"] == 275


def test_whatever_measures_takes_a_gpu_without_a_number_for_the_first(monkeypatch):
    """torch itself wants to know which."""

    class NoDriverError(Exception):
        pass

    def chosen(index):
        raise NoDriverError(index)

    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen, raising=False)
    case = make_case({"method": "var", "depth": 2, "device": "cuda:0"})
    effort = {"warmup": 1, "samples": 6, "target": 0.01, "max_seconds": 9}
    for measures, wanted in (
        (lambda: child.run(case, {"effort": effort}), 0),
        (lambda: find_ceilings.measure_ceilings(torch.device("cuda")), 0),
        (lambda: selfcheck.selfcheck(torch.device("cuda:1"), depth=2, pairs=1), 1),
    ):
        with pytest.raises(NoDriverError) as e:
            measures()
        assert e.value.args == (wanted,)


def test_an_idle_gpu_gets_no_warning(nvml):
    nvml.reasons = pynvml.nvmlClocksEventReasonGpuIdle
    assert machine.find_gpu_disturbances(CUDA) == []


def test_a_busy_gpu_gets_a_line_for_each_trouble(nvml, stranger):
    nvml.computing = [process(stranger, 1200)]
    nvml.utilization = 80
    nvml.reasons = pynvml.nvmlClocksEventReasonHwThermalSlowdown
    nvml.power_limit_w = 150
    assert machine.find_gpu_disturbances(CUDA) == [
        f"sleep (pid {stranger}) holds 1200 MiB of cuda:0: end it, or choose another GPU",
        "cuda:0 is 80 % busy: wait until it is idle",
        "cuda:0 is slowed down (hw_thermal_slowdown): "
        "let it cool, look at its fans and its power supply",
        "cuda:0 is limited to 150 of 275 W: sudo nvidia-smi -pl 275",
    ]


def test_memory_that_nobody_seems_to_hold_is_said(nvml):
    nvml.used_mib = 20_000
    (line,) = machine.find_gpu_disturbances(CUDA)
    assert line.startswith("20000 MiB of cuda:0 are taken already")
    nvml.computing = [process(os.getpid(), 19_800)]
    assert machine.find_gpu_disturbances(CUDA) == []


def test_a_gpu_without_nvml_gets_no_warning(nvml):
    nvml.refused = {"nvmlInit"}
    assert machine.find_gpu_disturbances(CUDA) == []
