"""Runs as tables: what was measured, what shapes predict, and what the papers print.

A table has a row for each case of the experiment, whether or not it has been run, and one for
each row of the paper's table that no case repeats.  `frame` has every figure in a column of its
own (`latency_s`, `latency_s_paper`, `kv_cache_mib_predicted`, ...): that is what csv and json
print.  On a terminal, in Markdown and in LaTeX the paper's figure stands in brackets behind
ours.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import experiment, records
from bench.cases import Case, Methods, UsageError, explain
from bench.experiment import PAPERS, Experiment, Sweep
from bench.machine import BUSY_CORES
from bench.predict import Prediction, predict
from bench.records import Record
from bench.selfcheck import Selfcheck
from codevar import PUBLISHED

# A column of the papers' files -> ours.  The papers' MB are MiB.
PAPER_COLUMNS = {
    "speedup": "speedup",
    "latency_s": "latency_s",
    "throughput_img_s": "throughput_img_s",
    "memory_mb": "total_mib",
    "total_mb": "total_mib",
    "params_mb": "params_mib",
    "kv_cache_mb": "kv_cache_mib",
    "running_mb": "running_mib",
    "fid": "fid",
    "inception_score": "inception_score",
    "precision": "quality_precision",
    "recall": "recall",
    "musiq": "musiq",
    "clipiqa": "clipiqa",
    "niqe": "niqe",
}

# How each figure is headed and rounded; the order is that of the table.
FIGURES = {
    "speedup": ("speed-up", "{:.2f}x"),
    "latency_s": ("latency s", "{:.3g}"),
    "throughput_img_s": ("images/s", "{:.3g}"),
    "params_mib": ("params MiB", "{:.0f}"),
    "kv_cache_mib": ("KV cache MiB", "{:.1f}"),
    "running_mib": ("running MiB", "{:.0f}"),
    "total_mib": ("total MiB", "{:.0f}"),
    "fid": ("FID", "{:.2f}"),
    "inception_score": ("IS", "{:.0f}"),
    "quality_precision": ("precision", "{:.2f}"),
    "recall": ("recall", "{:.2f}"),
    "musiq": ("MUSIQ", "{:.2f}"),
    "clipiqa": ("CLIPIQA", "{:.4f}"),
    "niqe": ("NIQE", "{:.4f}"),
}


@dataclass
class Run:
    """An experiment with what has been measured of it."""

    sweep: Sweep
    records: list[Record] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    env: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def by_key(self) -> dict[str, Record]:
        return {record["key"]: record for record in self.records}


def load(folder: Path) -> Run:
    """A run from its folder.  Raises UsageError if there is none."""
    what = records.read_json(folder / "run.json")
    if what is None:
        raise UsageError(f"{folder}: no run.json here; `bench.py run` makes one")
    lines, complaints = records.read_lines(folder / records.FILE)
    try:
        parsed = Experiment.model_validate(what["experiment"])
        sweep = Sweep(what["name"], parsed, str(folder), what["device"])
    except (KeyError, TypeError) as e:
        raise UsageError(f"{folder / 'run.json'}: damaged ({e} is missing)") from None
    except ValidationError as e:
        raise UsageError(f"{folder / 'run.json'}: {explain(e, Experiment)}") from None
    return Run(sweep, lines, complaints, records.read_json(folder / "env.json") or {}, folder)


# Rows


def frame(run: Run) -> pd.DataFrame:
    """Every figure of a run, a row for each case and for each further row of the paper."""
    paper = paper_rows(run.sweep.experiment.paper)
    used: set[int] = set()
    rows = []
    for case in run.sweep.cases:
        record = run.by_key.get(case.key)
        repeated = find_paper_row(paper, run.sweep.paper_rows.get(case.key), case.batch_size)
        used.update(repeated)
        rows.append(
            {
                **case_columns(case),
                **predicted_columns(predict(case)),
                **measured_columns(record),
                **(paper_columns(paper[repeated[0]]) if repeated else {}),
            }
        )
    add_speedups(rows, run.sweep, run.sweep.cases)
    for i, row in enumerate(paper):
        if i not in used:
            named = {"method": row["method"], "status": "not measured"}
            rows.append({**named, **paper_columns(row)})
    data = pd.DataFrame(rows)
    whole = {name: "Int64" for name in ("batch_size", "params", "samples") if name in data}
    return data.astype(whole)


def case_columns(case: Case) -> dict[str, Any]:
    names = ("batch_size", "stack", "precision", "attention", "device", "weights")
    return {
        "method": case.label,
        "steps": case.steps,
        **{name: getattr(case, name) for name in names},
    }


def predicted_columns(predicted: Prediction) -> dict[str, Any]:
    return {
        "params": predicted.params,
        "params_mib_predicted": predicted.params_bytes / 2**20,
        "kv_cache_mib_predicted": max(predicted.kv_cache_bytes) / 2**20,
        "tflops_predicted": sum(predicted.flops) / 1e12,
        "kv_cache_by_scale_mib_predicted": [b / 2**20 for b in predicted.kv_cache_bytes],
        "gflops_by_scale_predicted": [f / 1e9 for f in predicted.flops],
    }


def measured_columns(record: Record | None) -> dict[str, Any]:
    """What a record says, as medians."""
    if record is None:
        return {"status": "not run"}
    columns = {name: record.get(name) for name in ("status", "reason", "other_load_cores")}
    if record["status"] != "ok":
        return columns
    samples, memory = record["samples"], record["memory"]
    latency = statistics.median(samples["latency_s"])
    by_scale = zip(*samples["scale_latency_s"], strict=True)
    vqvae = samples.get("vqvae_latency_s")
    return {
        **columns,
        "latency_s": latency,
        "throughput_img_s": record["batch_size"] / latency,
        "scale_latency_s": [statistics.median(scale) for scale in by_scale],
        "vqvae_latency_s": statistics.median(vqvae) if vqvae else None,
        "samples": len(samples["latency_s"]),
        **{key: memory[f"{key}"] for key in ("params_mib", "kv_cache_mib", "running_mib")},
        "total_mib": memory["total_mib"],
        "process_mib": memory["process_mib"],
        "kv_cache_by_scale_mib": memory["kv_cache_by_scale_mib"],
    }


def add_speedups(rows: list[dict[str, Any]], sweep: Sweep, cases: list[Case]) -> None:
    """Latency of each row's baseline over its own; none where the baseline ran out of memory."""
    for row, case in zip(rows, cases, strict=True):
        wanted = (sweep.baseline_of(case.model_dump()) or {"method": None}).items()
        same = [
            o for o, base in zip(rows, cases, strict=True) if wanted <= base.model_dump().items()
        ]
        if same and {"latency_s"} <= row.keys() & same[0].keys():
            row["speedup"] = same[0]["latency_s"] / row["latency_s"]


# The papers


def paper_rows(name: str | None) -> list[dict[str, Any]]:
    """The rows of a paper's table."""
    if name is None:
        return []
    table = pd.read_csv(PAPERS / f"{name}.csv", dtype=str, keep_default_na=False)
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def find_paper_row(paper: list[dict[str, Any]], name: str | None, batch_size: int) -> list[int]:
    """Index of the row of that name, and batch size where the table has one."""
    return [
        i
        for i, row in enumerate(paper)
        if row["method"] == name and row.get("batch_size", str(batch_size)) == str(batch_size)
    ][:1]


def paper_columns(row: dict[str, Any]) -> dict[str, Any]:
    """A paper's row under our names, each ending in `_paper`."""
    columns: dict[str, Any] = {"method_paper": row["method"]}
    for theirs, ours in PAPER_COLUMNS.items():
        if row.get(theirs):
            bound = row[theirs].startswith("<")
            columns[f"{ours}_paper"] = row[theirs] if bound else float(row[theirs])
    for kept in ("steps", "params", "batch_size"):
        if row.get(kept):
            columns[f"{kept}_paper"] = row[kept]
    if row.get("oom"):
        columns["status_paper"] = "oom" if row["oom"] == "yes" else "ok"
    return columns


# Tables to print


@dataclass
class Printed:
    """A table to print: `data` in full for csv and json, `text` for people, notes below."""

    title: str
    data: pd.DataFrame
    text: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    more: list[Printed] = field(default_factory=list)


def measured(run: Run) -> Printed:
    """The experiment's table, and the figures by scale."""
    data = frame(run)
    text = pd.DataFrame({"method": data["method"]})
    text["steps"] = either(data, "steps")
    text["params"] = [params_text(row) for row in data.to_dict("records")]
    for name, heading in {"batch_size": "batch", "stack": "stack", "precision": "prec."}.items():
        text[heading] = either(data, name)
    several = [h for h in ("batch", "stack", "prec.") if text[h][text[h] != ""].nunique() > 1]
    same = {h: text[h][text[h] != ""].iloc[0] for h in ("batch", "stack", "prec.")}
    text = text.drop(columns=[h for h in same if h not in several])
    text["status"] = [status_text(row) for row in data.to_dict("records")]
    for name, (heading, form) in FIGURES.items():
        if name in data or f"{name}_paper" in data:
            text[heading] = both(data, name, form)
        if f"{name}_predicted" in data:
            text[heading.replace(" MiB", " predicted")] = column(data, f"{name}_predicted", form)
    if "tflops_predicted" in data:
        text["TFLOP"] = column(data, "tflops_predicted", "{:.3g}")
    title = run.sweep.experiment.title
    constant = ", ".join(f"{h} {v}" for h, v in same.items() if h not in several)
    return Printed(
        title, data, text, notes(run, data, constant), [by_scale(data)] if len(data) else []
    )


def together(runs: list[Run]) -> Printed:
    """The rows of several runs in one, each with its experiment's name."""
    parts = [frame(run).assign(experiment=run.sweep.name) for run in runs]
    data = pd.concat(parts, ignore_index=True)
    return Printed("", data, data)


def notes(run: Run, data: pd.DataFrame, constant: str) -> list[str]:
    """What a reader must know to read the table."""
    paper = run.sweep.experiment.paper
    found = [f"In brackets: the paper ({paper}: NVIDIA L20, fp16, batch 64 unless it says)."]
    if paper is None:
        found = []
    if constant:
        found.append(f"All rows: {constant}.")
    if run.env:
        torch = run.env["packages"]["torch"]
        commit = (run.env["commit"] or "unknown")[:9] + (" + changes" if run.env["dirty"] else "")
        device = run.env["gpus"][0]["name"] if run.env["gpus"] else run.env["cpu"]
        found.append(f"Measured on {device}, torch {torch}, commit {commit}.")
    if "seeded" in set(data.get("weights", [])):
        found.append(
            "Weights are random, from a seed: right for speed and memory; quality is not measured."
        )
    load = data.get("other_load_cores", pd.Series(dtype=float)).astype(float)
    if (load > BUSY_CORES).any():
        busy = ", ".join(dict.fromkeys(data["method"][load > BUSY_CORES]))
        found.append(f"The machine was busy with something else during: {busy}.")
    found += [
        f"{row['method']}: {row['status']}, {row['reason']}"
        for row in data.to_dict("records")
        if row.get("status") in ("oom", "error", "timeout")
    ]
    return found + run.complaints


def by_scale(data: pd.DataFrame) -> Printed:
    """Latency, KV cache and work of each scale."""
    rows = []
    for row in data.to_dict("records"):
        if not isinstance(row.get("kv_cache_by_scale_mib_predicted"), list):
            continue  # a row of the paper's alone
        predicted = numbers(row["kv_cache_by_scale_mib_predicted"], "{:.1f}")
        parts = {"GFLOP predicted": numbers(row["gflops_by_scale_predicted"], "{:.4g}")}
        if isinstance(row.get("scale_latency_s"), list):
            latency_ms = [1000 * s for s in row["scale_latency_s"]]
            kv = numbers(row["kv_cache_by_scale_mib"], "{:.1f}")
            both = [m if m == p else f"{m} ({p})" for m, p in zip(kv, predicted, strict=True)]
            parts |= {"ms": numbers(latency_ms, "{:.1f}"), "KV MiB (predicted)": both}
        else:
            parts["KV MiB predicted"] = predicted
        for what, cells in sorted(parts.items(), key=lambda part: part[0] != "ms"):
            named = {"method": row["method"], "batch": row["batch_size"], "stack": row["stack"]}
            scales = {str(k): cell for k, cell in enumerate(cells, 1)}
            rows.append({**named, "by scale": what, **scales})
    table = pd.DataFrame(rows)
    note = "KV cache: the prediction stands in brackets where it differs."
    return Printed("By scale", table, table, [note])


def numbers(values: Sequence[float], form: str) -> list[str]:
    return [form.format(value) for value in values]


def predictions(sweep: Sweep) -> Printed:
    """What shapes alone say of each case."""
    data = frame(Run(sweep))
    data = data[data["status"] == "not run"].drop(columns=["status"])
    data = data.loc[:, ~data.columns.str.endswith("_paper")]
    data = data.rename(columns=lambda name: str(name).removesuffix("_predicted"))
    text = data[["method", "batch_size", "stack", "precision"]].copy()
    text["params M"] = (data["params"] / 1e6).map("{:.0f}".format)
    text["params MiB"] = data["params_mib"].map("{:.1f}".format)
    text["KV cache MiB"] = data["kv_cache_mib"].map("{:.1f}".format)
    text["TFLOP"] = data["tflops"].map("{:.4g}".format)
    scales = data.rename(
        columns={
            "kv_cache_by_scale_mib": "kv_cache_by_scale_mib_predicted",
            "gflops_by_scale": "gflops_by_scale_predicted",
        }
    )
    title = f"{sweep.experiment.title}: predicted from shapes"
    return Printed(title, data, text, ["Params include the VQVAE."], [by_scale(scales)])


def catalogue() -> Printed:
    """Experiments, methods and published models."""
    rows = [
        {"kind": "experiment", "name": name, "what": experiment.load(name).experiment.title}
        for name in experiment.names()
    ]
    rows += [
        {"kind": "method", "name": name, "what": (kind.__doc__ or "").splitlines()[0]}
        for name, kind in Methods.by_name.items()
    ]
    rows += [
        {"kind": "published model", "name": name, "what": f"{file} of {repo}"}
        for name, (repo, file) in PUBLISHED.items()
    ]
    table = pd.DataFrame(rows)
    return Printed("What there is", table, table)


def environment(found: dict[str, Any]) -> Printed:
    """The machine."""
    rows = [(key, plain(value)) for key, value in found.items() if key != "gpus"]
    rows += [(f"cuda:{i}", plain(gpu)) for i, gpu in enumerate(found["gpus"])]
    table = pd.DataFrame(rows, columns=["what", "value"])
    return Printed("This machine", pd.DataFrame([found]), table)


def plain(value: Any) -> str:
    """A JSON value as one reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(v)}" for key, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def checked(found: Selfcheck, device: str, depth: int) -> Printed:
    """What `selfcheck` found."""
    low, high = found.overhead_interval
    rows = [
        ("timer's overhead", f"{found.overhead:+.3%}", f"95 %: {low:+.3%} to {high:+.3%}"),
        ("total less sum of scales", f"{found.missing:+.3%}", "of the total"),
        ("clock's smallest step", f"{found.clock_s * 1e9:.0f} ns", ""),
    ]
    text = pd.DataFrame(rows, columns=["what", "measured", ""])
    verdict = {
        "passed": "Passed: both are under 1 %.",
        "failed": "Failed: over 1 %; do not trust timings by scale here.",
        "undecided": "Undecided: this machine is too noisy to tell 1 %; try more --pairs.",
    }[found.verdict]
    title = f"Selfcheck: VAR-d{depth}, batch 1, modern float32, {device}, {found.pairs} pairs"
    return Printed(title, pd.DataFrame([asdict(found)]), text, [verdict])


# Cells


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def column(data: pd.DataFrame, name: str, form: str) -> list[str]:
    if name not in data:
        return ["" for _ in data.index]
    return [
        "" if missing(value) else value if isinstance(value, str) else form.format(value)
        for value in data[name]
    ]


def both(data: pd.DataFrame, name: str, form: str) -> list[str]:
    """Ours, and the paper's in brackets; a dash where we have not measured what it has."""
    ours, theirs = column(data, name, form), column(data, f"{name}_paper", form)
    return [f"{o or '-'} ({t})" if t else o for o, t in zip(ours, theirs, strict=True)]


def either(data: pd.DataFrame, name: str) -> list[str]:
    """Ours, or else the paper's."""
    ours = column(data, name, "{}")
    return [o or t for o, t in zip(ours, column(data, f"{name}_paper", "{}"), strict=True)]


def params_text(row: Mapping[Any, Any]) -> str:
    theirs = row.get("params_paper")
    if not missing(row.get("params")):
        return f"{row['params'] / 1e6:.0f}M" + (f" ({theirs})" if not missing(theirs) else "")
    return f"- ({theirs})" if not missing(theirs) else ""


def status_text(row: Mapping[Any, Any]) -> str:
    theirs = row.get("status_paper")
    ours = row["status"].upper() if row["status"] == "oom" else row["status"]
    return ours + (" (OOM)" if theirs == "oom" else "")


# Printing


def show(printed: Printed, format: str) -> None:
    """Prints a table in one of the formats: rich, md, csv, latex, json."""
    if format == "json":
        print(to_json(printed.data))
    elif format == "csv":
        print(printed.data.to_csv(index=False), end="")
    elif format == "rich":
        show_rich(printed)
    else:
        for table in (printed, *printed.more):
            print(as_text(table, format))


def to_json(data: pd.DataFrame) -> str:
    """One object a row, without the empty cells."""
    rows = data.astype(object).to_dict("records")
    return json.dumps([{k: v for k, v in r.items() if not missing(v)} for r in rows], indent=1)


def as_text(table: Printed, format: str) -> str:
    if format == "md":
        text = table.text.map(lambda cell: str(cell).replace("|", "\\|"))
        lines = [f"### {table.title}", "", text.to_markdown(index=False, disable_numparse=True)]
        return "\n".join([*lines, "", *[f"{note}  " for note in table.notes], ""])
    from pandas.io.formats.style import Styler

    latex = (
        Styler(table.text)
        .hide(axis="index")
        .format(escape="latex")
        .format_index(escape="latex", axis=1)
    )
    notes = "\n".join(f"% {note}" for note in table.notes)
    return f"{latex.to_latex(hrules=True, caption=table.title)}{notes}\n"


def show_rich(printed: Printed) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 320  # a log has no edge to wrap at
    for table in (printed, *printed.more):
        for part, columns in enumerate(fitting(table.text, console.width)):
            title = escape(table.title) if part == 0 else None
            grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
            for name in columns:
                right = table.text[name].map(lambda cell: str(cell)[:1] in "-0123456789").all()
                grid.add_column(escape(str(name)), justify="right" if right else "left")
            for cells in table.text[columns].itertuples(index=False):
                grid.add_row(*(escape(str(cell)) for cell in cells))
            console.print(grid)
        for note in table.notes:
            console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def fitting(text: pd.DataFrame, width: int) -> list[list[str]]:
    """The columns in as many tables as a narrow terminal needs, each with the names of the rows."""
    wide = {
        str(name): 3 + max([len(str(name)), *text[name].map(lambda cell: len(str(cell)))])
        for name in text.columns
    }
    names = [name for name in ("method", "batch", "stack", "prec.", "by scale") if name in wide]
    parts: list[list[str]] = []
    for name in wide:
        if name in names:
            continue
        if not parts or sum(wide[c] for c in [*parts[-1], name]) > width:
            parts.append([*names])
        parts[-1].append(name)
    return parts or [[*wide]]
