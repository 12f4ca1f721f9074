"""What decides a timing on a CPU besides its model: clocks, sockets, limits, load.

From Linux's own files; None where it does not tell, as in most virtual machines, and elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil

ROOT = Path("/")
CPUS = "sys/devices/system/cpu"


def facts() -> dict[str, Any]:
    """cpu_mhz: now.  cpu_allowed: CPUs this process may run on (affinity).  cpu_quota: CPUs' worth
    of time that the container may use, None for no limit.  load_average: over 1, 5, 15 minutes."""
    clock = psutil.cpu_freq()
    return {
        "cpu_governor": governor(),
        "cpu_mhz": round(clock.current) if clock and clock.current else None,
        "cpu_max_mhz": round(clock.max) if clock and clock.max else None,
        "cpu_turbo": turbo(),
        "cpu_sockets": len(values(f"{CPUS}/cpu[0-9]*/topology/physical_package_id")) or None,
        "numa_nodes": len(list(ROOT.glob("sys/devices/system/node/node[0-9]*"))) or None,
        "cpu_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cpu_quota": quota(),
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
    }


def governor() -> str | None:
    """Who sets the clock: "performance", "powersave", ...; several if CPUs differ."""
    return ", ".join(values(f"{CPUS}/cpu[0-9]*/cpufreq/scaling_governor")) or None


def turbo() -> bool | None:
    """Whether the clock may rise above its nominal figure."""
    if (no_turbo := read(ROOT / CPUS / "intel_pstate/no_turbo")) is not None:
        return no_turbo == "0"
    boost = read(ROOT / CPUS / "cpufreq/boost")
    return None if boost is None else boost == "1"


def quota() -> float | None:
    """CPUs' worth of time that the control groups of this process allow, the least of them."""
    shares = []
    for line in (read(ROOT / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if names == [""]:
            top = ROOT / "sys/fs/cgroup"
        elif "cpu" in names:
            top = ROOT / "sys/fs/cgroup/cpu"
        else:
            continue
        # A container may see its group under another path than the host's: the top counts too.
        group = Path(path.lstrip("/"))
        for level in {group, *group.parents}:
            shares += share(top / level)
    return min(shares, default=None)


def share(group: Path) -> list[float]:
    """Time over period of one group, of version 2 or 1; nothing where there is no limit."""
    limit = read(group / "cpu.max")
    if limit is None:
        time, period = read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us")
        limit = f"{time} {period}" if time and period else "max"
    time, _, period = limit.partition(" ")
    return [] if time in ("max", "-1") else [int(time) / int(period)]


def values(pattern: str) -> list[str]:
    """What the files of that pattern say, each answer once."""
    return sorted({text for path in ROOT.glob(pattern) if (text := read(path)) is not None})


def read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
