"""The regression gate: two results, each case and figure judged from the raw samples.

    base, new = of_run(frames.load(a)), of_run(frames.load(b))       # or of_benchmarks(path)
    comparison = compare(base, new)
    sys.exit(comparison.exit_code)

Latency (in all, by scale, of the VQVAE) and speed-up go through `stats`, which takes each round as
one observation, with one correction over the whole table.  Memory has no noise and is compared as
it is; so are tokens; of quality the intervals are compared.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.metrics import METRICS
from bench.study.errors import UsageError
from bench.study.records import FAILED, OUT_OF_MEMORY
from bench.tables import frames, stats
from bench.tables.sides import Measured, NotComparableError, Rounds, Side, clean, of_run

Verdict = Literal["faster", "slower", "same", "undecided", "other", "invalid"]
#: Relative change that matters, by figure.  The cache follows from shapes: any change is real.
#: Of scales, vqvae and speed-up it is latency's unless they have one of their own.
THRESHOLDS = {"latency": 0.03, "memory": 0.01, "cache": 0.0}
#: What `--threshold` calls a figure; of a scale "scales".
KEYS = {
    "latency": "latency",
    "VQVAE latency": "vqvae",
    "speed-up": "speed-up",
    "total memory": "memory",
    "KV cache": "cache",
}
#: How "slower" and "faster" read, by unit.
WORDS = {
    "MiB": {"slower": "more", "faster": "less"},
    "x": {"slower": "lower", "faster": "higher"},
    "": {"slower": "worse", "faster": "better"},
}
ROUNDING = 1e-9


@dataclass
class Finding:
    """A figure of a case.

    verdict: slower for whatever is worse, also of memory or quality; other for what is neither
    better nor worse, invalid for what was not measured so that it could be judged.
    base, new: in `unit`; of times, the mean of the rounds' `stats.middle`.
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
        return f"{self.case}: {self.said}"

    @property
    def said(self) -> str:
        """The figure, what became of it, and by how much."""
        if self.change is None:
            return f"{self.figure} {self.word}" + f" ({self.reason})" * bool(self.reason)
        return f"{self.figure} {self.values}, {self.relative}, {self.word}"

    @property
    def values(self) -> str:
        """Both, or why there are none."""
        if self.base is None or self.new is None:
            return self.reason
        return f"{self.base:.4g} to {self.new:.4g} {self.unit}".strip()

    @property
    def relative(self) -> str:
        """The change with its interval."""
        if self.low is None or self.high is None:
            return "" if self.change is None else f"{self.change:+.1%}"
        return f"{self.change:+.1%} [{self.low:+.1%} to {self.high:+.1%}]"

    @property
    def word(self) -> str:
        """The verdict as this figure's readers know it."""
        return WORDS.get(self.unit, {}).get(self.verdict, self.verdict)

    @property
    def resolution(self) -> float:
        """The smallest relative change that could have been told apart; infinite if none could."""
        if self.low is None or self.high is None:
            return math.inf
        return math.sqrt((1 + self.high) / (1 + self.low)) - 1


@dataclass
class Comparison:
    """What was found.  threshold: of latency.  alpha: see `compare`."""

    base: Side
    new: Side
    threshold: float
    alpha: float
    findings: list[Finding]
    notes: list[str]
    allow_undecided: bool = False

    @property
    def regressions(self) -> list[Finding]:
        """What makes the exit code 1."""
        return [f for f in self.findings if f.regression]

    @property
    def inconclusive(self) -> dict[str, str]:
        """What makes it 2 otherwise: the reason, by the case's key.

        A case that was not measured so that it could be judged; and, unless undecided is allowed,
        one of which too small a change could not have been told apart in its first figure, the
        total latency.
        """
        found = {f.key: f.reason for f in self.findings if f.verdict == "invalid"}
        first: dict[str, Finding] = {}
        for f in self.findings:
            if f.unit == "s":
                first.setdefault(f.key, f)
        for key, f in first.items():
            if f.resolution > 2 * self.threshold and not self.allow_undecided:
                seen = f"no change below {f.resolution:.1%} could have been seen"
                why = f.reason or ("no noise is known" if f.resolution == math.inf else seen)
                found.setdefault(key, f"no power in {f.figure}: {why}")
        return found

    @property
    def exit_code(self) -> int:
        """1 if anything regressed, else 2 if anything is inconclusive, else 0.

        (2 is NotComparableError's too, as any UsageError's.)
        """
        return 1 if self.regressions else 2 if self.inconclusive else 0


def share(text: str) -> float:
    """ "3%" or "0.03" as 0.03.  Raises UsageError for what is no number."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"{text}: not a share; write 3% or 0.03") from None


def thresholds(text: str) -> dict[str, float]:
    """ "3%" (of latency), or "latency=3%,memory=0%", as shares by figure.  Raises UsageError."""
    found = {}
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        found[name.strip() or "latency"] = share(value.strip())
    return found


def threshold_of(limits: Mapping[str, float], figure: str) -> float:
    """The relative change of a figure that matters."""
    key = KEYS.get(figure, "scales" if figure.startswith("scale ") else "latency")
    if key == "speed-up" and key not in limits:
        # a ratio of two such figures has the square root of two times their noise
        return math.expm1(math.sqrt(2) * math.log1p(limits["latency"]))
    return limits.get(key, limits["latency"])


def check(limits: Mapping[str, float], alpha: float) -> None:
    """Raises UsageError for thresholds and an alpha that cannot be."""
    known = [*KEYS.values(), "scales"]
    for name, value in limits.items():
        if name not in known:
            raise UsageError(f"threshold: {name}: not one of {', '.join(known)}")
        zero = value == 0 and name in ("memory", "cache")
        if not (0 < value < 1 or zero):
            raise UsageError(f"threshold of {name} must be in 0..1: {value}")
    if not 0 < alpha < 0.5:
        raise UsageError(f"alpha must be in 0..0.5: {alpha}")


def compare(
    base: frames.Run | Side,
    new: frames.Run | Side,
    threshold: float | Mapping[str, float] = 0.03,
    alpha: float = 0.01,
    allow_undecided: bool = False,
) -> Comparison:
    """Judges every figure of every case of BASE.

    threshold: relative change that matters, of latency, or by `KEYS`.  alpha: the chance of one
    false change in the whole table, after Holm's correction over all its figures.
    Raises NotComparableError where machine, experiment, precision or schema differ or nothing is
    measured in both, UsageError for an impossible threshold or alpha.
    """
    given = threshold if isinstance(threshold, Mapping) else {"latency": threshold}
    limits = {**THRESHOLDS, **given}
    check(limits, alpha)
    base = base if isinstance(base, Side) else of_run(base)
    new = new if isinstance(new, Side) else of_run(new)
    check_comparable(base, new)
    findings: list[Finding] = []
    judged: list[Judged] = []
    for key, before in base.cases.items():
        after = new.cases.get(key)
        if after is None:
            verdict: Verdict = "undecided" if before.status in FAILED else "slower"
            reason = f"only in BASE, {before.status} there"
            findings.append(Finding(key, before.label, "case", verdict, reason=reason))
        elif (before.status, after.status) != ("ok", "ok"):
            findings.append(of_status(key, before, after))
        else:
            judged += judgeable(findings, key, base, new)
            findings += [of_memory(key, before, after, name, limits) for name in before.memory]
            findings += of_outputs(key, before, after)
    judge(judged, limits, alpha)
    by_figure = {(f.key, f.figure): f for f in findings}
    for f in findings:
        over = by_figure.get((str(base.cases[f.key].baseline), "latency"))  # None where it failed
        of_faster_base = f.figure == "speed-up" and over is not None and over.verdict == "faster"
        f.regression = f.verdict == "slower" and not of_faster_base
    for key, case in new.cases.items():
        if key not in base.cases:
            lost: Verdict = "invalid" if key in base.planned else "undecided"
            findings.append(Finding(key, case.label, "case", lost, reason="only in NEW"))
    noted = notes(base, new, judged)
    return Comparison(base, new, limits["latency"], alpha, findings, noted, allow_undecided)


def check_comparable(base: Side, new: Side) -> None:
    """Raises NotComparableError where the two say nothing of each other."""
    common = [key for key in base.cases if key in new.cases]
    for name, value in base.same.items():
        other = new.same.get(name, value)  # older runs do not tell their hardware
        decides = name in ("experiment", "machine") or name.startswith("hardware")
        if value != other and (decides or not common):
            raise NotComparableError(f"other {name}: {value} in BASE, {other} in NEW")
    if not common:
        raise NotComparableError(
            f"no case in common: {len(base.cases)} in BASE, {len(new.cases)} in NEW"
        )
    if all(side.cases[key].status != "ok" for side in (base, new) for key in common):
        found = "/".join(sorted({new.cases[key].status for key in common}))
        raise NotComparableError(
            f"nothing was measured in either: all {len(common)} cases are {found}"
        )


#: A finding and the logarithms of its samples on both sides.
Judged = tuple[Finding, Rounds, Rounds]


def judgeable(findings: list[Finding], key: str, base: Side, new: Side) -> list[Judged]:
    """Adds a finding for each time of a case; returns those that have samples to be judged by."""
    before, after = base.cases[key], new.cases[key]
    for name, case in (("BASE", before), ("NEW", after)):
        if case.invalid:
            reason = f"{case.invalid} in {name}"
            findings.append(Finding(key, after.label, "times", "invalid", reason=reason))
            return []
    pairs = {
        name: [usable(side.samples.get(name, {})) for side in (before, after)]
        for name in [*before.samples, *after.samples]
    }
    if before.baseline and before.baseline == after.baseline:
        pairs["speed-up"] = [inverse_speedup(side, key) for side in (base, new)]
    judged: list[Judged] = []
    for name, (old, now) in pairs.items():
        unit = "x" if name == "speed-up" else "s"
        findings.append(Finding(key, after.label, name, "undecided", unit))
        if isinstance(old, str) or isinstance(now, str):
            wrong, where = (old, "BASE") if isinstance(old, str) else (now, "NEW")
            findings[-1].reason = f"{wrong} in {where}"
        else:
            judged.append((findings[-1], old, now))
    return judged


def of_status(key: str, before: Measured, after: Measured) -> Finding:
    """A case that did not come through on both sides.  Two that failed say nothing; two that ran
    out of memory say that they still do."""
    both = {before.status, after.status}
    verdict: Verdict = "same" if both <= OUT_OF_MEMORY.keys() else "invalid"
    if "ok" in both:
        verdict = "slower" if before.status == "ok" else "faster"
    reason = f"{before.status} to {after.status}"
    why = f": {after.reason or before.reason}" if after.reason or before.reason else ""
    return Finding(key, after.label, "status", verdict, reason=reason + why)


def of_memory(
    key: str, before: Measured, after: Measured, name: str, limits: Mapping[str, float]
) -> Finding:
    """A figure of `MEMORY`."""
    old, now, limit = before.memory[name], after.memory[name], threshold_of(limits, name)
    found = Finding(key, after.label, name, "undecided", "MiB", old, now)
    if not (math.isfinite(old) and math.isfinite(now) and old > 0):
        found.reason = "not a positive number"
        return found
    found.change = now / old - 1
    grown, shrunk = found.change > limit + ROUNDING, found.change < -limit - ROUNDING
    found.verdict = "slower" if grown else "faster" if shrunk else "same"
    return found


def of_outputs(key: str, before: Measured, after: Measured) -> list[Finding]:
    """Tokens and quality, where both sides have them.

    Other tokens are an error where nothing is left to chance.  Quality has changed where the two
    intervals have nothing in common.
    """
    found = []
    if before.tokens and after.tokens:
        tokens = Finding(key, after.label, "tokens", "same")
        if after.tokens - before.tokens:
            tokens.verdict = "slower" if after.greedy else "other"
            tokens.reason = "other tokens of the same seed" + ", greedy" * after.greedy
        found.append(tokens)
    if before.quality and after.quality:
        old, now = before.quality, after.quality
        for name in old.intervals.keys() & now.intervals.keys():
            quality = Finding(key, after.label, METRICS[name].heading, "same")
            quality.base, quality.new = old.figures[name], now.figures[name]
            quality.change = quality.new / quality.base - 1 if quality.base else None
            (low, high), (new_low, new_high) = old.intervals[name], now.intervals[name]
            if new_low > high or new_high < low:
                risen, better_low = new_low > high, METRICS[name].lower_is_better
                quality.verdict = "slower" if risen == bool(better_low) else "faster"
            found.append(quality)
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
    if over.invalid or isinstance(own, str) or isinstance(its, str):
        return "the case or its baseline has no usable samples"
    both = [(round_, min(own[round_].size, its[round_].size)) for round_ in own if round_ in its]
    found = {round_: own[round_][:size] - its[round_][:size] for round_, size in both}
    return found or "the case and its baseline have no round in common"


def judge(judged: list[Judged], limits: Mapping[str, float], alpha: float) -> None:
    """Fills in verdicts, all at once: the correction is over the table."""
    if not judged:
        return
    base, new = middles([b for _, b, _ in judged]), middles([n for _, _, n in judged])
    margins = np.log1p([threshold_of(limits, found.figure) for found, *_ in judged])
    kinds = np.unique([found.figure for found, *_ in judged], return_inverse=True)[1]
    evidence = stats.weigh(base, new, margins, kinds, alpha)
    verdicts = stats.decide(evidence, margins, alpha)
    corrected = stats.holm(evidence.changed)
    for i, (found, *sides) in enumerate(judged):
        sign = -1 if found.figure == "speed-up" else 1
        found.base, found.new = (math.exp(sign * np.nanmean(side[i])) for side in (base, new))
        found.change = found.new / found.base - 1
        low, high = sorted(sign * float(shift[i]) for shift in (evidence.low, evidence.high))
        if math.isfinite(low):
            found.low, found.high = math.expm1(low), math.expm1(high)
        found.verdict, found.p = verdicts[i].item(), float(corrected[i])
        found.n_base, found.n_new = (sum(v.size for v in side.values()) for side in sides)
        found.rounds_base, found.rounds_new = map(len, sides)


def middles(rounds: list[Rounds]) -> stats.Array:
    """`stats.middle` of each round, (figures, rounds); NaN where a figure has fewer."""
    rows = np.full((len(rounds), max(map(len, rounds))), np.nan)
    for row, of_figure in zip(rows, rounds, strict=True):
        row[: len(of_figure)] = [stats.middle(values) for values in of_figure.values()]
    return rows


def notes(base: Side, new: Side, judged: list[Judged]) -> list[str]:
    """What a reader must know."""
    found = [
        f"{name}: {value or 'unknown'} in BASE, {new.told.get(name) or 'unknown'} in NEW"
        for name, value in base.told.items()
        if value != new.told.get(name)
    ]
    fewest = min((len(side) for _, *sides in judged for side in sides), default=stats.ROUNDS)
    if fewest < stats.ROUNDS:
        found.append(
            f"Some figures have {fewest} round{'s' * (fewest > 1)}: {stats.ROUNDS} on each side, "
            f"of {stats.SAMPLES} samples, are needed to see 5 % reliably."
        )
    return found + [clean(line) for line in base.complaints + new.complaints]
