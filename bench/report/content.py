"""What the page says of runs: the one thing that matters, tables, figures, what to mistrust.

Runs of one experiment, say of several machines, make one group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bench.figures import figure5
from bench.report import embed, grids, marks
from bench.report.embed import Panel
from bench.report.grids import Grid, value
from bench.study import experiment, papers
from bench.study.errors import UsageError
from bench.study.records import Record
from bench.tables import case_rows, profile, tables
from bench.tables.frames import Run

Row = dict[str, Any]


@dataclass(frozen=True)
class Tile:
    """A figure beside the headline."""

    heading: str
    text: str
    detail: str


@dataclass(frozen=True)
class Headline:
    """How much faster, on what machine, how sure.

    sure: "firm" (an interval above 1, nothing marked), "marked" (an interval, but something was
    marked) or "rough" (no interval).
    """

    text: str
    where: str
    sure: str
    why: str
    speedup: float
    tiles: list[Tile]
    row: Row


@dataclass
class Group:
    """The runs of one experiment."""

    id: str
    title: str
    runs: list[Run]
    headline: Headline | None
    table: Grid
    more: list[Grid]
    panels: list[Panel]
    cautions: Grid | None
    random: bool


def groups(runs: Sequence[Run]) -> list[Group]:
    """Raises UsageError for a run without records."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        check(run)
        by_name.setdefault(run.sweep.name, []).append(run)
    return [group(f"g{i}", named(same)) for i, same in enumerate(by_name.values(), 1)]


def named(runs: Sequence[Run]) -> list[Run]:
    """Several runs of one machine told apart: by their folders, in the machine's name."""
    machines = Counter(tables.machine_of(run) for run in runs)
    return [
        replace(run, env=run.env | {"machine": f"{machine} {run.folder.name}".strip()})
        if machines[machine := tables.machine_of(run)] > 1 and run.folder
        else run
        for run in runs
    ]


def check(run: Run) -> None:
    where = run.folder or run.sweep.name
    if not run.records:
        why = (
            f"no record can be read, {run.complaints[0]}" if run.complaints else "nothing measured"
        )
        raise UsageError(f"{where}: {why}; `bench.py run {run.sweep.name}` measures it")


def group(id: str, runs: list[Run]) -> Group:
    printed = tables.measured(*runs)
    parts = [rows_of(run) for run in runs]
    rows = [row for part in parts for row in part]
    title = runs[0].sweep.experiment.title
    bases = [
        case_rows.baseline_name(run, run_rows) for run, run_rows in zip(runs, parts, strict=True)
    ]
    base = (bases[0] if len(set(bases)) == 1 else "the baseline") if all(bases) else None
    head = headline(rows, base)
    further = [*printed.more, *(table for run in runs for table in profile.tables_of(run))]
    more = [
        grids.of_text(f"{id}-more{i}", part.title, part.text, part.notes)
        for i, part in enumerate(further)
    ]
    return Group(
        id=id,
        title=title,
        runs=runs,
        headline=head,
        table=grids.of_frame(f"{id}-table", title, printed.data, in_columns(printed.notes)),
        more=more,
        panels=embed.panels_of(id, runs, [tables.machine_of(run) for run in runs]),
        cautions=cautions(id, rows, runs),
        random="seeded" in {row["weights"] for row in rows},
    )


def in_columns(notes: Sequence[str]) -> list[str]:
    """A printed table has the paper in brackets, the page has it in columns."""
    return [note.replace("In brackets: the paper", "Paper: quoted") for note in notes]


# Rows


def rows_of(run: Run) -> list[Row]:
    """`case_rows.rows_of` with what the page needs besides."""
    rows = case_rows.rows_of(run)
    paper = run.sweep.experiment.paper
    quotable = paper is None or papers.load(paper).about.paper == "VARiant"
    variants = quotable and any(row["case"].method == "variant" for row in rows)
    machine = tables.machine_of(run)
    for row in rows:
        case = row["case"]
        row |= {"key": f"{machine}/{case.key}", "machine": machine}
        row["device_name"] = run.device_name
        if variants and (fid := table8_fid(row)) is not None:
            row |= {"fid_paper": fid, "fid_from": "quoted from VARiant, Table 8"}
        base = run.sweep.baseline_case(case)
        row["baseline_key"] = f"{machine}/{base.key}" if base else None
    return rows


def table8_fid(row: Row) -> float | None:
    """The paper's FID of that VARiant, or VAR, of depth 30, where the row quotes none."""
    case = row["case"]
    if (
        getattr(case, "depth", 0) != 30
        or value(row, "fid") is not None
        or value(row, "fid_paper") is not None
    ):
        return None
    if case.method == "variant":
        return figure5.printed_fid().get((case.subnet_depth, case.bridge_scales))
    return figure5.printed_fid().get((30, 10)) if case.method == "var" else None


# The one thing that matters


def headline(rows: Sequence[Row], baseline: str | None) -> Headline | None:
    """Of the method that is faster than its baseline by most, of those that are sure."""
    by_key = {row["key"]: row for row in rows}
    raced = [
        row
        for row in rows
        if "speedup" in row
        and row["baseline_key"] != row["key"]
        and all("latency_s" in side for side in (row, by_key.get(row["baseline_key"], {})))
    ]
    if not raced:
        return None
    # that a smaller VAR is faster is no news
    raced = [row for row in raced if row["case"].method != "var"] or raced
    order = ("rough", "marked", "firm")

    def rank(row: Row) -> tuple[bool, int, float]:
        sure = sureness(row, by_key.get(row["baseline_key"]))[0]
        return row["speedup"] > 1, order.index(sure), row["speedup"]

    best = max(raced, key=rank)
    base = by_key[best["baseline_key"]]
    sure, why = sureness(best, base)
    over = base["method"] if base["method"] != best["method"] else str(baseline)
    times = best["speedup"]
    if times > 1:
        text = f"{best['method']} decodes {times:.2f} times as fast as {over}"
    else:
        nearest = f"{best['method']} is nearest, at {times:.2f} times its speed"
        text = f"Nothing was faster than {over}: {nearest}"
    how = f"batch {best['batch_size']}, {best['precision']}, {best['stack']} stack"
    where = f"{best['device_name']}, {how}"
    return Headline(text, where, sure, why, times, tiles(best, base), best)


def sureness(row: Row, base: Row | None) -> tuple[str, str]:
    """How sure a speed-up is, and why."""
    rounds = f"{row['rounds']:.0f} round{'s' * (row['rounds'] != 1)}"
    if value(row, "speedup_low") is None:
        return "rough", f"From {rounds}, without an interval: a look, not a measurement."
    span = f"95 % interval {row['speedup_low']:.2f} to {row['speedup_high']:.2f}"
    how = {"paired": "in turn with its baseline in one process", "interleaved": "interleaved"}
    told = f"{span}, from {rounds}, {how.get(row['speedup_by'], row['speedup_by'])}"
    doubts = [
        f"{each['method']}: {mark.text}"
        for each in (row, base)
        if each
        for mark in marks.marks(each)
        if mark.kind in ("noisy", "throttled", "not comparable")
    ]
    if row["speedup_low"] <= 1 <= row["speedup_high"]:
        doubts.insert(0, "the interval holds 1, so no difference is shown")
    if doubts:
        return "marked", f"{told}. But {'; '.join(dict.fromkeys(doubts))}."
    return "firm", f"{told}. Nothing was marked."


def tiles(best: Row, base: Row) -> list[Tile]:
    """What else a reader asks: seconds, memory, quality."""
    found = [
        Tile(
            "Latency of a batch (s)",
            f"{best['latency_s']:.3g}",
            f"{base['method']} takes {base['latency_s']:.3g}",
        ),
        Tile(
            "Images a second",
            f"{best['throughput_img_s']:.3g}",
            f"{base['method']} makes {base['throughput_img_s']:.3g}",
        ),
    ]
    change = best["total_mib"] / base["total_mib"] - 1
    much = f"{abs(change):.0%} {'less' if change < 0 else 'more'} than"
    less = f"{much if abs(change) >= 0.005 else 'as much as'} {base['method']}"
    found.append(Tile("Peak memory (MiB)", f"{best['total_mib']:,.0f}", less))
    if value(best, "fid") is not None:
        against = f"{base['method']} has {base['fid']:.2f}" if value(base, "fid") else "measured"
        found.append(Tile("FID", f"{best['fid']:.2f}", against))
    elif value(best, "fid_paper") is not None:
        found.append(
            Tile("FID, quoted", f"{best['fid_paper']}", "from the paper, not measured here")
        )
    elif best["weights"] == "seeded":
        found.append(Tile("Quality", "not measured", "the weights are random, from a seed"))
    return found


# What to mistrust


def cautions(id: str, rows: Sequence[Row], runs: Sequence[Run]) -> Grid | None:
    """A line for all cases that are marked for the same reason."""
    named = [
        name
        for name in ("batch_size", "stack", "precision", "machine")
        if len({row[name] for row in rows}) > 1
    ]
    cases: dict[tuple[str, str], list[str]] = {}

    def add(kind: str, text: str, case: str) -> None:
        cases.setdefault((kind, text), []).append(case)

    for row in rows:
        for mark in marks.marks(row):
            add(mark.kind, mark.text, marks.label(row, named))
    for run in runs:
        for record, mark in marks.of_records(run.records):
            add(mark.kind, mark.text, marks.label(vars(record), named))
        for complaint in run.complaints:
            add("unreadable", complaint, "a line of the records")
        if run.env.get("dirty"):
            where = str(run.folder or run.sweep.name)
            add("not comparable", "the tree had changes that its commit does not show", where)
    order = sorted(cases, key=lambda line: marks.KINDS.index(line[0]))
    lines = [
        (kind, text, len(names), "all" if len(names) == len(rows) > 1 else "; ".join(names))
        for kind, text in order
        if (names := cases[kind, text])
    ]
    text = pd.DataFrame(lines, columns=["what", "why", "cases", "which"])
    return grids.of_text(f"{id}-cautions", "What to mistrust", text) if lines else None


# The papers


def spoken_to(runs: Sequence[Run]) -> list[Grid]:
    """Tables of the papers that these runs measured cases of, though they were run for another
    experiment: these cases, and the paper's further rows."""
    own = {run.sweep.name for run in runs}
    found = []
    for name in experiment.names():
        if name in own or experiment.load(name).experiment.paper is None:
            continue
        parts = [part for same in by_machine(runs) if (part := measured_of(name, same))]
        if parts:
            printed = tables.measured(*parts)
            notes = ["Only cases that the runs above measured.", *in_columns(printed.notes)]
            found.append(grids.of_frame(f"also-{name}", printed.title, printed.data, notes))
    return found


def by_machine(runs: Sequence[Run]) -> list[list[Run]]:
    found: dict[tuple[str, Any], list[Run]] = {}
    for run in runs:
        found.setdefault((tables.machine_of(run), run.sweep.device), []).append(run)
    return [*found.values()]


def measured_of(name: str, runs: Sequence[Run]) -> Run | None:
    """An experiment's cases that these runs of one machine measured, each from the first that
    did."""
    sweep = experiment.load(name, device=runs[0].sweep.device)
    lines: dict[str, list[Record]] = {}
    for run in runs:
        for key, rounds in run.by_key.items():
            if all(record.ok for record in rounds):
                lines.setdefault(key, rounds)
    sweep.cases = [case for case in sweep.cases if case.key in lines]
    kept = [record for case in sweep.cases for record in lines[case.key]]
    return Run(sweep, kept, [], runs[0].env, runs[0].folder) if kept else None


def quoted(shown: set[str]) -> list[Grid]:
    """The papers' other tables, as printed there."""
    found = []
    for table in map(papers.load, papers.names()):
        if table.name in shown:
            continue
        rows = [{**dict(row.keys), **{v.metric: v.text for v in row.values}} for row in table.rows]
        text = pd.DataFrame(rows).fillna("")
        text.columns = [str(column).replace("_", " ") for column in text.columns]
        found.append(grids.of_text(f"quoted-{table.name}", table.about.title, text))
    return found


def papers_shown(runs: Sequence[Run], also: Sequence[Grid]) -> set[str]:
    named = {run.sweep.experiment.paper for run in runs}
    named |= {experiment.load(grid.id.removeprefix("also-")).experiment.paper for grid in also}
    return {name for name in named if name}


def machines(runs: Sequence[Run]) -> Grid:
    """A column for each run."""
    columns: dict[str, dict[str, str]] = {}
    for run in runs:
        where = str(run.folder or run.sweep.name)
        told = tables.environment({"gpus": [], **run.env}).text if run.env else None
        columns[where] = {} if told is None else dict(told.itertuples(index=False))
    names = dict.fromkeys(name for told in columns.values() for name in told)
    rows = [[name, *(told.get(name, "-") for told in columns.values())] for name in names]
    return grids.of_text("machine", "Machine", pd.DataFrame(rows, columns=["what", *columns]))
