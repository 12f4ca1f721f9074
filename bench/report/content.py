"""The page of runs: the one thing that matters, tables, figures, what to mistrust.

Runs of one experiment, say of several machines, make one section.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bench.quality.images import open_images
from bench.quality.sample_set import FILE
from bench.report import embed, marks, pictures
from bench.report.sections import (
    Figures,
    Note,
    Page,
    Section,
    Table,
    Tile,
    folded,
    table_of_cases,
    table_of_text,
)
from bench.study import experiment, papers
from bench.study.columns import format_figure
from bench.study.errors import UsageError
from bench.study.names import is_finetuned, is_training_free, trained_as
from bench.study.records import Record
from bench.tables import case_rows, profile, tables
from bench.tables.frames import Run

Row = dict[str, Any]
NO_SPEEDUP = "These runs show no speed-up: no case was measured together with its baseline."
NOT_MARKED = (
    "Nothing was marked: no noise, no throttling, no failure, no memory that differs from its "
    "prediction."
)
SURENESS = ("rough", "marked", "firm")
#: FID over the baseline's that a headline speed-up may cost, where another case keeps to it.
MOST_LOSS = 0.1


@dataclass(frozen=True)
class Headline:
    """How much faster, at what loss of quality, on what machine, how sure.

    loss: FID over the baseline's less one, None where it is not known.
    sure: "firm" (an interval above 1, nothing marked), "marked" (an interval, but something was
    marked) or "rough" (no interval).
    """

    text: str
    where: str
    sure: str
    why: str
    speedup: float
    tiles: list[Tile]
    loss: float | None = None

    @property
    def rank(self) -> tuple[bool, bool, float, int, float]:
        """One that keeps its quality goes before one of which it is unknown, and that before one
        that loses more, the less the better; then a surer speed-up before a larger one."""
        kept = self.loss is not None and self.loss <= MOST_LOSS
        lost = 0 if kept or self.loss is None else self.loss
        return self.speedup > 1, kept, -lost, SURENESS.index(self.sure), self.speedup

    @property
    def notes(self) -> list[Note]:
        """On what machine, and how sure."""
        return [Note(self.where), Note(self.why, self.sure)]


@dataclass(frozen=True)
class Group:
    """The runs of one experiment."""

    id: str
    title: str
    headline: Headline | None
    figures: Figures
    table: Table
    cautions: Table | None
    more: list[Table]

    @property
    def parts(self) -> list[Table | Figures | Note]:
        """What its section holds."""
        doubts = self.cautions or Note(NOT_MARKED)
        return [*([self.figures] if self.figures.panels else []), self.table, doubts, *self.more]


def page(runs: Sequence[Run], samples: Sequence[Path] = ()) -> Page:
    """Raises UsageError for a run without records, and samples that cannot be read.  Without
    samples those in the runs' own folders are shown, as far as they can be read."""
    samples = samples or [path for run in runs for path in own_samples(run)]
    found, also = groups(runs), spoken_to(runs)
    best = max((g.headline for g in found if g.headline), key=lambda h: h.rank, default=None)
    sections = []
    for group in found:
        head = group.headline if group.headline is not best else None
        lead = [Note(f"{head.text}. {head.where}."), Note(head.why, head.sure)] if head else []
        sections.append(Section(group.id, group.title, [*lead, *group.parts]))
    sections += [pictures.section(samples)] if samples else []
    if also:
        sections.append(
            Section("also", "Further tables that these runs speak to", [*also.values()])
        )
    shown = {run.sweep.experiment.paper for run in runs}
    shown |= {experiment.load(name).experiment.paper for name in also}
    printed = Note("As printed there; these runs measured none of it.")
    sections.append(Section("machines", "Machine", [machines(runs)]))
    sections.append(Section("quoted", "The papers' other tables", [printed, *quoted(shown)]))
    if best is None:
        titles = " and ".join(group.title.partition(":")[0] for group in found)
        return Page("report", titles, [Note(NO_SPEEDUP)], sections)
    return Page("report", best.text, best.notes, sections, f"{best.speedup:.2f}", best.tiles)


def own_samples(run: Run) -> list[Path]:
    """The sample sets that `reproduce` left in the run's folder, in the order of its cases."""
    labels, found = [case.label for case in run.sweep.cases], []
    for file in sorted(run.folder.glob(f"samples/*/{FILE}")) if run.folder else []:
        with suppress(UsageError):
            label = open_images(file.parent).manifest["label"]
            found.append((labels.index(label) if label in labels else len(labels), file.parent))
    return [path for _, path in sorted(found)]


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
    """Raises UsageError for a run without records."""
    where = run.folder or run.sweep.name
    if not run.records:
        why = (
            f"no record can be read, {run.complaints[0]}" if run.complaints else "nothing measured"
        )
        raise UsageError(f"{where}: {why}; `bench.py run {run.sweep.name}` measures it")


def group(id: str, runs: list[Run]) -> Group:
    """The section of one experiment.  id: what the ids of its figures begin with."""
    printed = tables.measured(*runs, view=tables.View(sections=("main", "how", "scale")))
    title = runs[0].sweep.experiment.title
    parts = [rows_of(run) for run in runs]
    heads = [head for run, rows in zip(runs, parts, strict=True) for head in headlines(run, rows)]
    panels = embed.panels_of(id, runs, [tables.machine_of(run) for run in runs])
    further = [*printed.more, *(table for run in runs for table in profile.tables_of(run))]
    return Group(
        id=id,
        title=title,
        headline=max(heads, key=lambda head: head.rank, default=None),
        figures=Figures(title, panels),
        table=table_of_cases("Measured, the paper's, predicted", printed.data, printed.notes),
        cautions=cautions([row for rows in parts for row in rows], runs),
        more=[folded(part) for part in further],
    )


def rows_of(run: Run) -> list[Row]:
    """`case_rows.rows_of` with the machine's name."""
    return [{**row, "machine": tables.machine_of(run)} for row in case_rows.rows_of(run)]


# The one thing that matters


def headlines(run: Run, rows: Sequence[Row]) -> list[Headline]:
    """One for each case that raced with its baseline; that a smaller VAR is faster is no news."""
    baseline = case_rows.baseline_name(run, rows)
    by_key = {row["case"].key: row for row in rows if "latency_s" in row}
    raced = []
    for row in by_key.values():
        base_case = run.sweep.baseline_case(row["case"])
        base = by_key.get(base_case.key) if base_case else None
        if base and base is not row and "speedup" in row:
            raced.append((row, base))
    raced = [pair for pair in raced if pair[0]["case"].method != "var"] or raced
    return [headline(run, row, base, str(baseline)) for row, base in raced]


def headline(run: Run, row: Row, base: Row, baseline: str) -> Headline:
    """How much faster the row is than its baseline.  baseline: what that is called."""
    method, times = row["method"], row["speedup"]
    over = base["method"] if base["method"] != method else baseline
    if times > 1:
        text = f"{method} decodes {times:.2f} times as fast as {over}"
    else:
        nearest = f"{method} is nearest, at {times:.2f} times its speed"
        text = f"Nothing was faster than {over}: {nearest}"
    loss, quality = quality_loss(row, base)
    how = f"batch {row['batch_size']}, {row['precision']}, {row['stack']} stack"
    if is_training_free(row["case"]) or is_finetuned(row["case"]):
        how += f", {trained_as(row['case'])}"
    sure, why = sureness(row, base)
    where = f"{run.device_name}, {how}"
    return Headline(f"{text}, {quality}", where, sure, why, times, tiles(row, base), loss)


def quality_loss(row: Row, base: Row) -> tuple[float | None, str]:
    """FID over the baseline's less one, and what the headline says of it: measured, or else the
    paper's; None where either has neither."""
    for name, source in {"fid": "", "fid_paper": "the paper's "}.items():
        own, least = (side.get(name) for side in (row, base))
        if isinstance(own, float) and isinstance(least, float):
            loss = own / least - 1
            return loss, f"at {source}FID {own:.2f} against {least:.2f} ({loss:+.0%})"
    return None, "its loss of quality not measured"


def sureness(row: Row, base: Row) -> tuple[str, str]:
    """How sure a speed-up is, and why."""
    rounds = f"{row['rounds']:.0f} round{'s' * (row['rounds'] != 1)}"
    if "speedup_low" not in row:
        return "rough", f"From {rounds}, without an interval: a look, not a measurement."
    span = f"95 % interval {row['speedup_low']:.2f} to {row['speedup_high']:.2f}"
    how = {"paired": "in turn with its baseline in one process", "interleaved": "interleaved"}
    told = f"{span}, from {rounds}, {how.get(row['speedup_by'], row['speedup_by'])}"
    doubts = [
        f"{each['method']}: {mark.text}"
        for each in (row, base)
        for mark in marks.marks(each)
        if mark.kind in ("invalid", "noisy", "throttled", "not comparable")
    ]
    if row["speedup_low"] <= 1 <= row["speedup_high"]:
        doubts.insert(0, "the interval holds 1, so no difference is shown")
    if doubts:
        return "marked", f"{told}. But {'; '.join(dict.fromkeys(doubts))}."
    return "firm", f"{told}. Nothing was marked."


def tiles(row: Row, base: Row) -> list[Tile]:
    """What else a reader asks: seconds, memory, quality."""
    against = f"{base['method']} has "
    shown = {"latency_s": "Latency of a batch (s)", "throughput_img_s": "Images a second",
             "total_mib": "Peak memory (MiB)", "fid": "FID"}  # fmt: skip
    forms = {"total_mib": "{:,.0f}", "fid": "{:.2f}"}
    found = []
    for name, heading in shown.items():
        if name in row:
            value, other = (
                format_figure(forms.get(name, "{:.3g}"), side[name]) if name in side else "none"
                for side in (row, base)
            )
            found.append(Tile(heading, value, against + other))
    if "fid" not in row and "fid_paper" in row:
        where = "from the paper, not measured here"
        found.append(Tile("FID, quoted", f"{row['fid_paper']}", where))
    elif "fid" not in row and row["weights"] == "seeded":
        found.append(Tile("Quality", "not measured", "the weights are random, from a seed"))
    return found


# What to mistrust


def cautions(rows: Sequence[Row], runs: Sequence[Run]) -> Table | None:
    """A line for all cases that are marked for the same reason."""
    keys = ("batch_size", "stack", "precision", "machine")
    telling = [name for name in keys if len({row[name] for row in rows}) > 1]
    cases: dict[tuple[str, str], list[str]] = {}

    def add(kind: str, text: str, case: str) -> None:
        cases.setdefault((kind, text), []).append(case)

    for row in rows:
        for mark in marks.marks(row):
            add(mark.kind, mark.text, label(row, telling))
    for run in runs:
        for record, mark in marks.of_records(run.records):
            add(mark.kind, mark.text, label(vars(record), telling))
        for complaint in run.complaints:
            add("unreadable", complaint, "a line of the records")
        if run.env.get("dirty"):
            where = str(run.folder or run.sweep.name)
            add("not comparable", "the tree had changes that its commit does not show", where)
    lines = [
        (kind, text, len(names), "all" if len(names) == len(rows) > 1 else "; ".join(names))
        for (kind, text), names in sorted(
            cases.items(), key=lambda line: marks.KINDS.index(line[0][0])
        )
    ]
    text = pd.DataFrame(lines, columns=["what", "why", "cases", "which"])
    return table_of_text("What to mistrust", text) if lines else None


def label(row: Row, telling: Sequence[str]) -> str:
    """A case in words.  telling: what else than the method tells it from others."""
    parts = [f"batch {row[n]}" if n == "batch_size" else str(row[n]) for n in telling if n in row]
    return ", ".join([row["method"], *parts])


# The papers


def spoken_to(runs: Sequence[Run]) -> dict[str, Table]:
    """Tables of the papers that these runs measured cases of, though they were run for another
    experiment: these cases, and the paper's further rows.  By experiment."""
    own = {run.sweep.name for run in runs}
    by_machine: dict[tuple[str, Any], list[Run]] = {}
    for run in runs:
        by_machine.setdefault((tables.machine_of(run), run.sweep.device), []).append(run)
    found = {}
    for name in experiment.names():
        if name in own or experiment.load(name).experiment.paper is None:
            continue
        parts = [part for same in by_machine.values() if (part := measured_of(name, same))]
        if parts:
            printed = tables.measured(*parts)
            notes = ["Only cases that the runs above measured.", *printed.notes]
            found[name] = table_of_cases(printed.title, printed.data, notes)
    return found


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


def quoted(shown: set[str | None]) -> list[Table]:
    """The papers' other tables, as printed there."""
    found = []
    for table in map(papers.load, papers.names()):
        if table.name in shown:
            continue
        rows = [{**dict(row.keys), **{v.metric: v.text for v in row.values}} for row in table.rows]
        text = pd.DataFrame(rows).fillna("")
        text.columns = [str(column).replace("_", " ") for column in text.columns]
        found.append(table_of_text(table.about.title, text, folded=True))
    return found


def machines(runs: Sequence[Run]) -> Table:
    """As each run found it: a column for each run."""
    columns: dict[str, dict[str, str]] = {}
    for run in runs:
        told = tables.environment({"gpus": [], **run.env}).text
        columns[str(run.folder or run.sweep.name)] = dict(told.itertuples(index=False))
    text = pd.DataFrame(columns).fillna("-").rename_axis("what").reset_index()
    return table_of_text("Machine", text)
