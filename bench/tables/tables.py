"""The tables that the commands print, of runs and of what is there.

csv and json have a run's whole frame (`frames`).  On a terminal, in Markdown and in LaTeX the
paper's figure stands in brackets behind ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from bench.measure.machine import BUSY_CORES
from bench.measure.selfcheck import Selfcheck
from bench.metrics import METRICS
from bench.predict.prediction import largest_batch, predict
from bench.study import papers
from bench.study.cases import MINI, Case, VARCase, with_batch
from bench.study.columns import COLUMNS, in_order
from bench.study.errors import UsageError
from bench.study.experiment import Sweep
from bench.study.printing import Printed, missing
from bench.study.records import DEGRADED, FAILED, OUT_OF_MEMORY
from bench.tables.frames import Run, frame
from bench.tables.summary import FEW, ROUGH

PARTS = ("params", "kv_cache", "running", "total")
TENTHS = 10  # in which a baseline's steps are told
CONTEXT_BYTES = 2**29  # CUDA's context and kernels


# Tables to print


def measured(*runs: Run) -> Printed:
    """The table of an experiment, how its figures came about, and the figures by scale.

    runs: of one experiment; of several, each case's rows stand together, machine by machine.
    """
    data = merged(runs)
    text = pd.DataFrame({"method": data["method"]})
    if len(runs) > 1:
        text["machine"] = data["machine"]
    text["steps"] = ours_or_papers(data, "steps")
    text["params"] = [params_text(row) for row in data.to_dict("records")]
    for name, heading in {"batch_size": "batch", "stack": "stack", "precision": "prec."}.items():
        text[heading] = ours_or_papers(data, name)
    several = [h for h in ("batch", "stack", "prec.") if text[h][text[h] != ""].nunique() > 1]
    same = {h: text[h][text[h] != ""].iloc[0] for h in ("batch", "stack", "prec.")}
    if several_weights(data):
        text["weights"] = column(data, "weights_name", "{}")
    if has_details(data):
        text["with"] = column(data, "details", "{}")
    text = text.drop(columns=[h for h in same if h not in several])
    text["status"] = [status_text(row) for row in data.to_dict("records")]
    for shown in in_order():
        name, heading, form = shown.name, shown.heading, shown.format
        if (name in data and data[name].notna().any()) or f"{name}_paper" in data:
            text[heading] = ours_with_papers(data, name, form)
        if name == "speedup" and "speedup_by" in data:
            text[heading] = [
                f"~{cell}" if by in ROUGH else cell
                for cell, by in zip(text[heading], data["speedup_by"], strict=True)
            ]
        if name in data and f"{name}_differs" in data:
            text[heading] = [
                cell.replace(ours, f"{ours}*", 1) if differs and ours else cell
                for cell, ours, differs in zip(
                    text[heading],
                    column(data, name, form),
                    column(data, f"{name}_differs", "{}"),
                    strict=True,
                )
            ]
        if f"{name}_low" in data:
            of = "" if name == "speedup" else f"{heading} "
            text[f"{of}95 %"] = [interval_text(row, name, form) for row in data.to_dict("records")]
        if f"{name}_predicted" in data:
            text[heading.replace(" MiB", " predicted")] = column(data, f"{name}_predicted", form)
    for name in only_printed(data):
        text[name.replace("_", " ")] = ours_with_papers(data, name, "{}")
    if "tflops_predicted" in data:
        text["TFLOP"] = column(data, "tflops_predicted", "{:.3g}")
    constant = ", ".join(f"{h} {v}" for h, v in same.items() if h not in several)
    cases = [case for run in runs for case in run.sweep.cases]
    more = [part for part in (how_measured(data), *by_part(data, cases)) if len(part.text)]
    return Printed(runs[0].sweep.experiment.title, data, text, notes(runs, data, constant), more)


def only_printed(data: pd.DataFrame) -> list[str]:
    """What the paper prints and nobody measures here."""
    shown = ("method", "batch_size", "status", *papers.AS_PRINTED, *COLUMNS)
    printed = [str(name).removesuffix("_paper") for name in data if str(name).endswith("_paper")]
    return [name for name in printed if name not in shown]


def several_weights(data: pd.DataFrame) -> bool:
    """Whether rows may differ in their weights alone, so that these must be told."""
    return bool(data.get("weights_name", pd.Series(dtype=str)).nunique() > 1)


def has_details(data: pd.DataFrame) -> bool:
    return bool(data.get("details", pd.Series(dtype=str)).fillna("").any())


def merged(runs: Sequence[Run]) -> pd.DataFrame:
    """The rows of several runs of one experiment, those of one case together; a case that only
    some of them have is not a row of the others."""
    parts = [frame(run).assign(machine=machine_of(run)) for run in runs]
    parts[1:] = [part[part["status"] != "not measured"] for part in parts[1:]]  # the paper's, once
    data = pd.concat(parts, ignore_index=True)
    keys = ["case", "method"]  # a row of the paper's alone has no case
    order = data.groupby(keys, sort=False, dropna=False).ngroup()
    was_run = data["status"] != "not run"
    kept = was_run | ~(was_run.groupby(order).transform("any") | order.duplicated())
    data, order = data[kept], order[kept]
    return data.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def machine_of(run: Run) -> str:
    return run.env.get("machine", "")


def together(runs: list[Run]) -> Printed:
    """The rows of several runs in one, each with its experiment's name."""
    parts = [frame(run).assign(experiment=run.sweep.name, machine=machine_of(run)) for run in runs]
    data = pd.concat(parts, ignore_index=True)
    return Printed("", data, data)


def how_measured(data: pd.DataFrame) -> Printed:
    """What the figures rest on: rounds, samples, and what is paid once in a process."""
    data = data[data["rounds"].notna()] if "rounds" in data else data[:0]
    text = named(data)
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
    return Printed("How it was measured", data, text, found)


def named(data: pd.DataFrame) -> pd.DataFrame:
    """The columns that say which row it is."""
    text = data[["method", "batch_size", "stack"]].rename(columns={"batch_size": "batch"})
    if data.get("machine", pd.Series(dtype=str)).nunique() > 1:
        text.insert(1, "machine", data["machine"])
    if several_weights(data):
        text["weights"] = column(data, "weights_name", "{}")
    if has_details(data):
        text["with"] = column(data, "details", "{}")
    return text


def notes(runs: Sequence[Run], data: pd.DataFrame, constant: str) -> list[str]:
    """What a reader must know to read the table."""
    found = []
    if paper := runs[0].sweep.experiment.paper:
        found = [f"In brackets: the paper ({papers.load(paper).about.described})."]
    if constant:
        found.append(f"All rows: {constant}.")
    found += [f"Measured on {run.device_name}, {run.software}." for run in runs if run.env]
    found += speedup_notes(data)
    found += quality_notes(runs, data)
    if any(str(kind).startswith(MINI) for kind in data.get("weights", [])):
        found.append(
            "Weights: the small models trained on the mini world (docs/guide/mini-world.md)."
        )
    load = data.get("other_load_cores", pd.Series(dtype=float)).astype(float)
    if (load > BUSY_CORES).any():
        busy = ", ".join(dict.fromkeys(data["method"][load > BUSY_CORES]))
        found.append(f"The machine was busy with something else during: {busy}.")
    if shared := [row["method"] for row in data.to_dict("records") if is_shared(row)]:
        others = ", ".join(dict.fromkeys(shared))
        found.append(f"Other cases of the sweep ran on the same host during: {others}.")
    found += [
        f"{row['method']}: {row['status']}, {row['reason']}"
        for row in data.to_dict("records")
        if row.get("status") in (*OUT_OF_MEMORY, *FAILED)
    ]
    if "extrapolated" in data:
        found.append(
            "Extrapolated: only so many of the steps ran, evenly spread; in the time each stands "
            "for those near it.  No images came out."
        )
    found += [
        f"{row['method']}: {short}, {text}: {row[name]}"
        for row in data.to_dict("records")
        for name, (short, text) in DEGRADED.items()
        if not missing(row.get(name))
    ]
    if pools := {
        f"{row['method']} {row['graph_pool_mib']:.0f} MiB"
        for row in data.to_dict("records")
        if not missing(row.get("graph_pool_mib"))
    }:
        found.append(
            "Memory is that of kernels launched one by one; CUDA graphs have a pool in the place "
            f"of KV cache and running, which stays: {', '.join(sorted(pools))}."
        )
    if data.get("memory_differs", pd.Series(dtype=str)).fillna("").any():
        found.append(
            "Status says where memory is not as predicted: params and KV cache at all, running by "
            "more than 10 %."
        )
    return found + [complaint for run in runs for complaint in run.complaints]


def is_shared(row: Mapping[Any, Any]) -> bool:
    shared = row.get("shared_with")
    return isinstance(shared, list) and bool(shared)


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
    for row in data.to_dict("records"):
        for metric in METRICS.values():
            if not missing(differs := row.get(f"{metric.column}_differs")):
                by_difference.setdefault(str(differs), []).append(row["method"])
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


def by_part(data: pd.DataFrame, cases: Sequence[Case]) -> tuple[Printed, Printed]:
    """What each scale takes, and of methods without scales each tenth of their steps."""
    in_scales = data["method"].isin([case.label for case in cases if isinstance(case, VARCase)])
    return by_scale(data[in_scales]), by_step(data[~in_scales])


def by_scale(data: pd.DataFrame) -> Printed:
    """Latency, KV cache and work of each scale."""
    rows = []
    several = data.get("machine", pd.Series(dtype=str)).nunique() > 1
    for row in data.to_dict("records"):
        if not steps_of(row):
            continue
        predicted = numbers(row["kv_cache_by_scale_mib_predicted"], "{:.1f}")
        parts = {"GFLOP predicted": numbers(row["gflops_by_scale_predicted"], "{:.4g}")}
        if isinstance(row.get("scale_latency_s"), list):
            latency_ms = [1000 * s for s in row["scale_latency_s"]]
            kv = numbers(row["kv_cache_by_scale_mib"], "{:.1f}")
            both = [m if m == p else f"{m} ({p})" for m, p in zip(kv, predicted, strict=True)]
            parts |= {"ms": numbers(latency_ms, "{:.1f}"), "KV MiB (predicted)": both}
        else:
            parts["KV MiB predicted"] = predicted
        for name in ("peak", "live"):
            measured = isinstance(row.get(f"{name}_by_scale_mib"), list)
            what, end = (f"{name} MiB", "") if measured else (f"{name} MiB predicted", "_predicted")
            parts[what] = numbers(row[f"{name}_by_scale_mib{end}"], "{:.0f}")
        for what, cells in sorted(parts.items(), key=lambda part: part[0] != "ms"):
            which = {"method": row["method"], "batch": row["batch_size"], "stack": row["stack"]}
            if several:
                which["machine"] = row["machine"]
            if several_weights(data):
                which["weights"] = row["weights_name"]
            if has_details(data):
                which["with"] = row["details"]
            scales = {str(k): cell for k, cell in enumerate(cells, 1)}
            rows.append({**which, "by scale": what, **scales})
    table = pd.DataFrame(rows).fillna("")  # of scales that a smaller pyramid has not
    notes = [
        "KV cache: the prediction stands in brackets where it differs.",
        "Peak is the most during a scale, live what is left after it.",
    ]
    return Printed("By scale", table, table, notes)


def steps_of(row: Mapping[Any, Any]) -> list[float]:
    """A figure for each scale, or step; a row of the paper's alone has none."""
    predicted = row.get("gflops_by_scale_predicted")
    return predicted if isinstance(predicted, list) else []


def by_step(data: pd.DataFrame) -> Printed:
    """The same of the methods without scales: of each tenth of their steps."""
    rows = []
    several = data.get("machine", pd.Series(dtype=str)).nunique() > 1
    for row in data.to_dict("records"):
        steps = len(steps_of(row))
        if not steps:
            continue
        figures: dict[str, tuple[Any, Any]] = {  # of the tenth: its sum, or the most in it
            "ms": ("scale_latency_s", lambda seconds: 1000 * sum(seconds)),
            "GFLOP predicted": ("gflops_by_scale_predicted", sum),
            "cache or state MiB": ("kv_cache_by_scale_mib", max),
            "cache or state MiB predicted": ("kv_cache_by_scale_mib_predicted", max),
            "peak MiB": ("peak_by_scale_mib", max),
            "peak MiB predicted": ("peak_by_scale_mib_predicted", max),
        }
        which = {"method": row["method"], "batch": row["batch_size"], "stack": row["stack"]}
        if several:
            which["machine"] = row["machine"]
        for what, (name, told) in figures.items():
            if not isinstance(row.get(name), list):
                continue
            values = row[name]
            if len(values) < steps:  # of few steps, each of which stands for some
                values = np.repeat(values, row["stands_for"])
            tenths = np.array_split(np.array(values), min(TENTHS, steps))
            cells = {f"{i}/{len(tenths)}": f"{told(p):.4g}" for i, p in enumerate(tenths, 1)}
            rows.append({**which, "steps": row["steps"], "by step": what, **cells})
    table = pd.DataFrame(rows).fillna("")
    return Printed("By step, in tenths of the decode", table, table)


def numbers(values: Sequence[float], form: str) -> list[str]:
    return [form.format(value) for value in values]


def predictions(sweep: Sweep) -> Printed:
    """What shapes alone say of each case."""
    data = frame(Run(sweep))
    data = data[data["status"] == "not run"].drop(columns=["status"])
    data = data.loc[:, ~data.columns.str.endswith("_paper")]
    data = data.rename(columns=lambda name: str(name).removesuffix("_predicted"))
    text = data[["method", "batch_size", "stack", "precision"]].copy()
    if several_weights(data):
        text["weights"] = data["weights_name"]
    if has_details(data):
        text["with"] = data["details"]
    text["params M"] = data["params"].map(millions)
    text["params MiB"] = data["params_mib"].map("{:.1f}".format)
    text["KV cache MiB"] = data["kv_cache_mib"].map("{:.1f}".format)
    text["running MiB"] = data["running_mib"].map("{:.0f}".format)
    text["total MiB"] = data["total_mib"].map("{:.0f}".format)
    text["TFLOP"] = data["tflops"].map("{:.4g}".format)
    scales = data.rename(columns=lambda name: f"{name}_predicted" if "_by_scale" in name else name)
    title = f"{sweep.experiment.title}: predicted from shapes"
    more = [part for part in by_part(scales, sweep.cases) if len(part.text)]
    found = ["Params MiB include the VQVAE, or its like."]
    if "auto" in set(data["device"]):
        found.append("Memory is a GPU's; for this CPU's: --set device=cpu.")
    return Printed(title, data, text, found, more)


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
    return Printed(f"{sweep.experiment.title}: largest batch", data, text, notes)


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
    if name not in data:
        return ["" for _ in data.index]
    return [
        "" if missing(value) else value if isinstance(value, str) else form.format(value)
        for value in data[name]
    ]


def ours_with_papers(data: pd.DataFrame, name: str, form: str) -> list[str]:
    """Ours, and the paper's in brackets; a dash where we have not measured what it has."""
    ours, theirs = column(data, name, form), quoted(data, name, form)
    return [f"{o or '-'} ({t})" if t else o for o, t in zip(ours, theirs, strict=True)]


def quoted(data: pd.DataFrame, name: str, form: str) -> list[str]:
    """The paper's, with every digit that it prints."""
    rounded, exact = (column(data, f"{name}_paper", f) for f in (form, "{:g}"))
    return [e if len(e) > len(r.rstrip("x")) else r for r, e in zip(rounded, exact, strict=True)]


def ours_or_papers(data: pd.DataFrame, name: str) -> list[str]:
    """Ours, or else the paper's."""
    ours = column(data, name, "{}")
    return [o or t for o, t in zip(ours, column(data, f"{name}_paper", "{}"), strict=True)]


def params_text(row: Mapping[Any, Any]) -> str:
    theirs = row.get("params_paper")
    if not missing(row.get("params")):
        return f"{millions(row['params'])}M" + (f" ({theirs})" if not missing(theirs) else "")
    return f"- ({theirs})" if not missing(theirs) else ""


def millions(count: int) -> str:
    """To the million, and of the mini world's models to two digits."""
    return f"{count / 1e6:.0f}" if count >= 1e7 else f"{count / 1e6:.2g}"


def interval_text(row: Mapping[Any, Any], name: str, form: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None or missing(low) or missing(high):
        return ""
    between = " to " if low < 0 else "-"
    return f"{form.format(low)}{between}{form.format(high)}".replace("x", "")


def status_text(row: Mapping[Any, Any]) -> str:
    theirs = row.get("status_paper")
    ours = OUT_OF_MEMORY.get(row["status"], row["status"])
    differs = row.get("memory_differs")
    noted = f"; {differs}" if differs and not missing(differs) else ""
    if ours == "ok" and row.get("extrapolated") is True:
        ours += ", extrapolated"
    for name, (short, _) in DEGRADED.items():
        if ours.startswith("ok") and not missing(row.get(name)):
            ours += f", {short}"
    return ours + (" (OOM)" if theirs == "oom" else "") + noted
