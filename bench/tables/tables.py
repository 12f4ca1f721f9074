"""The tables that the commands print, of runs and of what is there.

csv and json have a run's whole frame (`frames`).  On a terminal, in Markdown and in LaTeX the
paper's figures have columns of their own; they stand in brackets behind ours where these were made
in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bench.measure.selfcheck import Selfcheck
from bench.metrics import METRICS
from bench.metrics.frechet import DIFFERENCE
from bench.predict.prediction import largest_batch, predict
from bench.study import papers
from bench.study.cases import MINI, Case, with_batch
from bench.study.columns import COLUMNS, Column, format_figure, in_order, rounded
from bench.study.errors import UsageError, nearest
from bench.study.experiment import Sweep
from bench.study.printing import Printed, missing
from bench.study.records import DEGRADED, FAILED, OUT_OF_MEMORY
from bench.tables import composition
from bench.tables.frames import Run, frame, known
from bench.tables.summary import FEW, ROUGH
from bench.tables.touched import touched_scales

PARTS = ("params", "kv_cache", "running", "total")
TENTHS = 10  # in which a baseline's steps are told
CONTEXT_BYTES = 2**29  # CUDA's context and kernels
SECTIONS = ("main", "paper", "how", "scale", "pairs", "saved")
#: What a brief table has, and what it has of cases that were never run.
BRIEF = ("control_of", "steps", "speedup", "latency_s", "total_mib", "fid", DIFFERENCE, "status")
PLANNED = (
    "control_of",
    "steps",
    "params",
    "kv_cache_mib_predicted",
    "total_mib_predicted",
    "tflops_predicted",
)


@dataclass(frozen=True)
class View:
    """What of a run's tables is printed.

    columns: of the main one, by their names in JSON; none for all.  brief: the columns that matter
    most.  sort: by one of them, the best first, or with a minus the worst.  sections: of SECTIONS.
    """

    columns: Sequence[str] = ()
    brief: bool = False
    sort: str = ""
    sections: Sequence[str] = SECTIONS


IN_BRIEF = View(brief=True, sections=SECTIONS[:2])

# Tables to print


def measured(*runs: Run, view: View = View()) -> Printed:
    """The table of an experiment, how its figures came about, and the figures by scale.

    runs: of one experiment; of several, each case's rows stand together, machine by machine.
    Raises UsageError for a column or section that there is not.
    """
    if unknown := [name for name in view.sections if name not in SECTIONS]:
        raise UsageError(f"--section {unknown[0]}: sections are {', '.join(SECTIONS)}")
    data = in_order_of(merged(runs), view.sort)
    paper = runs[0].sweep.experiment.paper
    about = papers.load(paper).about if paper else None
    inside = about is not None and all(agrees(run, about) for run in runs)
    own = data["status"] != ("" if inside or view.columns else "not measured")
    text, constant = named(data[own])  # the paper's rows stand below, as printed
    names, columns = len(text.columns), columns_of(data, about, inside)
    for name in chosen(data, columns, view):
        heading, cells = columns[name]
        text[heading] = pd.Series(cells, data.index)
    title = runs[0].sweep.experiment.title
    if any(run.shipped for run in runs):
        machines = ", ".join(dict.fromkeys(run.device_name for run in runs if run.env))
        title += "; shipped records" + f", measured on {machines}" * bool(machines)
    found = notes(runs, data, constant)
    if about:
        found.insert(0, f"Paper{', in brackets' * inside}: {about.described}.")
    cases = [case for run in runs for case in run.sweep.cases]
    parts = {
        "main": [Printed(title, data, text, found, names=names)],
        "paper": [] if view.columns else [as_printed(data, columns, about)],
        "how": [how_measured(data)],
        "scale": [*by_part(data, cases)],
        "pairs": composition.tables(runs) if "pairs" in view.sections else [],
        "saved": [*map(touched_scales, runs)],
    }
    shown = [part for name in view.sections for part in parts[name] if len(part.text)]
    if not shown:
        raise UsageError(f"{title}: nothing measured for --section {', '.join(view.sections)}")
    return replace(shown[0], data=data, more=shown[1:])


def chosen(data: pd.DataFrame, columns: Mapping[str, Any], view: View) -> list[str]:
    """The names of the columns that a view has.  Raises UsageError for one that there is not."""
    if unknown := [name for name in view.columns if name not in columns]:
        raise UsageError(
            f"--columns {unknown[0]}: no such column here{nearest(unknown[0], columns)}"
        )
    if view.columns:
        return [*view.columns]
    if not view.brief:
        return [name for name in columns if not name.endswith("_paper")]
    quality = [DIFFERENCE, *(metric.column for metric in METRICS.values())]
    brief = [*BRIEF, *quality * ("fid" not in columns)]
    if "latency_s" not in columns:
        brief = [*PLANNED, *quality]
    return [name for name in brief if name in columns]


def in_order_of(data: pd.DataFrame, sort: str) -> pd.DataFrame:
    """The rows by one column, the best first.  Raises UsageError."""
    name = sort.removeprefix("-")
    if not name:
        return data
    if name not in data:
        raise UsageError(f"--sort {name}: no such column here{nearest(name, map(str, data))}")
    best_is_most = name in COLUMNS and COLUMNS[name].lower_is_better is False
    values = pd.to_numeric(data[name].map(str), errors="coerce")
    keys = values if values.notna().any() else data[name].astype(str)
    rising = best_is_most == sort.startswith("-")
    return data.loc[keys.sort_values(ascending=rising, kind="stable").index]


def agrees(run: Run, about: papers.About) -> bool:
    """Whether the run's figures were made as the paper says of its own, so that they may stand in
    one cell: device, precision, batch size and pixels, as far as the paper says them."""
    return about.device in run.device_name and all(
        about.precision in ("", case.precision)
        and about.batch_size in (None, case.batch_size)
        and not (about.image_size and case.in_mini_world)
        for case in run.sweep.cases
    )


Columns = dict[str, tuple[str, list[str]]]


def columns_of(data: pd.DataFrame, about: papers.About | None, inside: bool) -> Columns:
    """Heading and cells of each column that holds anything, by its name in JSON.

    inside: the paper's figures stand in brackets behind ours, not in columns of their own.
    """
    rows = known(data)
    theirs = {name: quoted(data, name, "{}") for name in ("params", *only_printed(data))}
    found: Columns = {
        "control_of": ("control of", column(data, "control_of", "{}")),
        "steps": ("steps", ours_or_papers(data, "steps")),
        "params": ("params", [f"{millions(r['params'])}M" if "params" in r else "" for r in rows]),
        "status": ("status", [status_text(row) for row in rows]),
    }
    for shown in in_order():
        name, heading, form = shown.name, shown.heading, shown.format
        theirs[name] = quoted(data, name, form)
        found[name] = heading, [cell(row, shown) for row in rows]
        predicted = column(data, f"{name}_predicted", form)
        found[f"{name}_predicted"] = heading.replace(" MiB", " predicted"), predicted
    found["tflops_predicted"] = "TFLOP", column(data, "tflops_predicted", "{:.3g}")
    lost = ["OOM" if status == "oom" else "" for status in column(data, "status_paper", "{}")]
    theirs["status"] = lost
    for name, cells in theirs.items():
        heading, ours = found.get(name, (name.replace("_", " "), [""] * len(rows)))
        if inside:
            both = zip(ours, cells, strict=True)
            found[name] = heading, [f"{o or '-'} ({t})" if t else o for o, t in both]
        else:
            how = f" ({about.settings})" if about and about.settings else ""
            found[f"{name}_paper"] = f"paper's {heading}{how}", cells
    return {name: told for name, told in found.items() if any(told[1])}


def as_printed(data: pd.DataFrame, columns: Columns, about: papers.About | None) -> Printed:
    """The paper's own figures, where they were not made as ours were."""
    title = f"As printed: {about.described}" if about else ""
    text, _ = named(data)
    names = len(text.columns)
    for name, (heading, cells) in columns.items():
        if name.endswith("_paper"):
            text[heading.removeprefix("paper's ").partition(" (")[0]] = cells
    there = (text.iloc[:, names:] != "").any(axis=1)
    return Printed(title, data, text[there], names=names)


def cell(row: Mapping[Any, Any], shown: Column) -> str:
    """A figure with its interval, and of quality how many samples and whose: "4.87* [3.4-6.3]
    n=500 @2304b14a3"."""
    name = shown.name
    if name not in row:
        return ""
    text = row[name] if isinstance(row[name], str) else shown.text(row[name])
    text = "~" * (name == "speedup" and row.get("speedup_by") in ROUGH) + text
    text += "*" * bool(row.get(f"{name}_differs"))
    span = interval_text(row, name, shown.format)
    return " ".join(filter(None, (text, span and f"[{span}]", row.get(f"{name}_from"))))


def only_printed(data: pd.DataFrame) -> list[str]:
    """What the paper prints and nobody measures here."""
    shown = ("method", "batch_size", "status", *papers.AS_PRINTED, *COLUMNS)
    printed = [str(name).removesuffix("_paper") for name in data if str(name).endswith("_paper")]
    return [name for name in printed if name not in shown]


def merged(runs: Sequence[Run]) -> pd.DataFrame:
    """The rows of several runs of one experiment, those of one case together; a case that only
    some of them have is not a row of the others."""
    parts = [frame(run).assign(machine=machine_of(run)) for run in runs]
    parts[1:] = [part[part["status"] != "not measured"] for part in parts[1:]]  # the paper's, once
    data = pd.concat(parts, ignore_index=True)
    order = data.groupby(["case", "method"], sort=False, dropna=False).ngroup()
    was_run = data["status"] != "not run"
    kept = was_run | ~(was_run.groupby(order).transform("any") | order.duplicated())
    return data.loc[order[kept].sort_values(kind="stable").index].reset_index(drop=True)


def machine_of(run: Run) -> str:
    """Name of the machine a run was measured on."""
    return run.env.get("machine", "")


def together(runs: list[Run], view: View = View()) -> Printed:
    """The rows of several runs in one, each with its experiment's name."""
    parts = [frame(run).assign(experiment=run.sweep.name, machine=machine_of(run)) for run in runs]
    data = in_order_of(pd.concat(parts, ignore_index=True), view.sort)
    if view.columns:
        data = data[["experiment", "machine", "name", *chosen(data, dict(data), view)]]
    return Printed("", data, data)


def how_measured(data: pd.DataFrame) -> Printed:
    """What the figures rest on: rounds, samples, and what is paid once in a process."""
    data = data[data["rounds"].notna()] if "rounds" in data else data[:0]
    text, _ = named(data)
    names = len(text.columns)
    for shown in in_order("how"):
        name, heading, form = shown.name, shown.heading, shown.format
        if name in data and data[name].notna().any():
            text[heading] = column(data, name, form)
    found = [
        "A round is a process of its own; sampling stops at the target (an interval of the median "
        "narrow enough), when noise no longer narrows it, or when the time is over.",
        "First decode: with all that is done once; to first image: since the process began, with "
        "import, load, prepare and first decode; to warm image: decode and VQVAE once all is warm.",
    ]
    return Printed("How it was measured", data, text, found, names=names)


def named(data: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The columns that say which row it is, and in words what all rows have in common."""
    text, same = pd.DataFrame({"method": data["name"]}), []
    if len({*data.get("machine", ())} - {""}) > 1:
        text["machine"] = data["machine"]
    for name, heading in {"batch_size": "batch", "stack": "stack", "precision": "prec."}.items():
        cells = ours_or_papers(data, name)
        values = [*dict.fromkeys(filter(None, cells))]
        if len(values) > 1:
            text[heading] = cells
        else:
            same += [f"{heading} {value}" for value in values]
    return text, ", ".join(same)


def notes(runs: Sequence[Run], data: pd.DataFrame, constant: str) -> list[str]:
    """What a reader must know to read the table."""
    found = [f"All rows: {constant}."] if constant else []
    found += [f"Measured on {run.device_name}, {run.software}." for run in runs if run.env]
    found += not_predicted(data) + speedup_notes(data) + quality_notes(runs, data)
    if any(str(kind).startswith(MINI) for kind in data.get("weights", [])):
        found.append(
            "Weights: the small models trained on the mini world (docs/guide/mini-world.md)."
        )
    rows = known(data)
    by_reason: dict[str, dict[str, None]] = {}
    for row in rows:
        whys = {
            f"Invalid, {str(row.get('invalid')).partition(' (')[0]}": row.get("invalid"),
            "Other cases of the sweep ran on the same host during": row.get("shared_with"),
            "Latency to images, as they are not made apart": "latency_s" in row
            and "vqvae_latency_s" not in row,
        }
        for why in (why for why, holds in whys.items() if holds):
            by_reason.setdefault(why, {})[row["method"]] = None
    found += [f"{why}: {', '.join(methods)}." for why, methods in by_reason.items()]
    found += [
        f"{row['method']}: {row['status']}, {row['reason']}"
        for row in rows
        if row["status"] in (*OUT_OF_MEMORY, *FAILED)
    ]
    if "extrapolated" in data:
        found.append(
            "Extrapolated: only so many of the steps ran, evenly spread; in the time each stands "
            "for those near it.  No images came out."
        )
    found += [
        f"{row['method']}: {short}, {text}: {row[name]}"
        for row in rows
        for name, (short, text) in DEGRADED.items()
        if name in row
    ]
    if pools := {
        f"{row['method']} {row['graph_pool_mib']:.0f} MiB"
        for row in rows
        if "graph_pool_mib" in row
    }:
        found.append(
            "Memory is that of kernels launched one by one; CUDA graphs have a pool in the place "
            f"of KV cache and running, which stays: {', '.join(sorted(pools))}."
        )
    if any(row.get("memory_differs") for row in rows):
        found.append(
            "Status says where memory is not as predicted: params and KV cache at all, running by "
            "more than 10 %."
        )
    return found + [complaint for run in runs for complaint in run.complaints]


def quality_notes(runs: Sequence[Run], data: pd.DataFrame) -> list[str]:
    """What the quality figures rest on, and where they are not of what the speed is of."""
    by_how: dict[str, list[str]] = {}
    for run in runs:
        for name, how in run.quality.how.items():
            by_how.setdefault(how, []).append(METRICS[name].heading)
    found = [f"{', '.join(dict.fromkeys(names))}: {how}." for how, names in by_how.items()]
    seeded = "seeded" in set(data.get("weights", []))
    if seeded and not found:
        found.append(
            "Weights are random, from a seed: right for speed and memory; quality is not measured."
        )
    elif seeded:
        found.append("Speed and memory of seeded rows are of random weights, right for both.")
    by_difference: dict[str, list[str]] = {}
    for row in known(data):
        for metric in METRICS.values():
            if differs := row.get(f"{metric.column}_differs"):
                by_difference.setdefault(differs, []).append(row["method"])
    return found + [
        f"* Quality and speed are not of the same: {', '.join(dict.fromkeys(methods))}: quality "
        f"with {differs}."
        for differs, methods in by_difference.items()
    ]


def speedup_notes(data: pd.DataFrame) -> list[str]:
    """What the speed-ups rest on."""
    told = {
        "paired": "baseline and case in turn in one process",
        "interleaved": "from the same round of both, the order turned round every other time",
        "few turns": f"from fewer than {FEW} turns with the baseline in one process: marked ~",
        "one round": "from one round, not interleaved: marked ~, a drift of the machine is in them",
    }
    used = [by for by in told if by in set(data.get("speedup_by", []))]
    if not used:
        return []
    how = "; ".join(told[by] for by in used)
    lost = data.get("paired_reason", pd.Series(dtype=str)).dropna()
    return [f"Speed-ups: {how}.", *(f"Not paired, {reason}." for reason in dict.fromkeys(lost))]


#: Figures by scale: what a reader calls them, name in a frame, factor, what a tenth of the steps
#: has of its parts, format.
BY_SCALE: list[tuple[str, str, float, Callable[[Any], float], str]] = [
    ("ms", "scale_latency_s", 1000, sum, "{:.1f}"),
    ("GFLOP predicted", "gflops_by_scale_predicted", 1, sum, "{:.4g}"),
    ("KV MiB", "kv_cache_by_scale_mib", 1, max, "{:.1f}"),
    ("peak MiB", "peak_by_scale_mib", 1, max, "{:.0f}"),
    ("live MiB", "live_by_scale_mib", 1, max, "{:.0f}"),
]


def by_part(data: pd.DataFrame, cases: Sequence[Case]) -> tuple[Printed, Printed]:
    """What each scale takes, and of methods without scales each tenth of their steps."""
    in_scales = data["method"].isin([case.label for case in cases if case.has_scales])
    notes = ["Peak is the most during a scale, live what is left after it."]
    return (
        by_parts("By scale", data[in_scales], None, notes),
        by_parts("By step, in tenths of the decode", data[~in_scales], TENTHS, []),
    )


def by_parts(title: str, data: pd.DataFrame, parts: int | None, notes: list[str]) -> Printed:
    """Time, work and memory of each scale; parts: or of so many parts of the steps.  A prediction
    of memory stands where nothing was measured, of the KV cache where it differs."""
    names, rows = named(data)[0].to_dict("records"), []
    for which, row in zip(names, known(data), strict=True):
        steps = len(row.get("gflops_by_scale_predicted") or row.get("scale_latency_s", ()))
        for what, name, factor, fold, form in BY_SCALE if steps else ():
            found: dict[str, list[str]] = {}
            for label, key in {what: name, f"{what} predicted": f"{name}_predicted"}.items():
                if key not in row:
                    continue
                values = factor * np.array(row[key])
                if len(values) < steps:  # of few steps, each of which stands for some
                    values = np.repeat(values, row["stands_for"])
                split = np.array_split(values, min(parts or steps, steps))
                told = [format_figure("{:.4g}" if parts else form, fold(part)) for part in split]
                if not found or ("KV" in what and told not in found.values()):
                    found[label] = told
            for label, cells in found.items():
                heads = [f"{k}/{len(cells)}" if parts else str(k) for k in range(1, len(cells) + 1)]
                figures = dict(zip(heads, cells, strict=True))
                rows.append(dict(which) | {title.partition(",")[0].lower(): label} | figures)
    table = pd.DataFrame(rows).fillna("")  # of scales that a smaller pyramid has not
    return Printed(title, table, table, notes, names=len(names[0]) + 1 if names else 1)


def predictions(sweep: Sweep) -> Printed:
    """What shapes alone say of each case."""
    data = frame(Run(sweep))
    data = data[data["status"] == "not run"].drop(columns=["status"])
    if "params" not in data:
        raise UsageError("; ".join(sorted(set(data["not_predicted"]))))
    data = data.loc[:, ~data.columns.str.endswith("_paper")]
    data = data.rename(columns=lambda name: str(name).removesuffix("_predicted"))
    text = data[["name", "batch_size", "stack", "precision"]].rename(columns={"name": "method"})
    text["params M"] = data["params"].map(millions, na_action="ignore").fillna("")
    text["params MiB"] = column(data, "params_mib", "{:.1f}")
    text["KV cache MiB"] = column(data, "kv_cache_mib", "{:.1f}")
    text["running MiB"] = column(data, "running_mib", "{:.0f}")
    text["total MiB"] = column(data, "total_mib", "{:.0f}")
    text["TFLOP"] = column(data, "tflops", "{:.4g}")
    scales = data.rename(columns=lambda name: f"{name}_predicted" if "_by_scale" in name else name)
    title = f"{sweep.experiment.title}: predicted from shapes"
    more = [part for part in by_part(scales, sweep.cases) if len(part.text)]
    found = ["Params MiB include the VQVAE, or its like."]
    if "auto" in set(data["device"]):
        found.append("Memory is a GPU's; for this CPU's: --set device=cpu.")
    return Printed(title, data, text, found + not_predicted(data), more, names=3)


def not_predicted(data: pd.DataFrame) -> list[str]:
    """Of rows without a prediction, why."""
    found = dict.fromkeys(filter(None, column(data, "not_predicted", "{}")))
    return [f"Not predicted: {why}." for why in found]


def largest_batches(sweep: Sweep, memory_bytes: int, ecc: bool) -> Printed:
    """The most images at once that each method fits into a card of that memory, and its parts.

    ecc: the card keeps its check bits in its own memory, as cards with GDDR do.
    """
    if any(case.device == "cpu" for case in sweep.cases):
        raise UsageError("--max-batch is of a GPU's memory; leave out --set device=cpu")
    usable = usable_bytes(memory_bytes, ecc)
    rows = []
    for case in dict.fromkeys(with_batch(case, 1) for case in sweep.cases):
        fits = largest_batch(case, usable)
        parts = predict(with_batch(case, max(fits, 1))).figures().to_json()
        rows.append(
            {
                **{name: getattr(case, name) for name in ("stack", "precision")},
                "method": case.label,
                "largest_batch": fits,
                **{f"{part}_mib": parts[f"{part}_mib"] for part in PARTS},
            }
        )
    data = pd.DataFrame(rows)
    text = data[["method", "stack", "precision"]].copy()
    text["largest batch"] = data["largest_batch"].map("{:d}".format)
    for part in PARTS:
        shown = COLUMNS[f"{part}_mib"]
        text[shown.heading] = data[shown.name].map(shown.text)
    taken = f"{CONTEXT_BYTES / 2**30:g} GiB that CUDA takes" + (", and 1/16 for ECC" if ecc else "")
    notes = [
        f"Of {memory_bytes / 2**30:.1f} GiB, {usable / 2**30:.1f} GiB are left: without {taken}."
    ]
    if (data["largest_batch"] == 0).any():
        notes.append("Largest batch 0: not even one image fits; the parts are those of one.")
    return Printed(f"{sweep.experiment.title}: largest batch", data, text, notes, names=2)


def usable_bytes(memory_bytes: int, ecc: bool) -> int:
    """What a decode may fill of a card: an L20 or L40S of 48 GiB shows 46068 MiB, as 1/16 holds
    the check bits, and CUDA's context and kernels take about half a GiB of those."""
    return memory_bytes * (15 if ecc else 16) // 16 - CONTEXT_BYTES


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


def column(data: pd.DataFrame, name: str, form: str) -> list[str]:
    """The cells of a column in one format; empty where the data lacks it."""
    if name not in data:
        return ["" for _ in data.index]
    return [
        "" if missing(value) else value if isinstance(value, str) else format_figure(form, value)
        for value in data[name]
    ]


def quoted(data: pd.DataFrame, name: str, form: str) -> list[str]:
    """The paper's, with every digit that it prints."""
    rounded, exact = (column(data, f"{name}_paper", f) for f in (form, "{:g}"))
    return [e if len(e) > len(r.rstrip("x")) else r for r, e in zip(rounded, exact, strict=True)]


def ours_or_papers(data: pd.DataFrame, name: str) -> list[str]:
    """Ours, or else the paper's."""
    ours = column(data, name, "{}")
    return [o or t for o, t in zip(ours, column(data, f"{name}_paper", "{}"), strict=True)]


def millions(count: int) -> str:
    """To the million, and of the mini world's models to two digits."""
    return f"{count / 1e6:.0f}" if count >= 1e7 else rounded(count / 1e6, 2)


def interval_text(row: Mapping[Any, Any], name: str, form: str) -> str:
    """A 95 % interval as text: "1.2-1.4", "-0.3 to 0.1"."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None or high is None or missing(low) or missing(high):
        return ""
    between = " to " if low < 0 or "+" in form else "-"
    return f"{format_figure(form, low)}{between}{format_figure(form, high)}".replace("x", "")


def status_text(row: Mapping[Any, Any]) -> str:
    """A row's status, and what makes its figures doubtful."""
    ours = OUT_OF_MEMORY.get(row["status"], row["status"])
    differs = row.get("memory_differs")
    noted = f"; {differs}" if differs and not missing(differs) else ""
    if ours == "ok" and row.get("extrapolated") is True:
        ours += ", extrapolated"
    if ours.startswith("ok") and not missing(row.get("invalid")):
        ours += ", invalid"
    for name, (short, _) in DEGRADED.items():
        if ours.startswith("ok") and not missing(row.get(name)):
            ours += f", {short}"
    return ours + noted
