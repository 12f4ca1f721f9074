"""The regression gate: two results, each case and figure judged from the raw samples.

    base, new = of_run(tables.load(a)), of_run(tables.load(b))       # or of_benchmark(file)
    comparison = compare(base, new)
    sys.exit(comparison.exit_code)

Latency (in all, by scale, of the VQVAE) and speed-up go through `bench.stats`, with one
correction over the whole table; memory has no noise and is compared as it is.  Both sides are
one process a case, and what processes of the same code differ by is not in their samples: where
that is more than about 0.5 %, the error rates of docs/gate.md do not hold.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench import records, stats, tables
from bench.cases import UsageError

Verdict = Literal["faster", "slower", "same", "undecided"]
# Relative change that matters, by figure in MiB.  The cache follows from shapes: any is real.
MEMORY = {"total memory": ("total_mib", 0.01), "KV cache": ("kv_cache_mib", 1e-9)}
WORDS = {
    ("KV cache", "slower"): "more",
    ("KV cache", "faster"): "less",
    ("total memory", "slower"): "more",
    ("total memory", "faster"): "less",
    ("speed-up", "slower"): "lower",
    ("speed-up", "faster"): "higher",
}


class NotComparable(UsageError):
    """Two results that say nothing of each other; the message is one line that says why."""


@dataclass
class Measured:
    """A case of one side.  samples: seconds by figure; memory: MiB; baseline: its case's key."""

    label: str
    status: str = "ok"
    reason: str = ""
    samples: dict[str, stats.Array] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    baseline: str | None = None


@dataclass
class Side:
    """What is compared.  same: what must not differ; told: what a reader must know if it does."""

    where: str
    same: dict[str, str]
    told: dict[str, str]
    cases: dict[str, Measured]
    complaints: list[str] = field(default_factory=list)


@dataclass
class Finding:
    """A figure of a case.  base, new: medians, in `unit`.  change, low, high: relative; the
    interval holds for the whole table at once.  p: corrected, that it changed."""

    key: str
    case: str
    figure: str
    verdict: Verdict
    unit: str = ""
    base: float | None = None
    new: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n_base: int | None = None
    n_new: int | None = None
    regression: bool = False
    reason: str = ""

    def __str__(self) -> str:
        head = f"{self.case}: {self.figure}"
        if self.change is None:
            return f"{head} {self.word}" + f" ({self.reason})" * bool(self.reason)
        span = f" [{self.low:+.1%} to {self.high:+.1%}]" if self.low and self.high else ""
        values = f"{self.base:.4g} to {self.new:.4g} {self.unit}"
        return f"{head} {values}, {self.change:+.1%}{span}, {self.word}"

    @property
    def word(self) -> str:
        return WORDS.get((self.figure, self.verdict), self.verdict)


@dataclass
class Comparison:
    base: Side
    new: Side
    threshold: float
    alpha: float
    findings: list[Finding]
    notes: list[str]

    @property
    def regressions(self) -> list[Finding]:
        return [f for f in self.findings if f.regression]

    @property
    def exit_code(self) -> int:
        """1 if anything regressed.  (2 is NotComparable's, as any UsageError's.)"""
        return int(bool(self.regressions))


# Reading


def share(text: str) -> float:
    """ "3%" or "0.03" as 0.03.  Raises UsageError for what is no number."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"{text}: not a share; write 3% or 0.03") from None


def clean(text: object) -> str:
    """On one line, and nothing that XML or a terminal would choke on."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def of_run(run: tables.Run) -> Side:
    """Raises NotComparable where there is no record, UsageError where one is damaged."""
    where = str(run.folder or run.sweep.name)
    if not run.records:
        why = f"none can be read, {run.complaints[0]}" if run.complaints else "it is empty"
        raise NotComparable(f"{where}: no records ({why})")
    versions = {record.get("schema") for record in run.records}
    if versions != {records.SCHEMA}:
        raise NotComparable(f"{where}: schema {versions}, this reads {records.SCHEMA}")
    cases = {}
    for key, record in {record["key"]: record for record in run.records}.items():
        try:
            cases[key] = of_record(record, run.records)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
            raise UsageError(f"{where}: record {key} is damaged ({e!r})") from None
    labels = Counter(case.label for case in cases.values())
    for key, case in cases.items():
        if labels[case.label] > 1:
            case.label += f" ({key})"
    same = {"experiment": run.sweep.name}
    for name in ("machine", "precision", "device"):
        same[name] = "/".join(sorted({str(record.get(name)) for record in run.records}))
    told = {
        name: "/".join(sorted({str(record.get(name)) for record in run.records}))
        for name in ("torch", "torch_threads", "commit", "dirty")
    }
    for name in ("driver", "power_limit_w"):
        told[name] = "/".join(str(gpu.get(name)) for gpu in run.env.get("gpus", []))
    return Side(where, same, told, cases, run.complaints)


def of_record(record: records.Record, others: list[records.Record]) -> Measured:
    """A record as a case; `others` are searched for its baseline, the first that fits."""
    how = f"batch {record['batch_size']}, {record['stack']} {record['precision']}"
    found = Measured(clean(f"{record['method']}, {how}"), clean(record["status"]))
    found.reason = clean(record.get("reason") or "")
    if found.status != "ok":
        return found
    taken = record["samples"]
    found.samples["latency"] = as_samples(taken["latency_s"])
    for k, scale in enumerate(np.array(taken["scale_latency_s"], float).T, 1):
        found.samples[f"scale {k}"] = as_samples(scale)
    found.samples["VQVAE latency"] = as_samples(taken["vqvae_latency_s"])
    found.memory = {name: float(record["memory"][key]) for name, (key, _) in MEMORY.items()}
    wanted = (record.get("baseline") or {"method": None}).items()
    fits = [other["key"] for other in others if wanted <= other["case"].items()]
    found.baseline = fits[0] if fits and fits[0] != record["key"] else None
    return found


def as_samples(values: Any) -> stats.Array:
    samples = np.array(values, float)
    if samples.ndim != 1:
        raise ValueError("samples are not a list of numbers")
    return samples[:: max(1, math.ceil(samples.size / stats.LARGEST))]


def of_benchmark(file: Path) -> Side:
    """A JSON file of pytest-benchmark's, latency only.  Raises UsageError for any other file."""
    try:
        told = json.loads(file.read_text())
        cpu = told["machine_info"]["cpu"]
        cases = {}
        for benchmark in told["benchmarks"]:
            name, data = str(benchmark["fullname"]), benchmark["stats"].get("data")
            if not data:
                raise UsageError(f"{file}: no raw samples; add --benchmark-save-data")
            cases[name] = Measured(clean(name), samples={"latency": as_samples(data)})
        machine = f"{cpu.get('brand_raw', 'unknown CPU')}, {cpu.get('count', '?')} threads"
        commit = str((told.get("commit_info") or {}).get("id"))
        python = str(told["machine_info"].get("python_version"))
    except OSError as e:
        raise UsageError(f"{file}: cannot be read ({e.strerror})") from None
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UsageError(f"{file}: not a JSON file of pytest-benchmark ({e!r})") from None
    if not cases:
        raise NotComparable(f"{file}: no benchmarks")
    same = {"experiment": "pytest-benchmark", "machine": machine}
    return Side(str(file), same, {"python": python, "commit": commit}, cases)


# Judging


def compare(
    base: tables.Run | Side, new: tables.Run | Side, threshold: float = 0.03, alpha: float = 0.01
) -> Comparison:
    """Judges every figure of every case that both have.

    threshold: relative change of the median that matters.  alpha: the chance of one false
    change in the whole table, after Holm's correction over all its figures.
    Raises NotComparable where machine, experiment, precision or schema differ or nothing is
    measured in both, UsageError for a damaged record and an impossible threshold or alpha.
    """
    if not 0 < threshold < 1 or not 0 < alpha < 0.5:
        raise UsageError(f"threshold must be in 0..1 and alpha in 0..0.5: {threshold}, {alpha}")
    base = base if isinstance(base, Side) else of_run(base)
    new = new if isinstance(new, Side) else of_run(new)
    for name, value in base.same.items():
        other = new.same.get(name)
        if value != other and (name in ("experiment", "machine") or not common(base, new)):
            raise NotComparable(f"other {name}: {value} in BASE, {other} in NEW")
    keys = common(base, new)
    if not keys:
        raise NotComparable(
            f"no case in common: {len(base.cases)} in BASE, {len(new.cases)} in NEW"
        )
    if all(side.cases[key].status != "ok" for side in (base, new) for key in keys):
        found = "/".join(sorted({new.cases[key].status for key in keys}))
        raise NotComparable(f"nothing was measured in either: all {len(keys)} cases are {found}")
    findings: list[Finding] = []
    judged: list[tuple[Finding, stats.Array, stats.Array, float]] = []
    for key in keys:
        before, after = base.cases[key], new.cases[key]
        if (before.status, after.status) != ("ok", "ok"):
            findings.append(of_status(key, before, after))
            continue
        for name in [*before.samples, *(n for n in after.samples if n not in before.samples)]:
            findings.append(Finding(key, after.label, name, "undecided", "s"))
            sides = [before.samples.get(name), after.samples.get(name)]
            queue(findings, judged, [None if s is None else usable(s) for s in sides], threshold)
        if before.baseline and before.baseline == after.baseline:
            findings.append(Finding(key, after.label, "speed-up", "undecided", "x"))
            pairs = [inverse_speedup(side, key) for side in (base, new)]
            # a ratio of two such figures has the square root of two times their noise
            queue(findings, judged, pairs, math.expm1(math.sqrt(2) * math.log1p(threshold)))
        findings += [of_memory(key, before, after, name) for name in MEMORY if before.memory]
    judge(judged, alpha)
    by_figure = {(f.key, f.figure): f for f in findings}
    for f in findings:
        speedup_of_faster_base = (
            f.figure == "speed-up"
            and by_figure[str(base.cases[f.key].baseline), "latency"].verdict == "faster"
        )
        f.regression = f.verdict == "slower" and not speedup_of_faster_base
    for alone, others, name in ((base, new, "BASE"), (new, base, "NEW")):
        findings += [
            Finding(key, case.label, "case", "undecided", reason=f"only in {name}")
            for key, case in alone.cases.items()
            if key not in others.cases
        ]
    return Comparison(base, new, threshold, alpha, findings, notes(base, new, judged, alpha))


def common(base: Side, new: Side) -> list[str]:
    return [key for key in base.cases if key in new.cases]


def of_status(key: str, before: Measured, after: Measured) -> Finding:
    """A case that did not come through on both sides."""
    verdict: Verdict = "undecided"
    if before.status == after.status:
        verdict = "same"
    elif "ok" in (before.status, after.status):
        verdict = "slower" if before.status == "ok" else "faster"
    reason = f"{before.status} to {after.status}"
    why = f": {after.reason or before.reason}" if after.reason or before.reason else ""
    return Finding(key, after.label, "status", verdict, reason=reason + why)


def of_memory(key: str, before: Measured, after: Measured, name: str) -> Finding:
    old, now, limit = before.memory[name], after.memory[name], MEMORY[name][1]
    found = Finding(key, after.label, name, "undecided", "MiB", old, now)
    if not (math.isfinite(old) and math.isfinite(now) and old > 0):
        found.reason = "not a positive number"
        return found
    found.change = now / old - 1
    grown, shrunk = found.change > limit, found.change < -limit
    found.verdict = "slower" if grown else "faster" if shrunk else "same"
    return found


def usable(samples: stats.Array) -> stats.Array | str:
    """Logarithms, or what is wrong."""
    bad = int((~(np.isfinite(samples) & (samples > 0))).sum())
    if bad or not samples.size:
        return f"{bad} of {samples.size} samples are not positive numbers" if bad else "no samples"
    return np.log(samples)


def inverse_speedup(side: Side, key: str) -> stats.Array | str:
    """Latency over the baseline's, sample by sample in the order they were taken."""
    case = side.cases[key]
    over = side.cases[str(case.baseline)]
    own, its = (usable(c.samples.get("latency", np.array([]))) for c in (case, over))
    if isinstance(own, str) or isinstance(its, str):
        return "the case or its baseline has no usable samples"
    size = min(own.size, its.size)
    return own[:size] - its[:size]


def queue(findings: list[Finding], judged: list[Any], sides: list[Any], threshold: float) -> None:
    """Puts the last finding among those to be judged, or says why it cannot be."""
    for side, name in zip(sides, ("BASE", "NEW"), strict=True):
        if side is None or isinstance(side, str):
            findings[-1].reason = f"{side or 'no samples'} in {name}"
            return
    judged.append((findings[-1], *sides, math.log1p(threshold)))


def judge(judged: list[tuple[Finding, stats.Array, stats.Array, float]], alpha: float) -> None:
    """Fills in verdicts, all at once: the correction is over the table."""
    if not judged:
        return
    weighed = [stats.weigh(base, new, margin) for _, base, new, margin in judged]
    evidence = stats.Evidence(
        *(np.array([getattr(e, name) for e in weighed]) for name in ("shift", "changed", "same"))
    )
    verdicts = stats.decide(evidence, np.array([margin for *_, margin in judged]), alpha)
    corrected = stats.holm(evidence.changed)
    level = alpha / 2 / len(judged)
    for (found, base, new, _), verdict, p in zip(judged, verdicts, corrected, strict=True):
        sign = -1 if found.figure == "speed-up" else 1
        found.base, found.new = (float(np.exp(sign * np.median(s))) for s in (base, new))
        found.change = found.new / found.base - 1
        low, high = sorted(sign * shift for shift in stats.interval(base, new, level))
        if math.isfinite(low):
            found.low, found.high = math.expm1(low), math.expm1(high)
        found.verdict, found.p = verdict.item(), float(p)
        found.n_base, found.n_new = base.size, new.size


def notes(base: Side, new: Side, judged: list[Any], alpha: float) -> list[str]:
    """What a reader must know."""
    found = [
        f"{name}: {value or 'unknown'} in BASE, {new.told.get(name) or 'unknown'} in NEW"
        for name, value in base.told.items()
        if value != new.told.get(name)
    ]
    smallest = min((min(b.size, n.size) for _, b, n, _ in judged), default=0)
    if judged and smallest < stats.SAMPLES:
        least = stats.fewest(len(judged), alpha)
        cannot = "nothing can be decided" if smallest < least else "little can be decided"
        found.append(
            f"Some figures have {smallest} samples: with fewer than {least} {cannot} in a table "
            f"of {len(judged)} figures, and {stats.SAMPLES} are needed to see 5 % reliably."
        )
    return found + [clean(line) for line in base.complaints + new.complaints]
