"""What machine this is, so that a figure can name it."""

from __future__ import annotations

import platform
import re
import resource
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cpuinfo
import psutil
import torch

ROOT = Path(__file__).parent.parent
# Load of other processes from which a measurement is marked.
BUSY_CORES = 0.2
PACKAGES = ("torch", "numpy", "pandas", "matplotlib", "safetensors", "codevar")


def environment() -> dict[str, Any]:
    """CPU, GPUs, memory, versions and commit, as JSON-ready values."""
    cpu = cpuinfo.get_cpu_info()
    flags = set(cpu.get("flags", []))
    found: dict[str, Any] = {
        "cpu": cpu.get("brand_raw", platform.processor() or "unknown"),
        "cpu_cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "cpu_threads": psutil.cpu_count(),
        "cpu_features": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus(),
        "cuda": torch.version.cuda,
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        **git(),
    }
    found["machine"] = name(found)
    return found


def name(found: dict[str, Any]) -> str:
    """A short name, good for a folder: the GPU's, or the CPU's with its cores."""
    kind = found["gpus"][0]["name"] if found["gpus"] else found["cpu"]
    cores = "" if found["gpus"] else f" {found['cpu_threads']} threads"
    text = re.sub(r"\((r|tm)\)|nvidia|processor|cpu|@.*", "", kind.lower()) + cores
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def gpus() -> list[dict[str, Any]]:
    """Each CUDA device; driver and power limit where NVML is to be had."""
    found = []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(
            {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / 2**30, 1),
                "capability": f"{properties.major}.{properties.minor}",
                **_nvml(str(properties.uuid)),
            }
        )
    return found


def _nvml(uuid: str) -> dict[str, Any]:
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        limit = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
        return {"driver": pynvml.nvmlSystemGetDriverVersion(), "power_limit_w": limit}
    except pynvml.NVMLError as e:
        return {"nvml": str(e)}


class Others:
    """Cores that everything but our own children kept busy, on average since it was made.

    A second process is enough to make a decode on a CPU many times slower, so a record says
    what else the machine did.
    """

    def __init__(self) -> None:
        self._began, self._busy, self._ours = time.monotonic(), *self._seconds()

    def cores(self) -> float:
        busy, ours = self._seconds()
        passed = time.monotonic() - self._began
        return max(0.0, (busy - self._busy) - (ours - self._ours)) / max(passed, 1e-9)

    @staticmethod
    def _seconds() -> tuple[float, float]:
        """CPU seconds of the machine and of our ended children, so far."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return sum(times[:8]) - idle, children.ru_utime + children.ru_stime


def oom_kills() -> int:
    """Processes that Linux has killed for want of memory so far; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def git() -> dict[str, Any]:
    """Commit of the project and whether the tree was changed since; None outside a checkout."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = ask("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": ask("rev-parse", "HEAD"),
        "dirty": bool(status) if status is not None else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
