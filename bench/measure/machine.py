"""What machine this is, so that a figure can name it."""

import datetime
import hashlib
import os
import platform
import re
import resource
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cpuinfo
import psutil
import torch

from bench.measure import cgroup
from bench.measure.card import Card
from bench.measure.cpu import cpu_facts, cpus_allowed, governor
from bench.study import storage
from bench.study.folders import CODE, IN_CHECKOUT, PROGRAM
from bench.study.units import GIB, MIB

# Load of other processes from which a measurement is marked.
BUSY_CORES = 0.2
# From which a GPU is called busy, and its memory taken, before a run.
BUSY_GPU_PERCENT = 5
TAKEN_MIB = 1024
PACKAGES = ("torch", "numpy", "pandas", "matplotlib", "safetensors", "diffusers", "timm", "codevar")
COMMIT = "commit.json"  # in a copy without git: what `git` said where it was packed
# Environment variables that change speed.
VARIABLES = re.compile(
    r"(OMP|KMP|GOMP|MKL|OPENBLAS|DNNL|ONEDNN|CUBLAS|CUDNN|MALLOC)_\w+|LD_PRELOAD|"
    r"CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|LAUNCH_BLOCKING|MODULE_LOADING|DEVICE_MAX_CONNECTIONS)|"
    r"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE|NVIDIA_TF32_OVERRIDE|PYTORCH_(CUDA_)?ALLOC_CONF|"
    r"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|TORCH_CUBLAS_WORKSPACE_CACHE|THP_MEM_ALLOC_ENABLE"
)
# Each case runs with these, unless the environment says otherwise.
# OpenMP's threads spin for each other far longer than an operation takes; with one other process
# on the machine, that makes a decode on a CPU four times slower.  This bound halves that and
# costs nothing on a quiet machine.
# cuBLAS's workspace stays, as it did when the papers were measured: torch 2.15 would take it anew
# for each product, and memory would be counted otherwise.
CHILD_ENVIRON = {"GOMP_SPINCOUNT": "20000", "TORCH_CUBLAS_WORKSPACE_CACHE": "1"}


def environment() -> dict[str, Any]:
    """CPU, GPUs, memory, versions and commit, as JSON-ready values; None: not told, or none.

    variables: environment variables that change speed, as cases have them.  machine: a short
    name; CODEVAR_MACHINE gives another one, where two machines that differ have the same.
    """
    cpu = cpuinfo.get_cpu_info()
    flags = set(cpu.get("flags", []))
    found: dict[str, Any] = {
        "cpu": cpu.get("brand_raw", platform.processor() or "unknown"),
        "cpu_cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "cpu_threads": psutil.cpu_count(),
        "cpu_features": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}),
        **cpu_facts(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(memory_bytes() / GIB, 1),
        "gpus": gpus(),
        "cuda": torch.version.cuda,
        "cudnn": cudnn(),
        "variables": speed_variables(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        **git(),
    }
    found["hardware"] = hardware(found, flags)
    found["machine"] = slug(os.environ.get("CODEVAR_MACHINE", "")) or machine_name(found)
    return found


def hardware(found: dict[str, Any], flags: set[str]) -> dict[str, Any]:
    """What two runs must have in common to be compared; all else is software, and may differ.

    flags: the CPU's, kept as a hash.  host: a hash of the system's own id, which it does not tell;
    None where there is no id, as in many containers.
    """
    try:
        host = Path("/etc/machine-id").read_text("utf-8").strip()
    except OSError:
        host = ""
    return {
        "cpu": found["cpu"],
        "cpu_flags": short_hash(" ".join(sorted(flags))),
        "cpu_cores": found["cpu_cores"],
        "cpu_threads": found["cpu_threads"],
        "memory_gib": round(found["memory_gib"]),
        "gpus": [f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in found["gpus"]],
        "host": short_hash(f"codevar's salt {host}") if host else None,
    }


def short_hash(text: str) -> str:
    """Twelve hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def machine_name(found: dict[str, Any]) -> str:
    """A short name, good for a folder: the GPU's, or the CPU's with its cores; and four digits by
    which machines differ that would have one name.  The host's id is not in it: names travel."""
    parts = {key: value for key, value in found["hardware"].items() if key != "host"}
    kind = found["gpus"][0]["name"] if found["gpus"] else found["cpu"]
    cores = "" if found["gpus"] else f" {found['cpu_threads']} threads"
    short = re.sub(r"\((r|tm)\)|nvidia|processor|cpu|@.*", "", kind.lower())
    return slug(f"{short}{cores} {short_hash(str(sorted(parts.items())))[:4]}")


def slug(text: str) -> str:
    """Lower case, with a dash for whatever a folder's name should not hold."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def memory_bytes() -> int:
    """Memory of the machine, or of the container if that may take less."""
    total = psutil.virtual_memory().total
    return min(total, cgroup.memory_limit() or total)


def available_bytes() -> int:
    """What of it can be taken now."""
    free, left = psutil.virtual_memory().available, cgroup.memory_available()
    return free if left is None else max(0, min(free, left))


def gpus() -> list[dict[str, Any]]:
    """Each CUDA device, and what NVML says of it."""
    found = []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(
            {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / GIB, 1),
                "capability": f"{properties.major}.{properties.minor}",
                **Card(torch.device("cuda", i)).facts(),
            }
        )
    return found


def cudnn() -> str | None:
    """cuDNN's version."""
    number = torch.backends.cudnn.version()  # 92600 is 9.26.0
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}" if number else None


def speed_variables() -> dict[str, str]:
    """Without the folders of paths, which say who somebody is and nothing of speed."""
    every = {**CHILD_ENVIRON, **os.environ}
    found = {key: value for key, value in every.items() if VARIABLES.fullmatch(key)}
    return {key: re.sub(r"[^\s:=]*/", "", value) for key, value in sorted(found.items())}


def find_disturbances(*devices: torch.device) -> list[str]:
    """What would spoil a measurement on these devices, each in one line with what to do.

    Watches the machine for half a second.
    """
    others = OtherLoad()
    time.sleep(0.5)
    found, cores, threads = [], others.cores(), torch.get_num_threads()
    if cores > BUSY_CORES:
        found.append(
            f"other processes keep {cores:.1f} of {psutil.cpu_count()} CPUs busy: "
            "end them, or measure later"
        )
    limits = {"container": cgroup.cpu_quota(), "process, by its affinity,": cpus_allowed()}
    for who, cpus in limits.items():
        if cpus is not None and cpus < threads:
            found.append(
                f"this {who} may use {cpus:g} CPUs but torch has {threads} threads: "
                f"set OMP_NUM_THREADS={max(1, int(cpus))}"
            )
    if on_battery():
        found.append("the machine runs on battery, which slows it down: plug it in")
    for device in devices:
        if device.type == "cuda":
            found += find_gpu_disturbances(device)
        elif "powersave" in (governor() or ""):
            found.append(
                "the CPU's governor is powersave: sudo cpupower frequency-set -g performance"
            )
    return found


def find_gpu_disturbances(device: torch.device) -> list[str]:
    """The same of a GPU."""
    card, found = Card(device), []
    facts, state, others = card.facts(), card.state() or {}, card.others() or []
    for other in others:
        mib = "memory" if other["mib"] is None else f"{other['mib']} MiB"
        who = f"{other['name'] or 'a process out of sight'} (pid {other['pid']})"
        found.append(f"{who} holds {mib} of {device}: end it, or choose another GPU")
    used = ((card.used_bytes() or 0) - (card.own_bytes() or 0)) // MIB
    if not others and used > TAKEN_MIB:
        found.append(f"{used} MiB of {device} are taken already: find out by whom with nvidia-smi")
    utilization = state.get("gpu_utilization_percent") or 0
    if utilization > BUSY_GPU_PERCENT:
        found.append(f"{device} is {utilization} % busy: wait until it is idle")
    if reasons := card.throttled():
        found.append(
            f"{device} is slowed down ({', '.join(reasons)}): "
            "let it cool, look at its fans and its power supply"
        )
    limit, default = facts.get("power_limit_w"), facts.get("power_limit_default_w")
    if limit is not None and default is not None and limit < default:
        found.append(
            f"{device} is limited to {limit:g} of {default:g} W: sudo nvidia-smi -pl {default:g}"
        )
    return found


def on_battery() -> bool:
    """Whether the machine runs on battery now."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return battery is not None and battery.power_plugged is False


class OtherLoad:
    """Cores that everything but our own children kept busy, on average since it was made.

    A second process is enough to make a decode on a CPU many times slower, so a record says
    what else the machine did.
    """

    def __init__(self) -> None:
        self._began, self._busy, self._ours = time.monotonic(), *self._seconds()

    def cores(self) -> float:
        """The mean number of cores since this object was made."""
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
        lines = Path("/proc/vmstat").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def git() -> dict[str, Any]:
    """Commit of the project and whether the tree was changed since, but for what runs and
    documents leave in it; None outside a checkout, but for a copy that brings its COMMIT along."""
    if known := storage.read_json(CODE / COMMIT):
        return known

    def ask(*words: str) -> str | None:
        if not IN_CHECKOUT:
            return None  # the package may lie in a checkout of something else
        command = ["git", *words]
        try:
            done = subprocess.run(command, cwd=CODE, capture_output=True, text=True, timeout=10)
            refusal = (done.stderr.strip() or "it failed") if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as e:
            refusal = str(e)
        if not refusal:
            return done.stdout.strip()
        if (CODE / ".git").exists():
            warn_of_git(refusal.partition("\n")[0])
        return None

    code = [".", ":!results", ":!docs", ":!plots", ":!*.md"]
    status = ask("status", "--porcelain", "--untracked-files=no", "--", *code)
    return {
        "commit": ask("rev-parse", "HEAD"),
        "dirty": bool(status) if status is not None else None,
    }


@cache
def warn_of_git(refusal: str) -> None:
    """Says once that records will name no commit."""
    print(f"{PROGRAM}: warning: records will name no commit: git: {refusal}", file=sys.stderr)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
