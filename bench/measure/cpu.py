"""What decides a timing on a CPU besides its model: clocks, sockets, limits, load.

From Linux's own files; None where it does not tell, as in most virtual machines, and elsewhere.
"""

import os
from typing import Any

import psutil

from bench.measure import cgroup
from bench.measure.cgroup import read_text

CPUS = "sys/devices/system/cpu"


def cpu_facts() -> dict[str, Any]:
    """cpu_mhz: now.  cpu_allowed: CPUs this process may run on (affinity).  cpu_quota: CPUs' worth
    of time that the container may use, None for no limit.  load_average: over 1, 5, 15 minutes."""
    clock = psutil.cpu_freq()
    return {
        "cpu_governor": governor(),
        "cpu_mhz": round(clock.current) if clock and clock.current else None,
        "cpu_max_mhz": round(clock.max) if clock and clock.max else None,
        "cpu_turbo": turbo(),
        "cpu_sockets": len(distinct_values(f"{CPUS}/cpu[0-9]*/topology/physical_package_id"))
        or None,
        "numa_nodes": len(list(cgroup.ROOT.glob("sys/devices/system/node/node[0-9]*"))) or None,
        "cpu_allowed": cpus_allowed(),
        "cpu_quota": cgroup.cpu_quota(),
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
    }


def cpus_allowed() -> int | None:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def governor() -> str | None:
    """Who sets the clock: "performance", "powersave", ...; several if CPUs differ."""
    return ", ".join(distinct_values(f"{CPUS}/cpu[0-9]*/cpufreq/scaling_governor")) or None


def turbo() -> bool | None:
    """Whether the clock may rise above its nominal figure."""
    if (no_turbo := read_text(cgroup.ROOT / CPUS / "intel_pstate/no_turbo")) is not None:
        return no_turbo == "0"
    boost = read_text(cgroup.ROOT / CPUS / "cpufreq/boost")
    return None if boost is None else boost == "1"


def distinct_values(pattern: str) -> list[str]:
    """What the files of that pattern say, each answer once."""
    return sorted(
        {text for path in cgroup.ROOT.glob(pattern) if (text := read_text(path)) is not None}
    )
