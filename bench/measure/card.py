"""What NVML tells of the GPU under a CUDA device: the one place that talks to it.

Nothing here waits for the device.  Where there is no NVML, or this card or driver does not
answer a question, the answer is None and never an exception.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import psutil
import torch

from bench.study.units import MIB

try:  # Python may find another package of this name first, with other contents
    import pynvml
except Exception:
    pynvml = None

ENABLED = 1  # NVML_FEATURE_ENABLED
Answer = TypeVar("Answer")
# Why the clocks are what they are: NVML's "clocks event reasons".
REASONS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
}
# Those that make a timing worthless; `Card.throttled` says why these.
THROTTLES = (
    "hw_slowdown",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
)


def make_current(device: torch.device) -> None:
    """Whatever names no GPU means this one from now on; "cuda" is the first."""
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)


class Card:
    """The GPU under a CUDA device, found by its UUID: CUDA_VISIBLE_DEVICES may renumber.

    A device of another kind has no card: it tells nothing, so callers need not ask.  On a MIG
    slice, processes and memory are the slice's; clocks, power and temperature the whole card's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slice: Any = None  # the same handle as _whole, but on MIG
        self._whole: Any = None
        self._held: list[str] = []
        self._violation_ns: int | None = None
        self._error: str | None = None
        if device.type != "cuda":
            return
        uuid = torch.cuda.get_device_properties(device).uuid
        try:
            pynvml.nvmlInit()
            try:
                self._slice = self._whole = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            except pynvml.NVMLError:
                found = pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
                self._whole = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(found)
                self._slice = found
        except Exception as e:
            self._error = str(e)

    def facts(self) -> dict[str, Any]:
        """What stays: driver, limits and modes; only what the card tells.

        power_limit_w is the limit in force, power_limit_default_w what the card came with.
        """
        if self._whole is None:
            return {"nvml": self._error} if self._error else {}
        facts = {
            "driver": answer(lambda: os.fsdecode(pynvml.nvmlSystemGetDriverVersion())),
            "cuda_driver": answer(lambda: cuda_version(pynvml.nvmlSystemGetCudaDriverVersion())),
            "power_limit_w": self._number("EnforcedPowerLimit", per=1000),
            "power_limit_default_w": self._number("PowerManagementDefaultLimit", per=1000),
            "max_sm_clock_mhz": self._number("MaxClockInfo", "NVML_CLOCK_SM"),
            "max_memory_clock_mhz": self._number("MaxClockInfo", "NVML_CLOCK_MEM"),
            "persistence_mode": self._ask("PersistenceMode", lambda mode: mode == ENABLED),
            "ecc": self._ask("EccMode", lambda modes: modes[0] == ENABLED),
            "mig": self._is_mig(),
        }
        return {key: value for key, value in facts.items() if value is not None}

    def state(self) -> dict[str, Any] | None:
        """What changes, now.

        gpu_utilization_percent is the share of the last second or less (by card) in which a
        kernel ran.  power_w is an average over a second on Ampere and newer, but for the A100.
        """
        if self._whole is None:
            return None
        return {
            "sm_clock_mhz": self._number("ClockInfo", "NVML_CLOCK_SM"),
            "memory_clock_mhz": self._number("ClockInfo", "NVML_CLOCK_MEM"),
            "temperature_c": self._number("Temperature", "NVML_TEMPERATURE_GPU"),
            "power_w": self._number("PowerUsage", per=1000),
            "throttle_reasons": self._reasons(),
            "gpu_utilization_percent": self._ask("UtilizationRates", lambda rates: +rates.gpu),
        }

    def throttled(self) -> list[str] | None:
        """Why what ran since the last call of this is worthless as a timing; [] if it is not.

        Called once when the warm-up is over and then after each sample.  A reason counts if it
        held at the last call, holds now, or, for heat ("thermal_violation"), came and went in
        between: NVML adds up the time that heat held the clocks down.  It has newer counters for
        each reason, but their numbers changed between its releases, so another driver would
        answer another question.

        Slowdowns by heat, by a power brake and by hardware count: they come and go with the
        room and the power supply, and halve the clocks or worse.  The power cap (sw_power_cap)
        does not: at large batches a data-centre GPU runs into its cap all the time, that is its
        speed, and to discard such samples would discard all.  NVBench, for short kernels,
        discards a sample whose mean SM clock is under 75 % of the default; NVML has no mean, and
        a reading when the sample is over tells little of it.  Settings (application clocks, sync
        boost) do not count either: they hold for the whole run.  All of them are in `state`, and
        the power limit is in `facts`.

        On a card that is too hot all the time every sample counts as throttled: the caller's
        budget has to end that.
        """
        now = self._reasons()
        policy = ("NVML_PERF_POLICY_THERMAL",)
        violation = self._ask("ViolationStatus", lambda status: +status.violationTime, *policy)
        if now is None and violation is None:
            return None
        holds = [reason for reason in now or [] if reason in THROTTLES]
        found = list(dict.fromkeys(self._held + holds))
        if violation is not None:
            before, self._violation_ns = self._violation_ns, violation
            if before is not None and violation > before:
                found.append("thermal_violation")
        self._held = holds
        return found

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded (Volta and newer), of the whole card; None on MIG,
        where other slices would be in it.

        The counter moves in steps of some 20 to 100 ms and A100 and H100 look at the power a
        quarter of the time only (Yang et al., arXiv 2312.02741), so the difference over one
        sample says little.  Read it before the first and after the last of many samples, some
        seconds apart, and divide by all images decoded in between, discarded ones too.
        """
        if self._is_mig():
            return None
        return self._number("TotalEnergyConsumption", per=1000)

    def others(self) -> list[dict[str, Any]] | None:
        """Other processes on the GPU, the largest first: pid, name, mib (None where NVML does
        not say).  Not this process, its ancestors and its children.

        None also where this process has memory on the GPU and NVML does not list it: then the
        pids are those of another namespace, as in some containers, and one of them is our own.
        """
        used = self._used_by_pid()
        if used is None:
            return None
        me = psutil.Process()
        if me.pid not in used and torch.cuda.memory_reserved(self._device) > 0:
            return None
        kin = {me.pid, *(p.pid for p in me.parents() + me.children(recursive=True))}
        found = [
            {"pid": pid, "name": process_name(pid), "mib": None if b is None else round(b / MIB)}
            for pid, b in used.items()
            if pid not in kin
        ]
        return sorted(found, key=lambda other: -(other["mib"] or 0))

    def own_bytes(self) -> int | None:
        """What this process holds of the GPU's memory."""
        return (self._used_by_pid() or {}).get(os.getpid())

    def used_bytes(self) -> int | None:
        """What all processes hold, without what the driver reserves for itself."""
        if self._slice is None:
            return None
        return answer(
            lambda: +pynvml.nvmlDeviceGetMemoryInfo(self._slice, pynvml.nvmlMemory_v2).used
        )

    def _used_by_pid(self) -> dict[int, int | None] | None:
        """Bytes of each process that computes or draws; a desktop does both."""
        card = self._slice
        if card is None:
            return None
        computing = answer(lambda: bytes_by_pid(pynvml.nvmlDeviceGetComputeRunningProcesses, card))
        drawing = answer(lambda: bytes_by_pid(pynvml.nvmlDeviceGetGraphicsRunningProcesses, card))
        return None if computing is None else {**(drawing or {}), **computing}

    def _reasons(self) -> list[str] | None:
        bits = self._number("CurrentClocksEventReasons")
        return None if bits is None else [name for name, bit in REASONS.items() if bits & bit]

    def _is_mig(self) -> bool | None:
        # The mode now, and after the next reset.
        return self._ask("MigMode", lambda modes: modes[0] == ENABLED)

    def _number(self, name: str, *constants: str, per: int = 1) -> Any:
        return self._ask(name, lambda found: found / per if per > 1 else +found, *constants)

    def _ask(self, name: str, read: Callable[[Any], Any], *constants: str) -> Any:
        """What `read` makes of the answer to nvmlDeviceGet`name` with these of NVML's constants."""
        if self._whole is None:
            return None

        def question() -> Any:
            told = getattr(pynvml, f"nvmlDeviceGet{name}")
            return read(told(self._whole, *(getattr(pynvml, c) for c in constants)))

        return answer(question)


def answer(question: Callable[[], Answer]) -> Answer | None:
    """What NVML answers; None where it does not, or nothing that can be read as asked for."""
    try:
        return question()
    except Exception:  # its own errors, text that is none, functions that it does not have
        return None


def bytes_by_pid(question: Callable[[Any], Any], card: Any) -> dict[int, int | None]:
    """What each process holds; None where it does not say."""
    return {int(process.pid): process.usedGpuMemory for process in question(card)}


def cuda_version(number: int) -> str:
    """As people write the one that the driver tells."""
    return f"{number // 1000}.{number % 1000 // 10}"


def process_name(pid: int) -> str | None:
    """None for a process that cannot be seen from here."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return None
