"""The regression gate: two results, each case and figure judged from the raw samples.

    base, new = of_run(frames.load(a)), of_run(frames.load(b))       # or of_benchmarks(path)
    comparison = compare(base, new)
    sys.exit(comparison.exit_code)

Latency (in all, by scale, of the VQVAE) and speed-up go through `stats`, which takes each round as
one observation, with one correction over the whole table; memory has no noise and is compared as
it is.  Where both sides have one round only, `ranks` takes the samples, and what processes of the
same code differ by is not in them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.measure.machine import BUSY_CORES
from bench.study import storage
from bench.study.cases import has_scales
from bench.study.errors import UsageError
from bench.study.records import DEGRADED, OUT_OF_MEMORY, Record
from bench.tables import frames, ranks, stats

Rounds = dict[int, stats.Array]  # by the round's number
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
    """A case of one side.

    samples: seconds by figure, and within it by round.  memory: MiB, the largest of all rounds.
    baseline: its case's key.  load: cores that other processes kept busy, at most.
    """

    label: str
    status: str = "ok"
    reason: str = ""
    samples: dict[str, Rounds] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    baseline: str | None = None
    load: float = 0.0


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
    """A figure of a case.

    base, new: medians, in `unit`; of several rounds, the mean of their `stats.middle`.
    change, low, high: relative; the interval holds for the whole table at once.  p: corrected,
    that it changed.  n_base, n_new: samples in all rounds.
    """

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
    rounds_base: int | None = None
    rounds_new: int | None = None
    regression: bool = False
    reason: str = ""

    def __str__(self) -> str:
        head = f"{self.case}: {self.figure}"
        if self.change is None:
            return f"{head} {self.word}" + f" ({self.reason})" * bool(self.reason)
        span = (
            f" [{self.low:+.1%} to {self.high:+.1%}]"
            if self.low is not None and self.high is not None
            else ""
        )
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


def of_run(run: frames.Run) -> Side:
    """Raises NotComparable where there is no record, UsageError where one is damaged."""
    where = str(run.folder or run.sweep.name)
    if not run.records:
        why = f"none can be read, {run.complaints[0]}" if run.complaints else "it is empty"
        raise NotComparable(f"{where}: no records ({why})")
    by_key: dict[str, list[Record]] = {}
    for record in run.records:
        by_key.setdefault(record.key, []).append(record)
    overs = {case.key: run.sweep.baseline_case(case) for case in run.sweep.cases}
    cases = {}
    for key, lines in by_key.items():
        over = overs.get(key)
        cases[key] = of_records(lines, over.key if over and over.key in by_key else None)
    labels = Counter(case.label for case in cases.values())
    for key, case in cases.items():
        if labels[case.label] > 1:
            case.label += f" ({key})"
    same = {"experiment": run.sweep.name}
    for name in ("machine", "precision", "device"):
        same[name] = values_of(run.records, name)
    names = ("torch", "torch_threads", *DEGRADED, "commit", "dirty")
    told = {name: values_of(run.records, name) for name in names}
    for name in ("driver", "power_limit_w"):
        told[name] = "/".join(str(gpu.get(name)) for gpu in run.env.get("gpus", []))
    return Side(where, same, told, cases, run.complaints)


def values_of(lines: Sequence[Record], name: str) -> str:
    """What the records have under that name, each value once."""
    return "/".join(sorted({str(getattr(record, name)) for record in lines}))


def of_records(lines: Sequence[Record], over: str | None) -> Measured:
    """The records of a case, one for each round, as a case that failed if any round did.

    over: key of the case that its speed-up is over, which may be itself.
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
        in_scales = has_scales(line.case["method"])
        figures = {
            "latency": line.samples.latency_s,
            # A baseline's hundreds of steps are judged together.
            **{f"scale {k}": scale for k, scale in enumerate(by_scale, 1) if in_scales},
            "VQVAE latency": line.samples.vqvae_latency_s,
        }
        for name, values in figures.items():
            found.samples.setdefault(name, {})[line.round] = as_samples(values)
        for name, (key, _) in MEMORY.items():
            used = getattr(line.memory, key)
            found.memory[name] = max(used, found.memory.get(name, used))
        found.load = max(found.load, line.other_load_cores or 0.0)
    found.baseline = over if over != record.key else None
    return found


def as_samples(values: Any) -> stats.Array:
    samples = np.array(values, float)
    if samples.ndim != 1:
        raise ValueError("samples are not a list of numbers")
    return samples[:: max(1, math.ceil(samples.size / ranks.LARGEST))]


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
            raise NotComparable(f"{path}: its files are of different machines")
        for name, value in other.told.items():
            if value not in found.told[name].split("/"):
                found.told[name] += f"/{value}"
        for key, case in other.cases.items():
            mine = found.cases.setdefault(key, Measured(case.label))
            for figure, samples in case.samples.items():
                mine.samples.setdefault(figure, {}).update(samples)
    return found


def of_benchmark(file: Path, round_: int) -> Side:
    try:
        info = storage.parse_json(file.read_text("utf-8-sig"))
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
        }
    except OSError as e:
        raise UsageError(f"{file}: cannot be read ({e.strerror})") from None
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UsageError(f"{file}: not a JSON file of pytest-benchmark ({e!r})") from None
    if not cases:
        raise NotComparable(f"{file}: no benchmarks")
    return Side(str(file), same, told, cases)


# Judging


def compare(
    base: frames.Run | Side, new: frames.Run | Side, threshold: float = 0.03, alpha: float = 0.01
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
    judged: list[Judged] = []
    for key in keys:
        before, after = base.cases[key], new.cases[key]
        if (before.status, after.status) != ("ok", "ok"):
            findings.append(of_status(key, before, after))
            continue
        for name in [*before.samples, *(n for n in after.samples if n not in before.samples)]:
            findings.append(Finding(key, after.label, name, "undecided", "s"))
            sides = [before.samples.get(name), after.samples.get(name)]
            logs = [None if s is None else usable(s) for s in sides]
            judged += judgeable(findings[-1], logs, math.log1p(threshold))
        if before.baseline and before.baseline == after.baseline:
            findings.append(Finding(key, after.label, "speed-up", "undecided", "x"))
            pairs = [inverse_speedup(side, key) for side in (base, new)]
            # a ratio of two such figures has the square root of two times their noise
            judged += judgeable(findings[-1], pairs, math.sqrt(2) * math.log1p(threshold))
        findings += [of_memory(key, before, after, name) for name in MEMORY if before.memory]
    judge(judged, alpha)
    by_figure = {(f.key, f.figure): f for f in findings}
    for f in findings:
        over = by_figure.get((str(base.cases[f.key].baseline), "latency"))  # None where it failed
        of_faster_base = f.figure == "speed-up" and over is not None and over.verdict == "faster"
        f.regression = f.verdict == "slower" and not of_faster_base
    for alone, others, name in ((base, new, "BASE"), (new, base, "NEW")):
        findings += [
            Finding(key, case.label, "case", "undecided", reason=f"only in {name}")
            for key, case in alone.cases.items()
            if key not in others.cases
        ]
    return Comparison(base, new, threshold, alpha, findings, notes(base, new, judged, alpha))


# A finding, the logarithms of its samples on both sides, and the shift that matters.
Judged = tuple[Finding, Rounds, Rounds, float]


def common(base: Side, new: Side) -> list[str]:
    return [key for key in base.cases if key in new.cases]


def of_status(key: str, before: Measured, after: Measured) -> Finding:
    """A case that did not come through on both sides."""
    verdict: Verdict = "undecided"
    if before.status == after.status or {before.status, after.status} <= OUT_OF_MEMORY.keys():
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


def usable(rounds: Rounds) -> Rounds | str:
    """Logarithms, or what is wrong."""
    samples = np.concatenate([*rounds.values(), []])
    bad = int((~(np.isfinite(samples) & (samples > 0))).sum())
    if bad:
        return f"{bad} of {samples.size} samples are not positive numbers"
    found = {round_: np.log(values) for round_, values in rounds.items() if values.size}
    return found or "no samples"


def inverse_speedup(side: Side, key: str) -> Rounds | str:
    """Latency over the baseline's of the same round, sample by sample in the order taken."""
    case = side.cases[key]
    over = side.cases[str(case.baseline)]
    own, its = (usable(c.samples.get("latency", {})) for c in (case, over))
    if isinstance(own, str) or isinstance(its, str):
        return "the case or its baseline has no usable samples"
    both = [(round_, min(own[round_].size, its[round_].size)) for round_ in own if round_ in its]
    found = {round_: own[round_][:size] - its[round_][:size] for round_, size in both}
    return found or "the case and its baseline have no round in common"


def judgeable(
    finding: Finding, sides: Sequence[Rounds | str | None], margin: float
) -> list[Judged]:
    """The finding with the samples of both sides; empty, with the reason in the finding, where a
    side has none that can be used."""
    base, new = sides
    for side, name in ((base, "BASE"), (new, "NEW")):
        if side is None or isinstance(side, str):
            finding.reason = f"{side or 'no samples'} in {name}"
            return []
    return [(finding, base, new, margin)]  # type: ignore[list-item]


def judge(judged: list[Judged], alpha: float) -> None:
    """Fills in verdicts, all at once: the correction is over the table."""
    if not judged:
        return
    margins = np.array([margin for *_, margin in judged])
    several = in_rounds(judged)
    evidence = by_rounds(judged, alpha) if several else by_ranks(judged, alpha)
    verdicts = stats.decide(evidence, margins, alpha)
    corrected = stats.holm(evidence.changed)
    for i, (found, base, new, _) in enumerate(judged):
        sign = -1 if found.figure == "speed-up" else 1
        found.base, found.new = (
            math.exp(sign * (middles(side).mean() if several else np.median([*side.values()])))
            for side in (base, new)
        )
        found.change = found.new / found.base - 1
        low, high = sorted(sign * float(shift[i]) for shift in (evidence.low, evidence.high))
        if math.isfinite(low):
            found.low, found.high = math.expm1(low), math.expm1(high)
        found.verdict, found.p = verdicts[i].item(), float(corrected[i])
        found.n_base, found.n_new = (sum(v.size for v in side.values()) for side in (base, new))
        found.rounds_base, found.rounds_new = len(base), len(new)


def middles(rounds: Rounds) -> stats.Array:
    """Of each round."""
    return np.array([stats.middle(values) for values in rounds.values()])


def in_rounds(judged: list[Judged]) -> bool:
    """Whether anything was measured in more than one round."""
    return any(max(len(base), len(new)) > 1 for _, base, new, _ in judged)


def by_rounds(judged: list[Judged], alpha: float) -> stats.Evidence:
    sides = []
    for side in ([base for _, base, _, _ in judged], [new for _, _, new, _ in judged]):
        rows = np.full((len(side), max(map(len, side))), np.nan)
        for row, rounds in zip(rows, side, strict=True):
            row[: len(rounds)] = middles(rounds)
        sides.append(rows)
    kinds = np.unique([found.figure for found, *_ in judged], return_inverse=True)[1]
    margins = np.array([margin for *_, margin in judged])
    return stats.weigh(sides[0], sides[1], margins, kinds, alpha)


def by_ranks(judged: list[Judged], alpha: float) -> stats.Evidence:
    level, weighed = alpha / 2 / len(judged), []
    for _, base, new, margin in judged:
        (before,), (after,) = base.values(), new.values()  # the only round
        weighed.append(ranks.weigh(before, after, margin, level))
    columns = zip(*((e.shift, e.changed, e.same, e.low, e.high) for e in weighed), strict=True)
    return stats.Evidence(*(np.array(column) for column in columns))


def notes(base: Side, new: Side, judged: list[Judged], alpha: float) -> list[str]:
    """What a reader must know."""
    found = [
        f"{name}: {value or 'unknown'} in BASE, {new.told.get(name) or 'unknown'} in NEW"
        for name, value in base.told.items()
        if value != new.told.get(name)
    ]
    for side, name in ((base, "BASE"), (new, "NEW")):
        busy = [case.label for case in side.cases.values() if case.load > BUSY_CORES]
        if busy:
            found.append(f"The machine was busy with other work in {name}: {'; '.join(busy)}.")
    if judged:
        found += too_little(judged, alpha)
    return found + [clean(line) for line in base.complaints + new.complaints]


def too_little(judged: list[Judged], alpha: float) -> list[str]:
    """What more rounds or samples would tell."""
    sides = [side for _, base, new, _ in judged for side in (base, new)]
    if in_rounds(judged):
        fewest = min(map(len, sides))
        if fewest >= stats.ROUNDS:
            return []
        return [
            f"Some figures have {plural(fewest, 'round')}: {stats.ROUNDS} on each side, of "
            f"{stats.SAMPLES} samples, are needed to see 5 % reliably."
        ]
    found = [
        "One round on each side: what processes of the same code differ by cannot be told from "
        f"a change.  {stats.ROUNDS} rounds show it."
    ]
    fewest = min(sum(values.size for values in side.values()) for side in sides)
    if fewest < ranks.SAMPLES:
        least = ranks.fewest(len(judged), alpha)
        cannot = "nothing can be decided" if fewest < least else "little can be decided"
        found.append(
            f"Some figures have {plural(fewest, 'sample')}: with fewer than {least} {cannot} in "
            f"a table of {plural(len(judged), 'figure')}, and {ranks.SAMPLES} are needed to see "
            "5 % reliably."
        )
    return found


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
