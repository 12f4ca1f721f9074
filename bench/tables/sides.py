"""What the regression gate compares: a run, or pytest-benchmark's files, as cases with samples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure.validity import known_ceilings, why_any_invalid
from bench.predict.ceilings import Ceilings
from bench.study.errors import UsageError
from bench.study.records import DEGRADED, Record
from bench.tables import frames, stats
from bench.tables.links import Quality

Rounds = dict[int, stats.Array]  # by the round's number
#: Figures in MiB, and what a record calls them.
MEMORY = {"total memory": "total_mib", "KV cache": "kv_cache_mib"}


class NotComparableError(UsageError):
    """Two results that say nothing of each other; the message is one line that says why."""


@dataclass
class Measured:
    """A case of one side.

    samples: seconds by figure, and within it by round.  memory: MiB, the largest of all rounds.
    baseline: its case's key.  invalid: why its times say nothing of the code, or "".
    tokens: checksums, of which there is one unless rounds differ.  greedy: tokens leave nothing
    to chance.
    """

    label: str
    status: str = "ok"
    reason: str = ""
    samples: dict[str, Rounds] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    baseline: str | None = None
    invalid: str = ""
    tokens: set[str] = field(default_factory=set)
    greedy: bool = False
    quality: Quality | None = None


@dataclass
class Side:
    """What is compared.

    same: what must not differ.  told: what a reader must know if it does.  planned: keys of the
    cases that were to be measured.
    """

    where: str
    same: dict[str, str]
    told: dict[str, str]
    cases: dict[str, Measured]
    complaints: list[str] = field(default_factory=list)
    planned: set[str] = field(default_factory=set)


def clean(text: object) -> str:
    """On one line, and nothing that XML or a terminal would choke on."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def of_run(run: frames.Run) -> Side:
    """The side that a run is.  Raises NotComparableError where there is no record."""
    where = str(run.folder or run.sweep.name)
    if not run.records:
        why = f"none can be read, {run.complaints[0]}" if run.complaints else "it is empty"
        raise NotComparableError(f"{where}: no records ({why})")
    by_key = run.by_key
    overs = {case.key: run.sweep.baseline_case(case) for case in run.sweep.cases}
    top = known_ceilings(run.folder, run.env) if run.folder else None
    scaled = {case.key for case in run.sweep.cases if case.has_scales}
    cases = {}
    for key, lines in by_key.items():
        over = overs.get(key)
        base = over.key if over and over.key in by_key else None
        cases[key] = of_records(lines, base, top, key in scaled)
        cases[key].quality = run.quality.by_key.get(key)
    labels = Counter(case.label for case in cases.values())
    for key, case in cases.items():
        if labels[case.label] > 1:
            case.label += f" ({key})"
    same = {"experiment": run.sweep.name}
    for name in ("machine", "precision", "device"):
        same[name] = values_of(run.records, name)
    same |= hardware_told(run.env)
    names = ("torch", "torch_threads", *DEGRADED, "commit", "dirty")
    told = {name: values_of(run.records, name) for name in names}
    for name in ("python", "os", "cuda", "cudnn"):
        told[name] = str(run.env.get(name) or "")
    for name in ("driver", "power_limit_w"):
        told[name] = "/".join(str(gpu.get(name)) for gpu in run.env.get("gpus", []))
    return Side(where, same, told, cases, run.complaints, set(overs))


def hardware_told(env: dict[str, Any]) -> dict[str, str]:
    """What a machine's description says of its hardware, part by part: that must be the same."""
    parts = (env.get("hardware") or {}).items()
    return {f"hardware, {name}": str(value) for name, value in parts if value is not None}


def values_of(lines: Sequence[Record], name: str) -> str:
    """What the records have under that name, each value once."""
    return "/".join(sorted({str(getattr(record, name)) for record in lines}))


def of_records(
    lines: Sequence[Record], over: str | None, top: Ceilings | None, in_scales: bool
) -> Measured:
    """The records of a case, one for each round, as a case that failed if any round did.

    over: key of the case that its speed-up is over, which may be itself.  top: the machine's.
    in_scales: whether its scales are judged one by one, and not its hundreds of steps together.
    """
    failed = [record for record in lines if not record.ok]
    record = failed[0] if failed else lines[0]
    how = f"batch {record.batch_size}, {record.stack} {record.precision}"
    found = Measured(clean(f"{record.method}, {how}"), clean(record.status))
    found.reason = clean(record.reason or "")
    if failed:
        return found
    for line in lines:
        assert line.samples is not None
        assert line.memory is not None
        by_scale = np.array(line.samples.scale_latency_s, float).T
        figures = {
            "latency": line.samples.latency_s,
            **{f"scale {k}": scale for k, scale in enumerate(by_scale, 1) if in_scales},
            "VQVAE latency": line.samples.vqvae_latency_s,
        }
        for name, values in ((name, values) for name, values in figures.items() if len(values)):
            found.samples.setdefault(name, {})[line.round] = as_samples(values)
        for name, key in MEMORY.items():
            used = getattr(line.memory, key)
            if used:  # 0 where somebody else's code does not tell
                found.memory[name] = max(used, found.memory.get(name, used))
    found.invalid = why_any_invalid(lines, top)
    found.tokens = {line.tokens_sha256 for line in lines if line.tokens_sha256}
    found.greedy = {*(record.sampling or {}).get("top_k", ())} == {1}
    found.baseline = over if over != record.key else None
    return found


def as_samples(values: Any) -> stats.Array:
    """One figure's samples.  Raises ValueError for what is no list of numbers."""
    samples = np.array(values, float)
    if samples.ndim != 1:
        raise ValueError("samples are not a list of numbers")
    return samples


def is_benchmarks(path: Path) -> bool:
    """Whether it names what pytest-benchmark wrote: a JSON file, or a folder of them, no run."""
    if path.is_dir():
        return not (path / "run.json").exists() and any(path.glob("*.json"))
    return path.suffix == ".json"


def of_benchmarks(path: Path) -> Side:
    """A JSON file of pytest-benchmark's, or a folder of such files: each is a round.

    Latency only.  A benchmark is a case of one figure, unless its `extra_info` has "case" and
    "figure".  Raises UsageError for any other file.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    rounds = [of_benchmark(file, round_) for round_, file in enumerate(files, 1)]
    found = rounds[0]
    found.where = str(path)
    for other in rounds[1:]:
        if other.same != found.same:
            raise NotComparableError(f"{path}: its files are of different machines")
        for name, value in other.told.items():
            if value not in found.told[name].split("/"):
                found.told[name] += f"/{value}"
        for key, case in other.cases.items():
            mine = found.cases.setdefault(key, Measured(case.label))
            for figure, samples in case.samples.items():
                mine.samples.setdefault(figure, {}).update(samples)
    return found


def of_benchmark(file: Path, round_: int) -> Side:
    """One file of pytest-benchmark's, as that round.  Raises UsageError."""
    try:
        info = json.loads(file.read_text("utf-8"))
        cases: dict[str, Measured] = {}
        for benchmark in info["benchmarks"]:
            more, data = benchmark.get("extra_info", {}), benchmark["stats"].get("data")
            name, figure = str(more.get("case", benchmark["fullname"])), more.get("figure")
            if not data:
                raise UsageError(f"{file}: no raw samples; add --benchmark-save-data")
            case = cases.setdefault(name, Measured(clean(name)))
            case.samples[clean(figure or "latency")] = {round_: as_samples(data)}
        machine = info["machine_info"]
        cpu = machine["cpu"]
        named = f"{cpu.get('brand_raw', 'unknown CPU')}, {cpu.get('count', '?')} threads"
        told = {
            "python": str(machine.get("python_version")),
            "torch": str(machine.get("torch")),
            "commit": str((info.get("commit_info") or {}).get("id")),
        }
        same = {
            "experiment": "pytest-benchmark",
            "machine": ", ".join([named, *map(str, machine.get("gpus", []))])
            + f" ({machine.get('device', 'unknown device')})",
            **hardware_told(machine),
        }
    except OSError as e:
        raise UsageError(f"{file}: cannot be read ({e.strerror})") from None
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UsageError(f"{file}: not a JSON file of pytest-benchmark ({e!r})") from None
    if not cases:
        raise NotComparableError(f"{file}: no benchmarks")
    return Side(str(file), same, told, cases)
