"""What the page says of runs: the one thing that matters, tables, figures' data, what to mistrust.

Runs of one experiment, say of several machines, make one group.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bench.figures import figure5
from bench.report import grids, marks
from bench.report.grids import Grid, value
from bench.study import experiment, papers
from bench.study.errors import UsageError
from bench.study.storage import Record
from bench.tables import case_rows, summary, tables
from bench.tables.frames import Run

Row = dict[str, Any]
PARTS = 10  # a figure by scale shows no more; a method of more steps is drawn in tenths
DIGITS = 5  # of a raw sample
ROOM = 150_000  # raw samples on a page: 1.5 MB
HERE = "measured here"
TRADES = [("latency_s", "fid"), ("total_mib", "fid"), ("latency_s", "total_mib")]
NAME_APART = 1.25  # from each other on a logarithmic axis, of names that do not touch
OTHERS = ("DiT", "MAR", "LlamaGen", "AiM")


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
    """The runs of one experiment.  rows, scales, parts, tradeoff, raw: what figures are drawn
    from."""

    id: str
    title: str
    runs: list[Run]
    headline: Headline | None
    table: Grid
    more: list[Grid]
    rows: list[Row]
    scales: list[Row]
    parts: list[Row]
    tradeoff: list[Row]
    raw: dict[str, Row]
    cautions: Grid | None
    baseline: str | None
    random: bool
    shown: Row  # the headline's batch size, stack and machine, which figures show first


def groups(runs: Sequence[Run]) -> list[Group]:
    """Raises UsageError for a run without records, or with one that is damaged."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        check(run)
        by_name.setdefault(run.sweep.name, []).append(run)
    every = thinning(runs)
    return [group(f"g{i}", named(same), every) for i, same in enumerate(by_name.values(), 1)]


def named(runs: Sequence[Run]) -> list[Run]:
    """Several runs of one machine told apart: by their folders, in the machine's name."""
    machines = Counter(tables.machine_of(run) for run in runs)
    return [
        replace(run, env=run.env | {"machine": f"{machine} {run.folder.name}".strip()})
        if machines[machine := tables.machine_of(run)] > 1 and run.folder
        else run
        for run in runs
    ]


def first_shown(rows: Sequence[Row], head: Headline | None) -> Row:
    """Where there is no headline, the batch size that most cases were measured at."""
    batches = Counter(row["batch_size"] for row in rows if "latency_s" in row)
    common = max(batches, key=lambda size: (batches[size], size == 64), default=None)
    row = head.row if head else next((r for r in rows if r["batch_size"] == common), rows[0])
    return {"batch": int(row["batch_size"]), "stack": row["stack"], "machine": row["machine"]}


def check(run: Run) -> None:
    where = run.folder or run.sweep.name
    if not run.records:
        why = (
            f"no record can be read, {run.complaints[0]}" if run.complaints else "nothing measured"
        )
        raise UsageError(f"{where}: {why}; `bench.py run {run.sweep.name}` measures it")
    for key, lines in run.by_key.items():
        try:
            found = summary.measured(lines)
            if found["status"] == "ok":
                [found[f"{part}_mib"] for part in tables.PARTS]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
            raise UsageError(f"{where}: record {key} is damaged ({e!r})") from None


def group(id: str, runs: list[Run], every: int) -> Group:
    printed = tables.measured(*runs)
    parts = [rows_of(run) for run in runs]
    rows = [row for part in parts for row in part]
    title = runs[0].sweep.experiment.title
    bases = [
        case_rows.baseline_name(run, run_rows) for run, run_rows in zip(runs, parts, strict=True)
    ]
    base = (bases[0] if len(set(bases)) == 1 else "the baseline") if all(bases) else None
    head = headline(rows, base)
    more = [
        grids.of_text(f"{id}-more{i}", part.title, part.text, part.notes)
        for i, part in enumerate(printed.more)
    ]
    return Group(
        id=id,
        title=title,
        runs=runs,
        headline=head,
        table=grids.of_frame(f"{id}-table", title, printed.data, in_columns(printed.notes)),
        more=more,
        rows=with_oom([plain(row) for row in rows]),
        scales=[part for row in rows for part in by_scale(row)],
        parts=[part for row in rows for part in by_part(row)],
        tradeoff=tradeoff(rows, runs[0].sweep.experiment.paper),
        raw={
            k: v
            for run, own in zip(runs, parts, strict=True)
            for k, v in raw(run, own, every).items()
        },
        cautions=cautions(id, rows, runs),
        baseline=base,
        random="seeded" in {row["weights"] for row in rows},
        shown=first_shown(rows, head),
    )


def in_columns(notes: Sequence[str]) -> list[str]:
    """A printed table has the paper in brackets, the page has it in columns."""
    return [note.replace("In brackets: the paper", "Paper: quoted") for note in notes]


# Rows


def rows_of(run: Run) -> list[Row]:
    """`pages.rows_of` with what figures need besides."""
    rows = case_rows.rows_of(run)
    paper = run.sweep.experiment.paper
    quotable = paper is None or papers.load(paper).about.paper == "VARiant"
    variants = quotable and any(row["case"].method == "variant" for row in rows)
    machine = tables.machine_of(run)
    for row in rows:
        case = row["case"]
        scales_of_large = getattr(case, "draft_steps", getattr(case, "bridge_scales", None))
        row |= {"key": f"{machine}/{case.key}", "machine": machine, "family": family(row["method"])}
        row["device_name"] = run.device_name
        if scales_of_large is not None and case.method in ("code", "variant", "code_variant"):
            row["n"] = scales_of_large
            row["configuration"] = row["name"].replace(f" N={scales_of_large}", "")
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


def family(method: str) -> str:
    for name in ("CoDe", "VARiant", *OTHERS, "VAR"):
        if name in method:
            return "others" if name in OTHERS else name
    return "others"


# What of a row figures are drawn from.
KEPT = (
    *("key", "name", "family", "machine", "stack", "n", "configuration", "status"),
    *("latency_s", "latency_s_paper", "throughput_img_s"),
    *("speedup", "speedup_low", "speedup_high", "speedup_by", "speedup_paper"),
    *("total_mib", "total_mib_predicted", "kv_cache_mib", "fid", "fid_paper"),
)


def plain(row: Row) -> Row:
    """What figures draw of a row, in JSON's types."""
    found = {name: rounded(row[name]) for name in KEPT if value(row, name) is not None}
    if "fid" in found or "fid_paper" in found:
        quoted = row.get("fid_from", "quoted from the paper")
        found["fid_by"] = "measured" if "fid" in found else quoted
        found["fid"] = found.get("fid", found.get("fid_paper"))
    if "speedup_by" in found:
        about = "~" if found["speedup_by"] in summary.ROUGH else ""
        found["label"] = f"{about}{found['speedup']:.2f}x"
    return found | {"batch": int(row["batch_size"])}


def with_oom(rows: list[Row]) -> list[Row]:
    """oom: a number for each method that ran out of memory, where it did."""
    lost = [row for row in rows if row.get("status") == "oom"]
    names = list(dict.fromkeys(row["name"] for row in lost))
    for row in lost:
        row["oom"] = names.index(row["name"])
    return rows


def rounded(number: Any) -> Any:
    """To what a figure can show."""
    if isinstance(number, bool | str) or number is None:
        return number
    if isinstance(number, list):
        return [rounded(part) for part in number]
    number = float(number)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.{DIGITS}g}")


def by_scale(row: Row) -> list[Row]:
    """A row for each scale; for each tenth of the steps where a method has more than ten."""
    measured = "scale_latency_s" in row and "extrapolated" not in row
    ending = "" if measured else "_predicted"
    gflops = row["gflops_by_scale_predicted"]
    spans = np.array_split(np.arange(len(gflops)), min(PARTS, len(gflops)))
    found = []
    for k, span in enumerate(spans, 1):
        first, last = int(span[0]), int(span[-1]) + 1

        def most(name: str, less: float, first: int = first, last: int = last) -> float | None:
            values = row.get(f"{name}_by_scale_mib{ending}")
            return None if values is None else rounded(max(values[first:last]) - less)

        weights = row[f"params_mib{ending}"]
        many = len(gflops) > PARTS
        found.append(
            {
                **{name: row[name] for name in ("key", "name", "machine", "stack")},
                "batch": int(row["batch_size"]),
                "scale": k,
                "what": f"steps {first + 1} to {last}" if many else f"scale {k}",
                "by": "measured" if measured else "predicted",
                "ms": rounded(1000 * sum(row["scale_latency_s"][first:last])) if measured else None,
                "gflop": rounded(sum(gflops[first:last])),
                "kv_mib": most("kv_cache", 0),
                "peak_mib": most("peak", weights),
                "live_mib": most("live", weights),
            }
        )
    return found


def by_part(row: Row) -> list[Row]:
    """Memory in the papers' three parts; as predicted where it was not measured."""
    ending = "" if "total_mib" in row else "_predicted"
    names = {"params": "parameters", "kv_cache": "KV cache", "running": "running"}
    return [
        {
            **{name: row[name] for name in ("key", "name", "machine", "stack")},
            "batch": int(row["batch_size"]),
            "part": name,
            "order": order,
            "mib": rounded(row[f"{part}_mib{ending}"]),
            "predicted_mib": rounded(row["total_mib_predicted"]),
            "by": "predicted" if ending else "measured",
        }
        for order, (part, name) in enumerate(names.items())
    ]


def tradeoff(rows: Sequence[Row], paper: str | None) -> list[Row]:
    """Cost and quality of each method here, and of each row of the paper's table."""
    names = ("latency_s", "total_mib", "fid", "throughput_img_s")
    here = []
    for row in rows:
        known = plain(row)
        if "latency_s" not in known:
            continue
        kept = ("key", "name", "family", "machine", "stack", "batch", "fid_by", *names)
        here.append({name: known[name] for name in kept if name in known} | {"by": HERE})
    theirs = []
    for printed in papers.load(paper).rows if paper else []:
        columns = printed.columns
        figures = {
            name: found
            for name in names
            if isinstance(found := columns.get(f"{name}_paper"), float)
        }
        batch = f", batch {columns['batch_size_paper']}" if "batch_size_paper" in columns else ""
        about = {"name": printed.label + batch, "family": family(printed.label)}
        quoted = {"by": "the paper, on its machine", "fid_by": "quoted from the paper"}
        theirs.append({**about, **figures, **quoted})
    found = here + theirs
    for x, y in TRADES:
        best = front(found, x, y)
        for row in best:
            row[f"front_{x}_{y}"] = True
        for row in apart(best, x):
            row[f"label_{x}_{y}"] = row["name"]
    return found


def front(rows: Sequence[Row], x: str, y: str) -> list[Row]:
    """The Pareto-best: no other row is as good in both and better in one.  Only rows that were
    measured alike, and whose FIDs have one source, are held against each other."""
    known = [row for row in rows if row.get(x) is not None and row.get(y) is not None]

    def beats(other: Row, row: Row) -> bool:
        same = alike(other) == alike(row) and (y != "fid" or other["fid_by"] == row["fid_by"])
        both = other[x] <= row[x] and other[y] <= row[y]
        return same and both and (other[x], other[y]) != (row[x], row[y])

    return [row for row in known if not any(beats(other, row) for other in known)]


def alike(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("by", "batch", "stack", "machine"))


def apart(rows: Sequence[Row], x: str) -> list[Row]:
    """Rows far enough from each other that their names, written at them, do not touch."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: row[x]):
        near = [other for other in found if alike(other) == alike(row)]
        if all(row[x] > NAME_APART * other[x] for other in near):
            found.append(row)
    return found


def raw(run: Run, rows: Sequence[Row], every: int) -> dict[str, Row]:
    """Each case's samples, round by round; of many, every so many-th.

    rows: the run's, of `rows_of`.
    """
    found: dict[str, Row] = {}
    names = ("batch_size", "stack", "precision", "machine")
    for row in rows:
        lines = [line for line in run.by_key.get(row["case"].key, []) if line["status"] == "ok"]
        if lines:
            rounds = [round_of(line, every) for line in lines]
            named = marks.label(row | {"method": row["name"]}, names).removesuffix(", ")
            found[row["key"]] = {"name": named, "rounds": rounds}
    return found


def round_of(line: Record, every: int) -> Row:
    """The samples of a record, by kind; those of steps in tenths, where there are more than ten."""
    taken, pairs = line["samples"], line.get("paired") or {}
    kinds = {
        "latency": taken["latency_s"],
        "vqvae": taken["vqvae_latency_s"],
        "discarded": taken["discarded_latency_s"],
        "warm-up": taken["warmup_latency_s"],
        "stream": (line.get("stream") or {}).get("batch_s", []),
        "paired": pairs.get("latency_s", []),
        "paired baseline": pairs.get("baseline_latency_s", []),
    }
    by_step = np.array(taken["scale_latency_s"][::every], float)
    tenths = np.array_split(by_step, min(PARTS, by_step.shape[-1]), axis=-1) if by_step.size else []
    return {
        "round": line["round"],
        "every": every,
        **{kind: rounded(values[::every]) for kind, values in kinds.items()},
        "scales": [rounded(part.sum(-1).tolist()) for part in tenths],
    }


def thinning(runs: Sequence[Run]) -> int:
    """Every how many-th sample a page has room for."""
    numbers = 0
    for record in (record for run in runs for record in run.records if record["status"] == "ok"):
        samples, pairs = record["samples"], record.get("paired") or {}
        steps = min(PARTS, len((samples["scale_latency_s"] or [[]])[0]))
        numbers += len(samples["latency_s"]) * (steps + 2) + 2 * len(pairs.get("latency_s", []))
        numbers += len((record.get("stream") or {}).get("batch_s", []))
    return math.ceil(numbers / ROOM) or 1


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
            add(mark.kind, mark.text, marks.label(record, named))
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
            if all(record["status"] == "ok" for record in rounds):
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
