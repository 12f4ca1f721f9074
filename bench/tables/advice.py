"""Which method to take for a memory and a batch size: what fits, and the Pareto-best of it.

Candidates are one's own cases, or VAR, CoDe and VARiant as the papers have them.  Cost is measured
where a run of this machine has it, else predicted; FID is measured or else a paper's; a column
says which.

FIDs of different sources are not compared: the papers sample differently (CoDe top-k 600,
VARiant 900), and their VAR-d30 is not the same (1.95; 1.96 after VARiant's training); what was
measured here is of another reference or network.  So a candidate is beaten only by another of
the same source.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bench.methods.sources import sources_of
from bench.predict import ceilings
from bench.predict.ceilings import Ceilings
from bench.predict.floor import beaten, floor_of
from bench.predict.prediction import prediction_or_none
from bench.study import papers
from bench.study.cases import Case, VARCase, is_ours, make_case
from bench.study.columns import rounded
from bench.study.errors import UsageError
from bench.study.evaluations import Evaluation
from bench.study.names import name_of
from bench.study.printing import Printed
from bench.study.units import MIB
from bench.tables import case_rows
from bench.tables.case_rows import Row
from bench.tables.frames import Run
from bench.tables.links import Linked, link, method_and_size
from bench.tables.pareto import Known, pareto_front

DEPTHS = (16, 20, 24, 30)  # of VAR
DRAFT_STEPS = range(1, 10)  # of CoDe d30+d16
SUBNETS, BRIDGES = (16, 8, 4, 2), range(6, 10)  # of VARiant d30; at N=10 nothing is left out
PUBLISHED_WEIGHTS = ("published", "finetuned")
WHENCE = ("time is", "memory is", "FID from")  # columns that a note tells where all are alike
RATE, FLOOR = "predicted", "floor"  # where a latency comes from, beside "measured"


@dataclass(frozen=True)
class Quality:
    """A FID, the table it is from, and the source within which FIDs are comparable: a paper, or so
    many images that were evaluated.

    known: papers print no interval.  obtainable: whether its weights can be had.
    """

    known: Known
    table: str
    source: str
    obtainable: bool = True


@dataclass(frozen=True)
class Candidate:
    """A method with what it costs; latency_s is None where nothing is known of the machine.

    name: that tells it from the others.
    """

    case: Case
    name: str
    flops: int
    memory_mib: float
    memory_from: str
    latency_s: float | None
    latency_from: str
    quality: Quality | None

    @property
    def cost(self) -> float:
        """What the front trades against FID: seconds, or work if no speed is known."""
        return self.flops if self.latency_s is None else self.latency_s

    @property
    def fid(self) -> float:
        """The FID it is ranked by."""
        assert self.quality is not None
        return self.quality.known.value


@dataclass(frozen=True)
class Limits:
    """What the user asked for; memory in bytes.  obtainable: only FIDs of weights to be had."""

    memory: int
    max_fid: float | None = None
    max_latency: float | None = None
    obtainable: bool = True


@dataclass(frozen=True)
class Advice:
    """ranked: all that meets the limits, fastest first.  best: the Pareto-best of it.
    unranked: fits, but nobody has measured its FID.  excluded: candidate and why.
    chosen: of each source.  why: in a line."""

    ranked: list[Candidate]
    best: list[Candidate]
    unranked: list[Candidate]
    excluded: list[tuple[Candidate, str]]
    chosen: list[Candidate]
    why: str


# Candidates


def grid(settings: dict[str, Any]) -> list[Case]:
    """The methods of the papers at these settings (batch size, stack, precision, device)."""
    methods: list[dict[str, Any]] = [{"method": "var", "depth": depth} for depth in DEPTHS]
    methods += [{"method": "code", "draft_steps": n} for n in DRAFT_STEPS]
    methods += [
        {"method": "variant", "subnet_depth": d, "bridge_scales": n}
        for d, n in itertools.product(SUBNETS, BRIDGES)
    ]
    return [make_case({**settings, **method}) for method in methods]


def of_plugins(runs: Iterable[Run], settings: Mapping[str, Any]) -> list[Case]:
    """The cases of these runs whose methods are plugins', at these settings."""
    own = (case for run in runs for case in run.sweep.cases if not is_ours(case))
    return list({case.key: case for case in own if settings.items() <= dict(case).items()}.values())


def alike(cases: Sequence[Case], settings: Mapping[str, Any]) -> list[Case]:
    """The cases at these settings, each once; where one is None, at what most of the cases have.
    Of plugins those that have them; no baselines."""
    common = {
        name: Counter(getattr(case, name) for case in cases).most_common(1)[0][0]
        for name in settings
    }
    asked = common | {name: value for name, value in settings.items() if value is not None}
    made = [
        make_case({**case.model_dump(), **asked}) if is_ours(case) else case
        for case in cases
        if isinstance(case, VARCase) or (not is_ours(case) and asked.items() <= dict(case).items())
    ]
    if not made:
        raise UsageError("nothing to choose from: baselines are measured for speed only")
    return list({case.key: case for case in made}.values())


def candidates(
    cases: Sequence[Case],
    runs: Sequence[Run],
    machine: str,
    evaluations: Sequence[Evaluation] = (),
    folder: Path | None = None,
) -> list[Candidate]:
    """The cases with cost and FID.

    runs: newest first; only those of this machine tell time and memory.  evaluations: newest
    first, of any machine.  folder: of the run that the cases are of.
    """
    hashes: dict[str, str] = {}
    for record in itertools.chain.from_iterable(run.records for run in runs):
        hashes = (record.weights_sha256 or {}) | hashes
    weights = {
        case.key: {source: hashes[source] for source in sources_of(case) if source in hashes}
        for case in cases
    }
    of_machine = [run for run in runs if run.env.get("machine") == machine]
    rows = list(itertools.chain.from_iterable(map(case_rows.rows_of, of_machine)))
    measured = {case: find(case, rows) for case in cases}
    evaluated = link(cases, evaluations, weights, folder)
    rates = [
        1e12 * row["tflops_predicted"] / row["latency_s"]
        for case, row in measured.items()
        if row and is_ours(case)
    ]
    top = next((c for run in of_machine if (c := ceilings_of(run, cases[0]))), None)
    found = []
    for case in cases:
        row, told = measured[case], prediction_or_none(case)
        if told is None and row is None:
            continue
        known = row or {}
        work = sum(told.flops) if told else int(1e12 * known.get("tflops_predicted", 0))
        latency, how = None, ""
        if row:
            latency, how = row["latency_s"], "measured"
        elif rates:
            latency, how = work / statistics.median(rates), RATE
        elif top:
            latency, how = sum(floor_of(case, top).seconds), FLOOR
        found.append(
            Candidate(
                case=case,
                name=name_of(case, cases),
                flops=work,
                memory_mib=row["total_mib"] if row else told.total_bytes / MIB if told else 0.0,
                memory_from="measured" if row else "predicted",
                latency_s=latency,
                latency_from=how,
                quality=measured_quality(case, evaluated) or papers_quality(case),
            )
        )
    return found


def find(case: Case, rows: Iterable[Row]) -> Row | None:
    """The newest measured row of the case; weights, sampling and seed change no cost, but for the
    mini world's, which are of other sizes."""
    same = {"weights", "sampling", "seed", "memory_limit_gib"}

    def costs(case: Case) -> tuple[Any, ...]:
        return case.in_mini_world, case.model_dump(exclude=same)

    wanted = costs(case)
    return next((r for r in rows if "latency_s" in r and costs(r["case"]) == wanted), None)


def ceilings_of(run: Run, case: Case) -> Ceilings | None:
    """Those that a profile of the case's device has left in the run's folder; not if a decode of
    the run has beaten them."""
    found = ceilings.load(run.folder) if run.folder else None
    known = found is not None and case.precision in {p.precision for p in found.products}
    if not found or not known or found.device != case.device:
        return None
    return None if any(beaten(record, found) for record in run.records) else found


# FID


def published(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Those of the papers' models: a small world's have other sizes under the same names."""
    return [e for e in evaluations if (e.case or {}).get("weights") in PUBLISHED_WEIGHTS]


def measured_quality(case: Case, evaluated: Linked) -> Quality | None:
    """The FID that evaluations have for the method, made on any machine."""
    found = evaluated.by_key.get(case.key)
    if found is None or "fid" not in found.figures:
        return None
    source = f"measured, {found.images['fid']} images" if "fid" in found.images else "measured"
    return Quality(found.known["fid"], source, source)


def papers_quality(case: Case) -> Quality | None:
    """The FID that a paper prints: CoDe, Table 1 (fine-tuned) and for N < 6 Table 6
    (training-free); VARiant, Table 8 (trained).  None for models and methods that are not its."""
    printed = method_and_size(case) in printed_methods()
    if case.weights not in ("seeded", *PUBLISHED_WEIGHTS) or not printed:
        return None
    values = case.model_dump()
    if case.method == "variant":
        config = {key: values[key] for key in ("subnet_depth", "bridge_scales")}
        found = printed_fid("variant_table8", config)
        return found and replace(found, obtainable=False)  # its trained weights were not published
    name = f"VAR-d{values['depth']}"
    if case.method == "code":
        name = f"VAR-CoDe N={values['draft_steps']}"
    found = printed_fid("code_table1", {"method": name})
    if found is None and case.method == "code":
        found = printed_fid("code_table6", {"draft_steps": values["draft_steps"]})
        return found and replace(found, table=f"{found.table} (training-free)")
    return found


def printed_fid(table: str, keys: dict[str, Any]) -> Quality | None:
    """The FID that a paper's table has of these keys."""
    paper = papers.load(table)
    fid = paper.numbers("fid", *keys).get(tuple(keys.values()))
    return None if fid is None else Quality(Known(fid), paper.about.title, paper.about.paper)


@functools.cache
def printed_methods() -> list[dict[str, Any]]:
    """The methods of the papers, as `method_and_size` has them."""
    return [*map(method_and_size, grid({}))]


# Choosing


def advise(found: Sequence[Candidate], limits: Limits, batch_size: int) -> Advice:
    """What meets the limits and what of it is best.  Raises UsageError if nothing does."""
    if limits.max_latency is not None and any(c.latency_s is None for c in found):
        raise UsageError(
            "--max-latency: nothing tells how fast this machine is at these settings; "
            "`bench.py profile` measures it"
        )
    excluded = [(c, why) for c in found if (why := why_not(c, limits))]
    out = [c for c, _ in excluded]
    met = [c for c in found if c not in out]
    ranked = sorted((c for c in met if c.quality), key=lambda c: (c.cost, c.fid))
    unranked = [c for c in met if not c.quality]
    if not ranked:
        raise UsageError(nothing(found, limits, batch_size))
    best = best_of_each_source(ranked)
    return Advice(ranked, best, unranked, excluded, *choose(best, ranked, limits))


def why_not(candidate: Candidate, limits: Limits) -> str:
    """Which limit it breaks, or ""."""
    if limits.obtainable and candidate.quality and not candidate.quality.obtainable:
        return f"FID {candidate.fid:.2f} is of weights that nobody published (--all ranks them)"
    if candidate.memory_mib * MIB > limits.memory:
        return f"needs {candidate.memory_mib:,.0f} MiB ({candidate.memory_from})"
    if limits.max_fid is not None and candidate.quality and candidate.fid > limits.max_fid:
        return f"FID {candidate.fid:.2f} ({candidate.quality.table})"
    latency = candidate.latency_s
    if limits.max_latency is not None and latency is not None and latency > limits.max_latency:
        return f"takes {rounded(latency)} s ({candidate.latency_from})"
    return ""


def nothing(found: Sequence[Candidate], limits: Limits, batch_size: int) -> str:
    """Why no candidate is left, and what to do."""
    fits = [c for c in found if c.memory_mib * MIB <= limits.memory]
    asked = f"{limits.memory / MIB:,.0f} MiB at batch {batch_size}"
    if not fits:
        least = min(found, key=lambda c: c.memory_mib)
        return (
            f"nothing fits {asked}: the least is {least.name} with "
            f"{least.memory_mib:,.0f} MiB; give more --memory or a smaller --batch"
        )
    known = [c for c in fits if c.quality]
    parts = []
    if limits.max_fid is not None and known:
        best = min(known, key=lambda c: c.fid)
        parts.append(f"the best FID that fits is {best.fid:.2f} ({best.name})")
    if limits.max_latency is not None:
        fastest = min(fits, key=lambda c: c.cost)
        parts.append(f"the fastest that fits takes {rounded(fastest.cost)} s ({fastest.name})")
    told = ", ".join(parts) or (
        "nobody has measured the FID of what fits (`bench.py reproduce` measures it)"
    )
    return f"nothing that fits {asked} meets the other limits: {told}"


def best_of_each_source(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The Pareto front of cost and FID within each source of FIDs, fastest first: of each the FID
    can be told to be less than that of the one before."""
    by_source: dict[str, list[Candidate]] = {}
    for candidate in ranked:
        assert candidate.quality is not None
        by_source.setdefault(candidate.quality.source, []).append(candidate)
    fronts = [pareto_front(own, lambda c: (c.cost, c.fid), known_of) for own in by_source.values()]
    on_front = list(itertools.chain.from_iterable(fronts))
    return [candidate for candidate in ranked if candidate in on_front]


def known_of(candidate: Candidate) -> Known | None:
    """Its FID with its interval."""
    return candidate.quality.known if candidate.quality else None


def choose(
    best: Sequence[Candidate], ranked: Sequence[Candidate], limits: Limits
) -> tuple[list[Candidate], str]:
    """The choice, and why in one line.  With a limit on FID the fastest; else of each source the
    fastest that no other's FID can be told to be better than."""
    if limits.max_fid is not None:
        why = f"the fastest with FID {limits.max_fid:g} or better"
        return [best[0]], f"Choose {describe(best[0])}: {why}."
    by_source: dict[str, Candidate] = {}
    for candidate in best:  # fastest first, so the last of a source is its best
        assert candidate.quality is not None
        by_source[candidate.quality.source] = candidate
    options = " or ".join(describe(candidate) for candidate in by_source.values())
    what = "the best FID of each source" if len(by_source) > 1 else "the best FID"
    less = [c.name for c in ranked if c.quality and c.fid < by_source[c.quality.source].fid]
    if less:
        what = f"no FID can be told to be better; too few images to tell that of {', '.join(less)}"
    why = f"Choose {options}: {what}; --max-fid finds the fastest for a FID you can take."
    return [*by_source.values()], why


def base_of(chosen: Candidate, found: Sequence[Candidate]) -> Candidate | None:
    """What a choice is held against: the VAR of its first model, or else the candidate that costs
    most; None where that is the choice itself, or nothing is predicted."""
    found = [c for c in found if prediction_or_none(c.case)]
    if chosen not in found:
        return None
    whole = [c for c in found if c.case.method == "var" and depth_of(c) == depth_of(chosen)]
    base = (whole or sorted(found, key=lambda c: -c.cost))[0]
    return None if base == chosen else base


def depth_of(candidate: Candidate) -> Any:
    """Layers of its first model."""
    return getattr(candidate.case, "depth", None)


def saved(own: Candidate, base: Candidate) -> Printed:
    """What is saved where, by scale: work and cache; what FID it takes stands below."""
    mine, whole = prediction_or_none(own.case), prediction_or_none(base.case)
    assert mine
    assert whole
    all_saved = (sum(whole.flops) - sum(mine.flops)) or 1
    rows = [
        {
            "scale": str(k),
            "TFLOP": rounded(before / 1e12),
            "left": rounded(after / 1e12),
            "of all saved": f"{(before - after) / all_saved:.0%}",
            "KV MiB": f"{held / MIB:,.1f}",
            "KV left": f"{kept / MIB:,.1f}",
        }
        for k, (before, after, held, kept) in enumerate(
            zip(whole.flops, mine.flops, whole.kv_cache_bytes, mine.kv_cache_bytes, strict=False), 1
        )
    ]
    told = [f"{own.memory_mib / base.memory_mib:.0%} of the memory"]
    if own.latency_s and base.latency_s:
        told.insert(0, f"{base.latency_s / own.latency_s:.2f} times as fast ({own.latency_from})")
    loss = f"no FID of {base.name} from the same source"
    if own.quality and base.quality and own.quality.source == base.quality.source:
        apart, span = own.quality.known.less(base.quality.known)
        held_to = "95 % interval {:+.2f} to {:+.2f}".format(*span) if span else "no interval"
        loss = f"FID {apart:+.2f} ({held_to})"
    text = pd.DataFrame(rows)
    title = f"What {own.name} saves of {base.name}, by scale, predicted"
    return Printed(title, text, text, [f"Over all: {', '.join(told)}; {loss}."])


def describe(candidate: Candidate) -> str:
    """A candidate in a sentence: its label, cost and FID."""
    assert candidate.quality is not None
    time = f"{rounded(candidate.latency_s)} s, " if candidate.latency_s is not None else ""
    fid = f"FID {candidate.fid:.2f}, {candidate.quality.table}"
    return f"{candidate.name} ({time}{candidate.memory_mib:,.0f} MiB, {fid})"


# Output


def printed(advice: Advice, limits: Limits) -> Printed:
    """What fits, fastest first; below it what was left out."""
    case = advice.ranked[0].case
    text = pd.DataFrame([row_of(c, advice) for c in [*advice.ranked, *advice.unranked]])
    title = (
        f"What fits {limits.memory / MIB:,.0f} MiB at batch {case.batch_size}: "
        f"{case.stack} stack, {case.precision}, {case.device}"
    )
    notes = [advice.why, *how_to_read(advice)]
    out = pd.DataFrame([{"method": c.name, "why": why} for c, why in advice.excluded])
    found = [*advice.ranked, *advice.unranked, *(c for c, _ in advice.excluded)]
    more = [saved(c, base) for c in advice.chosen if (base := base_of(c, found))]
    more += [Printed("Left out", out, out)] if advice.excluded else []
    data = pd.DataFrame([data_of(c, advice) for c in [*advice.ranked, *advice.unranked]])
    told = text.loc[:, (text != "").any()]
    same = {name: cells[0] for name, cells in told.items() if name in WHENCE and len({*cells}) == 1}
    notes += [f"All rows: {', '.join(f'{name} {value}' for name, value in same.items())}."] * bool(
        same
    )
    return Printed(title, data, told.drop(columns=[*same]), notes, more)


def row_of(c: Candidate, advice: Advice) -> dict[str, str]:
    """A candidate's cells as they are printed."""
    return {
        "method": c.name,
        "best": "*" if c in advice.best else "",
        "latency s": rounded(c.latency_s) if c.latency_s is not None else "",
        "images/s": rounded(c.case.batch_size / c.cost) if c.latency_s is not None else "",
        "time is": c.latency_from,
        "TFLOP": rounded(c.flops / 1e12) if c.flops else "",
        "memory MiB": f"{c.memory_mib:,.0f}",
        "memory is": c.memory_from,
        "FID": f"{c.fid:.2f}" if c.quality else "unknown",
        "FID 95 %": interval_of(c),
        "FID from": c.quality.table if c.quality else "",
    }


def interval_of(c: Candidate) -> str:
    """Of its FID, or that there is none: then a close one may as well be the same."""
    if c.quality is None:
        return ""
    return (
        "no interval"
        if c.quality.known.interval is None
        else "{:.2f} to {:.2f}".format(*c.quality.known.interval)
    )


def data_of(c: Candidate, advice: Advice) -> dict[str, Any]:
    """A candidate's figures for csv and json."""
    interval = (c.quality and c.quality.known.interval) or (None, None)
    return {
        "method": c.name,
        "best": c in advice.best,
        "latency_s": c.latency_s,
        "latency_from": c.latency_from or None,
        "tflops": c.flops / 1e12,
        "memory_mib": c.memory_mib,
        "memory_from": c.memory_from,
        "fid": c.fid if c.quality else None,
        "fid_from": c.quality.table if c.quality else None,
        "fid_low": interval[0],
        "fid_high": interval[1],
    }


def how_to_read(advice: Advice) -> list[str]:
    """Notes on what the figures are."""
    shown = [*advice.ranked, *advice.unranked]
    against = "time" if shown[0].latency_s is not None else "TFLOP"
    notes = [
        f"A star: Pareto-best, its FID can be told to be less than that of all with less {against}"
        " and a FID of the same source."
    ]
    if len({c.quality.source for c in advice.ranked if c.quality}) > 1:
        notes.append(
            "FIDs of different sources are not compared: CoDe samples with top-k 600, VARiant "
            "with 900, and their VAR-d30 has 1.95 and 1.96."
        )
    how = {c.latency_from for c in shown}
    if RATE in how:
        notes.append("Predicted time: FLOPs over the median rate of the measured ones.")
    if FLOOR in how:
        notes.append("Floor: the least time by this machine's ceilings; real ones are longer.")
    if how == {""}:
        notes.append("No run of this machine at these settings: TFLOP stand for time.")
    if any(c.memory_from == "predicted" for c in shown):
        notes.append("Predicted memory: weights with the VQVAE, KV cache and running.")
    return notes
