"""Bundles: a run packed for others, and what they can check of it offline.

    FILE.zip             an archive of `bench.study.archive`, its files with their SHA-256
        run.json         the experiment, records.jsonl, env.json, ceilings.json: as the run has them
        evaluations.jsonl    those that speak of its cases, with what their intervals follow from
        settings/        the files of calibrated settings that it was measured with
        statement.json   `Statement`: the figures that it claims

A bundle comes from a stranger.  Its files are JSON, read into models; nothing in it is run, and
nothing that it names on this machine is opened (`bench.study.strangers`).
"""

import hashlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict

from bench.measure.validity import why_invalid
from bench.metrics import jackknife
from bench.predict import ceilings
from bench.predict.prediction import memory_differs, predict
from bench.study import archive, calibrated, evaluations, printing, records, savings, strangers
from bench.study.cases import VARCase, is_ours, make_case
from bench.study.errors import UsageError
from bench.study.evaluations import Evaluation
from bench.study.experiment import Experiment, multiply
from bench.study.folders import PROGRAM
from bench.study.records import FAILED, Record
from bench.study.storage import read_json, write_json, write_lines
from bench.tables import case_rows, frames, rules, summary
from bench.tables.frames import Run
from bench.tables.links import Pair, case_of, method_and_size, speaks_of
from codevar.files import atomic_write, first_line

Row = frames.Row
STATEMENT = "statement.json"
COPIED = ("run.json", records.FILE, "env.json", ceilings.FILE)
MOST_CASES = 2000
SHOWN = 3  # findings that a line names
#: Columns of a frame that do not follow from raw samples.
NOT_MEASURED = re.compile(r"params|not_predicted|paper_row|details|\w*(_predicted|_paper)")


class Statement(BaseModel):
    """What a bundle claims.  rules: their version.  rows: of `frames.frame`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    rules: int = rules.VERSION
    rows: list[dict[str, Any]]


def write(run: Run, file: Path) -> None:
    """Packs a run with its evaluations.  Raises UsageError for one that cannot be a bundle."""
    folder = run.folder
    if folder is None or not any(record.ok for record in run.records) or run.complaints:
        why = run.complaints[0] if run.complaints else "nothing was measured"
        raise UsageError(f"{folder or run.sweep.name}: {why}; a bundle needs a run's records whole")
    with tempfile.TemporaryDirectory() as aside:
        to = Path(aside) / "bundle"
        (to / calibrated.KEPT).mkdir(parents=True)
        for path in (folder / name for name in COPIED):
            if path.exists():
                shutil.copyfile(path, to / path.name)
        write_lines(to / evaluations.FILE, evaluations_of(run))
        for name in records.read_run(folder).get("settings") or {}:
            shutil.copy(calibrated.path_of(name), to / calibrated.KEPT)
        claimed = Statement(rows=figures(load(to)))
        write_json(to / STATEMENT, claimed.model_dump())
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).lstrip("-._") or "bundle"
        (packed,) = archive.pack(archive.files_of(to), name[:100], Path(aside))
        try:
            with atomic_write(file) as part:
                shutil.copyfile(packed, part)
        except OSError as e:
            raise UsageError(f"{file}: cannot be written ({e.strerror})") from None


def evaluations_of(run: Run) -> list[Evaluation]:
    """Those that speak of the run's cases; of its own folder alone, if there are such."""
    hashes = {key: lines[-1].weights_sha256 for key, lines in run.by_key.items()}
    found = [
        e
        for e in run.evaluations
        if (sampled := case_of(e))
        and any(speaks_of(Pair(c, hashes.get(c.key, {}), sampled, e)) for c in run.sweep.cases)
    ]
    return [e for e in found if e.is_in(run.folder)] or found


def load(folder: Path) -> Run:
    """An unpacked bundle as a run, with its own evaluations alone.  Raises UsageError."""
    run = frames.load(folder)
    lines, complaints = evaluations.read(folder / evaluations.FILE)
    newest_first = sorted(lines, key=lambda line: line.evaluated_at, reverse=True)
    return replace(run, evaluations=newest_first, complaints=[*run.complaints, *complaints])


def figures(run: Run) -> list[dict[str, Any]]:
    """The rows of its table, as JSON has them."""
    found: list[dict[str, Any]] = json.loads(printing.to_json(frames.frame(run)))
    return found


# Verifying

#: What is judged, whether it holds (None: it cannot be told), and why.
Finding = tuple[str, bool | None, str]


@dataclass(frozen=True)
class Check:
    """verdict: "passed", "failed" or "cannot be judged"."""

    name: str
    verdict: str
    why: str


@dataclass
class Verified:
    """A bundle that was read.  id: of its contents.  rows: its cases, and what the rules say."""

    name: str
    id: str
    checks: list[Check] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    records: dict[str, list[Record]] = field(default_factory=dict)

    @property
    def failed(self) -> list[Check]:
        """The checks that did."""
        return [check for check in self.checks if check.verdict == "failed"]


@dataclass(frozen=True)
class Opened:
    """A bundle's contents.  rows: of `case_rows.rows_of`."""

    folder: Path
    run: Run
    statement: Statement
    rows: list[Row]

    @property
    def measured(self) -> Iterator[tuple[Row, list[Record]]]:
        """The cases that came to figures, with their records."""
        by_key = self.run.by_key
        for row in self.rows:
            if row["status"] == "ok":
                yield row, by_key[row["case"].key]


def verify(file: Path) -> Verified:
    """Raises UsageError for what is no bundle; all else is a check that failed."""
    manifest = archive.read_manifest(file)
    if STATEMENT not in manifest.files:
        raise UsageError(f"{file}: an archive, but no bundle; `{PROGRAM} bundle` makes one")
    found = Verified(manifest.name, manifest.set[:12])
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) / "bundle"
        try:
            archive.Archive([file]).unpack(folder)
        except UsageError as e:
            found.checks = [Check("hashes", "failed", str(e))]
            return found
        with strangers.reading(folder):
            try:
                opened = opened_in(folder)
            except Exception as e:  # whatever a stranger wrote
                found.checks = [Check("schema", "failed", told(e, folder))]
                return found
            found.checks = [judged(name, check, opened) for name, check in CHECKS.items()]
            if found.failed:
                return found
            try:
                found.rows = [entry(opened, row) for row in opened.rows]
                found.records = opened.run.by_key
            except Exception as e:
                found.checks.append(Check("rules", "failed", told(e, folder)))
    return found


def opened_in(folder: Path) -> Opened:
    """Raises whatever reading it raises."""
    asked = Experiment.model_validate(records.read_run(folder)["experiment"])
    count = 0
    for block in asked.cases:
        count += len(multiply({**asked.defaults, **block}))
        if count > MOST_CASES:
            raise UsageError(f"more than {MOST_CASES:,} cases")
    run = load(folder)
    statement = Statement.model_validate(read_json(folder / STATEMENT))
    return Opened(folder, run, statement, case_rows.rows_of(run))


def told(e: Exception, folder: Path) -> str:
    """What an exception says, without the folder where the bundle was unpacked."""
    kind = "" if isinstance(e, UsageError) else f"{type(e).__name__}: "
    return kind + first_line(e).replace(f"{folder}/", "")


def judged(name: str, check: Callable[[Opened], Iterable[Finding]], opened: Opened) -> Check:
    """One line: what failed, or else how much passed and what could not be judged."""
    try:
        findings = list(check(opened))
    except Exception as e:  # of figures that no run of ours has
        return Check(name, "failed", f"damaged ({told(e, opened.folder)})")
    failed = [f"{what}: {why}" for what, holds, why in findings if holds is False]
    if failed:
        more = f"; and {len(failed) - SHOWN} more" * (len(failed) > SHOWN)
        return Check(name, "failed", "; ".join(failed[:SHOWN]) + more)
    open_ = "; ".join([*dict.fromkeys(why for _, holds, why in findings if holds is None)][:SHOWN])
    passed = sum(holds is True for _, holds, _ in findings)
    if not passed:
        return Check(name, "cannot be judged", open_ or "nothing here to judge")
    return Check(name, "passed", f"{passed} of {len(findings)}" + f"; {open_}" * bool(open_))


def schema(opened: Opened) -> Iterator[Finding]:
    """Every line can be read, and is of the case and the machine that it says."""
    run = opened.run
    yield from ((line.replace(f"{opened.folder}/", ""), False, "") for line in run.complaints)
    planned = {case.key: case for case in run.sweep.cases}
    for line in run.records:
        case = planned.get(line.key)
        own = case and (not is_ours(case) or make_case(line.case).key == line.key)
        alike = own and all(getattr(line, k) == getattr(case, k) for k in ("batch_size", "stack"))
        yield f"{line.method}, round {line.round}", bool(alike), "of no case of this experiment"
        here = line.machine == run.env.get("machine")
        yield f"{line.method}, round {line.round}", here, "of another machine than env.json"


def hashes(opened: Opened) -> Iterator[Finding]:
    """The archive's were checked when it was read; settings are those of the run."""
    yield "files", True, ""
    for name, sha256 in (records.read_run(opened.folder).get("settings") or {}).items():
        kept = opened.folder / calibrated.KEPT / Path(calibrated.path_of(name)).name
        there = hashlib.sha256(kept.read_bytes()).hexdigest()
        yield f"settings {name}", there == sha256, "not those of the run"
        if calibrated.path_of(name).read_bytes() != kept.read_bytes():
            yield name, None, f"{name} has other settings in this version"


def follows(opened: Opened) -> Iterator[Finding]:
    """Every figure claimed is that of the raw samples, and FID's intervals of their replicates."""
    for claimed, now in zip(opened.statement.rows, figures(opened.run), strict=True):
        stated = (key for key in claimed if not NOT_MEASURED.fullmatch(key))
        wrong = [key for key in stated if not same(claimed[key], now.get(key))]
        words = [f"{key} {claimed[key]}, but samples say {now.get(key)}" for key in wrong]
        yield str(now["name"]), not wrong, ", ".join(words[:SHOWN])
    for e in opened.run.evaluations:
        replicates = (e.against or {}).get("difference_replicates", {}).get("fid")
        if e.against and replicates:
            apart = e.metrics["fid"] - e.against["metrics"]["fid"]
            span = [*jackknife.interval(apart, replicates)]
            claims = [e.against["differences"]["fid"], *e.against["difference_intervals"]["fid"]]
            yield str(e.label), same(claims, [apart, *span]), "FID's difference is another"
        for own in opened.run.evaluations:
            if e.against and own.samples_sha256 == e.against.get("samples_sha256"):
                alike = same(own.metrics.get("fid"), e.against["metrics"].get("fid"))
                yield str(e.label), alike, "its baseline's FID is another"


def same(one: Any, other: Any) -> bool:
    """Alike, numbers but for their last digits, which versions of libraries change."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)
    return bool(one == other)


def as_predicted(opened: Opened) -> Iterator[Finding]:
    """Memory, and the FLOPs that were predicted there, are those that shapes give here."""
    for row, lines in opened.measured:
        if not is_ours(row["case"]):
            yield row["name"], None, "a plugin's methods have no prediction"
            continue
        try:
            now = predict(row["case"]).figures()
        except UsageError as e:
            yield row["name"], None, str(e)
            continue
        for line in lines:
            assert line.memory is not None
            differs = memory_differs(line.memory, now, line.device)
            if line.torch != torch.__version__ and all(d.startswith("running") for d in differs):
                differs = []  # what a kernel needs beside its result is the version's
            there = line.predicted.flops if line.predicted else 0
            if there != now.flops:
                differs.append(f"{there:,} FLOPs, not {now.flops:,}")
            yield row["name"], not differs, ", ".join(differs)


def paired(opened: Opened) -> Iterator[Finding]:
    """Every speed-up is of turns with its baseline, in every round."""
    for row, lines in opened.measured:
        base = opened.run.sweep.baseline_case(row["case"])
        if base is None:
            yield row["name"], None, "no baseline"
        elif base.key != row["case"].key and "speedup" in row:
            turns = [summary.paired_ratios(line.paired, {base.key}) for line in lines]
            yield row["name"], all(turns), "a round without turns with its baseline"


def alike(opened: Opened) -> Iterator[Finding]:
    """Quality and speed are of the same weights and settings, its own and its baseline's."""
    run = opened.run
    for row, lines in opened.measured:
        quality = run.quality.by_key.get(row["case"].key)
        base = run.sweep.baseline_case(row["case"])
        if quality is None:
            yield row["name"], None, "no quality"
            continue
        differs = next(filter(None, quality.differs.values()), "")
        yield row["name"], not differs, differs
        if quality.against and base:
            sampled = make_case(quality.against["case"])
            theirs = quality.against["weights_sha256"] or {}
            mine = run.by_key.get(base.key, lines)[-1].weights_sha256
            right = method_and_size(sampled) == method_and_size(base)
            right = right and all(theirs.get(name, sha) == sha for name, sha in mine.items())
            yield row["name"], right, "its images were compared with another baseline's"


def controlled(opened: Opened) -> Iterator[Finding]:
    """What leaves something out has its controls beside it (`bench.study.savings`)."""
    by_key, sweep = opened.run.by_key, opened.run.sweep
    for row, _ in opened.measured:
        case = row["case"]
        if isinstance(case, VARCase) and case.key not in sweep.controls:
            wanted = [make_case(values) for values in savings.controls(case)]
            lines = {one.label: by_key.get(one.key, []) for one in wanted}
            lacking = [name for name, own in lines.items() if not is_result(own)]
            if wanted:
                yield row["name"], not lacking, f"lacks its control {', '.join(lacking)}"


def is_result(lines: list[Record]) -> bool:
    """Whether a case was measured, or found not to fit."""
    return bool(lines) and not any(line.status in FAILED for line in lines)


def undisturbed(opened: Opened) -> Iterator[Finding]:
    """Nothing else ran, and no time is shorter than the machine can be."""
    top = ceilings.load(opened.folder)
    for row, lines in opened.measured:
        for line in lines:
            why = why_invalid(line, top) if is_ours(row["case"]) else why_invalid(line)
            yield row["name"], not why, why


CHECKS: dict[str, Callable[[Opened], Iterable[Finding]]] = {
    "schema": schema,
    "hashes": hashes,
    "figures follow from raw samples": follows,
    "memory and FLOPs as predicted": as_predicted,
    "measured undisturbed": undisturbed,
    "speed-ups are paired": paired,
    "quality and speed of one model": alike,
    "controls are there": controlled,
}


# What it says


def entry(opened: Opened, row: Row) -> Row:
    """A case's figures and what the rules say of them, all but the case itself: nothing of a
    stranger's but text and numbers.  Of a plugin's case no prediction."""
    run, case = opened.run, row["case"]
    quality, base = run.quality.by_key.get(case.key), run.sweep.baseline_case(case)
    lines = run.by_key.get(case.key, [])
    of_base = run.by_key.get(base.key, []) if base else []
    against = quality.against if quality and not quality.differs.get("fid") else {}
    images = quality.images.get("fid", 0) if quality else 0
    is_base = base is not None and base.key == case.key
    span, why = rules.speedup_interval(row), rules.why_not(row, against, images)
    found = {**row, "device_name": run.device_name, "plugin": not is_ours(case)}
    found["division"] = "baseline" if is_base else "not told"
    if lines and of_base and not is_base:
        found["division"] = rules.division(lines[-1], of_base[-1])
    found |= {"speedup_99": span} if span else {}
    found |= {"why_not": "" if is_base else why}
    found["gates"] = [] if is_base or why else rules.gates(against, images)
    found["quality_by"] = run.quality.how.get("fid", "")
    dropped = r"case|params|\w*_predicted" if found["plugin"] else "case"
    kept = {name: value for name, value in found.items() if not re.fullmatch(dropped, name)}
    return kept | {"key": case.key}


def printed(found: Verified) -> printing.Printed:
    """A line for each check, and for each case whether its speed-up counts."""
    checks = pd.DataFrame([vars(check) for check in found.checks])
    checks.columns = ["check", "verdict", "why"]
    rows = [
        {
            "case": row["name"] + " (plugin)" * row["plugin"],
            "batch": row["batch_size"],
            "division": row["division"],
            "speed-up": f"{row['speedup']:.2f}x" if "speedup" in row else "",
            "99 %": "{:.2f} to {:.2f}".format(*span) if (span := row.get("speedup_99")) else "",
            "counts at": ", ".join(row["gates"]) or row["why_not"],
        }
        for row in found.rows
    ]
    text = pd.DataFrame(rows)
    notes = [f"By version {rules.VERSION} of the rules, docs/guide/rules.md."]
    more = [printing.Printed("What counts", text, text, notes)] if rows else []
    return printing.Printed(f"Bundle {found.name} ({found.id})", checks, checks, [], more)
