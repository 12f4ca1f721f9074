"""What the control groups of this process allow it: a container's, or a batch job's.

From Linux's own files, of version 2 or 1; None where there is no limit, and elsewhere.
"""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
NO_LIMIT = 2**60  # version 1 says so with about 2**63


def cpu_quota() -> float | None:
    """CPUs' worth of time, the least that any of the groups allows."""
    shares = []
    for group in control_groups("cpu"):
        limit = read_text(group / "cpu.max")
        if limit is None:
            time = read_text(group / "cpu.cfs_quota_us")
            period = read_text(group / "cpu.cfs_period_us")
            limit = f"{time} {period}" if time and period else "max"
        time, _, period = limit.partition(" ")
        if time not in ("max", "-1"):
            shares.append(int(time) / int(period))
    return min(shares, default=None)


def memory_limit() -> int | None:
    """Bytes, the least that any of the groups allows."""
    return min((limit for _, limit in memory_limits()), default=None)


def memory_available() -> int | None:
    """Bytes that can still be taken, the least that any of the groups leaves.  Pages of files that
    the kernel would drop first count as free."""
    free = []
    for group, limit in memory_limits():
        used = read_text(group / "memory.current") or read_text(group / "memory.usage_in_bytes")
        stat = dict(line.split() for line in (read_text(group / "memory.stat") or "").splitlines())
        droppable = stat.get("total_inactive_file") or stat.get("inactive_file") or "0"
        free.append(limit - int(used or 0) + int(droppable))
    return min(free, default=None)


def memory_limits() -> Iterator[tuple[Path, int]]:
    """The groups that limit memory, with their limits in bytes."""
    for group in control_groups("memory"):
        limit = read_text(group / "memory.max") or read_text(group / "memory.limit_in_bytes")
        if limit not in (None, "max") and int(limit) < NO_LIMIT:
            yield group, int(limit)


def control_groups(controller: str) -> Iterator[Path]:
    """Folders of the groups that this process is in, each with all above it: any may have the
    tightest limit.  A container may see its group under another path than the host's, but its
    own is then at the top."""
    for line in (read_text(ROOT / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = ROOT / "sys/fs/cgroup" / (controller if controllers else "")
        group = Path(path.lstrip("/"))
        yield from (top / level for level in (group, *group.parents))


def read_text(path: Path) -> str | None:
    """What a file says; None where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
