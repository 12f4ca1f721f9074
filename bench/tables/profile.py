"""The page of a machine: its ceilings, each method's time over its floor, and what follows.

`page` takes any run and the ceilings of the device it was measured on; `tables_of` a profile.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.measure.machine import BUSY_CORES
from bench.predict.ceilings import Ceilings
from bench.predict.ceilings import load as load_ceilings
from bench.predict.floor import Floor, beats, compute_bound_from, floor_of, launches
from bench.study.cases import VARCase
from bench.study.columns import rounded
from bench.study.printing import Printed
from bench.study.records import SESSION
from bench.tables import case_rows, frames, session_tables
from bench.tables.case_rows import Row
from bench.tables.frames import Run

PICTURE, PAGE = "profile", "profile.md"


def rows_with_floor(run: Run, ceilings: Ceilings) -> list[Row]:
    """The measured rows but for baselines, each with `floor` and, of each scale, `over_floor`."""
    rows = [row for row in case_rows.rows_of(run) if "latency_s" in row]
    rows = [row for row in rows if isinstance(row["case"], VARCase)]
    for row in rows:
        row["floor"] = floor_of(row["case"], ceilings)
        row["over_floor"] = [
            measured / least
            for measured, least in zip(row["scale_latency_s"], row["floor"].seconds, strict=True)
        ]
        row["beats_floor"] = beats(row["latency_s"], sum(row["floor"].seconds))
    return rows


def first_names(rows: Sequence[Row], most: int) -> list[str]:
    """The methods that a picture has room for, or that are worth looking into."""
    return case_rows.distinct(rows, "name")[:most]


# Tables


def page(run: Run, ceilings: Ceilings) -> Printed:
    """Ceilings, methods, scales."""
    rows = rows_with_floor(run, ceilings)
    first = ceilings_table(run, ceilings)
    if wrong := [row["name"] for row in rows if row["beats_floor"]]:
        first.title += ": invalid"
        first.notes.insert(0, f"Invalid, as faster than they allow: {', '.join(wrong)}.")
    first.more = [methods_table(rows, run, ceilings), scales_table(rows)] if rows else []
    lost = [row for row in case_rows.rows_of(run) if "latency_s" not in row]
    if lost:
        told = ", ".join(
            f"{row['name']} batch {row['batch_size']} ({row['status']})" for row in lost
        )
        (first.more or [first])[-1].notes.append(f"Not measured: {told}.")
    return first


def ceilings_table(run: Run, ceilings: Ceilings) -> Printed:
    """What the machine reaches at best."""
    kinds = dict.fromkeys(product.precision for product in ceilings.products)
    lines = [
        (f"matrix product, {kind}", rate(best.flop_per_s), f"{best.M} x {best.K} x {best.N}")
        for kind in kinds
        for best in [ceilings.best(kind)]
    ]
    lines += [
        ("copy, read + written", bandwidth(ceilings.copy_bytes_per_s), "beyond the caches"),
        ("read", bandwidth(ceilings.read_bytes_per_s), "beyond the caches"),
        ("launch of an operator", f"{ceilings.launch_s * 1e6:.2f} us", "back to back"),
    ]
    text = pd.DataFrame(lines, columns=["ceiling", "measured", "at"])
    notes = ["The best sustained: calls back to back for 0.1 s, best of the blocks and shapes."]
    if ceilings.other_load_cores > BUSY_CORES:
        notes.append(f"Machine busy meanwhile ({ceilings.other_load_cores:.1f} cores): too low.")
    device = run.device_name
    if ceilings.device == "cpu":
        device += f", threads: {ceilings.threads}"
    data = pd.DataFrame([product.model_dump() for product in ceilings.products])
    return Printed(f"Ceilings of {device}", data, text, notes)


def rate(flop_per_s: float) -> str:
    """FLOP/s as text, in TFLOP/s."""
    return f"{rounded(flop_per_s / 1e12)} TFLOP/s"


def bandwidth(bytes_per_s: float) -> str:
    """Bytes a second as text, in GiB/s."""
    return f"{rounded(bytes_per_s / 2**30)} GiB/s"


def methods_table(rows: list[Row], run: Run, ceilings: Ceilings) -> Printed:
    """Each method's time, its floor, what bounds it, and from which batch on FLOPs do."""
    lines, looked_into = [], first_names(rows, 6)
    turns_of = functools.cache(lambda alone: compute_bound_from(alone, ceilings))
    for row in rows:
        floor: Floor = row["floor"]
        alone, turns, launched = row["case"].model_copy(update={"batch_size": 1}), "", ""
        if row["name"] in looked_into:
            turns = str(turns_of(alone) or "never")
            launched = rounded(launches(alone) * ceilings.launch_s)
        lines.append(
            {
                "method": row["name"],
                "batch": row["batch_size"],
                "stack": row["stack"],
                "latency s": rounded(row["latency_s"]),
                "images/s": rounded(row["throughput_img_s"]),
                "speed-up": f"{row['speedup']:.2f}x" if "speedup" in row else "",
                "total MiB": f"{row['total_mib']:.0f}",
                "reached": rate(sum(floor.flops) / row["latency_s"]),
                "floor s": rounded(sum(floor.seconds)),
                "over floor": f"{row['latency_s'] / sum(floor.seconds):.2f}x"
                + ", invalid" * row["beats_floor"],
                "bound by": "compute" if floor.compute_bound else "memory",
                "compute-bound from batch": turns,
                "launches s": launched,
            }
        )
    text = pd.DataFrame(lines)
    busy = [row["name"] for row in rows if row.get("other_load_cores", 0) > BUSY_CORES]
    notes = [
        "Floor: at each scale the larger of FLOPs over the matrix rate and bytes over the "
        "bandwidth; bytes are weights, KV cache and logits, each moved once a pass.",
        "Bound by: which of the two is larger over the decode.  Launches: operators called "
        "times the launch, not part of the floor; a GPU hides them where its kernels take longer.",
    ]
    if any(row["weights"] == "seeded" for row in rows):
        notes.append("Weights are random, from a seed: right for speed and memory.")
    if busy:
        notes.append(f"Machine busy during {', '.join(dict.fromkeys(busy))}.")
    if any(row["beats_floor"] for row in rows):
        notes.append("Invalid: no decode is faster than its floor, so the ceilings are too low.")
    return Printed("Methods", text, text, notes)


def scales_table(rows: list[Row]) -> Printed:
    """Time over floor of each scale; a star where bytes are the floor."""
    lines = []
    for row in rows:
        floor: Floor = row["floor"]
        named = {"method": row["name"], "batch": row["batch_size"], "stack": row["stack"]}
        cells = {
            str(k): f"{over:.1f}" + "*" * (memory > compute) + " !" * beats(over, 1)
            for k, (over, compute, memory) in enumerate(
                zip(row["over_floor"], floor.compute_s, floor.memory_s, strict=True), 1
            )
        }
        lines.append(named | cells)
    text = pd.DataFrame(lines)
    notes = ["A star: bytes over bandwidth is the floor there, else FLOPs over the matrix rate."]
    if any("!" in str(cell) for cell in text.to_numpy().flat):
        notes.append("!: less than its floor, so the ceilings are too low.")
    return Printed("Time over floor by scale", text, text, notes)


# A profile


def load(folder: Path) -> Run:
    """A profile with the cases that its sessions came to.  Raises UsageError."""
    run = frames.load(folder)
    run.sweep.cases = [case for case in run.sweep.cases if case.key in run.by_key]
    return run


def tables_of(run: Run) -> list[Printed]:
    """Of a run that is a profile: the page, which method wins at which batch, memory, what is left
    and what to mistrust.  [] for another run, or without ceilings."""
    if run.folder is None or not (run.folder / SESSION).exists():
        return []
    top = load_ceilings(run.folder)
    if top is None:
        return []
    first = page(run, top)
    rows = [row for row in case_rows.rows_of(run) if "latency_s" in row]
    more = [winners(rows), memory(rows), session_tables.left(run), session_tables.checks(run)]
    mistrusted = session_tables.anomalies(run, rows_with_floor(run, top), top)
    return [first, *first.more, *(table for table in more if len(table.text)), mistrusted]


def winners(rows: Sequence[Row]) -> Printed:
    """By stack and batch, the images a second of VAR, CoDe and VARiant, and which is fastest."""
    plain = [
        row
        for row in rows
        if isinstance(row["case"], VARCase)
        and row["case"].attention == "auto"
        and row["case"].memory_limit_gib is None
    ]
    methods = {row["case"].method: row["name"] for row in reversed(plain)}
    shown = [name for name in first_names(plain, len(plain)) if name in methods.values()]
    lines = []
    for stack in case_rows.stacks_of(plain):
        for batch in sorted(case_rows.distinct(plain, "batch_size")):
            alike = [r for r in plain if (r["stack"], r["batch_size"]) == (stack, batch)]
            rates = {row["name"]: row["throughput_img_s"] for row in alike}
            if len(rates) < 2:
                continue
            fastest, second = sorted(rates, key=lambda name: -rates[name])[:2]
            lines.append(
                {
                    "stack": stack,
                    "batch": batch,
                    **{name: rounded(rates[name]) if name in rates else "" for name in shown},
                    "fastest": fastest,
                    "over the next": f"{rates[fastest] / rates[second]:.2f}x {second}",
                }
            )
    text = pd.DataFrame(lines)
    notes = ["Images a second, of all methods measured.  Quality is not in it: `recommend`."]
    return Printed("Which method wins at which batch", text, text, notes)


def memory(rows: Sequence[Row]) -> Printed:
    """Measured against predicted, a row for each case."""
    lines = [
        {
            "method": row["name"],
            "batch": row["batch_size"],
            "stack": row["stack"],
            "total MiB": f"{row['total_mib']:.0f}",
            "predicted": f"{row['total_mib_predicted']:.0f}",
            "over": f"{row['total_mib'] / row['total_mib_predicted'] - 1:+.1%}",
            "KV cache MiB": f"{row['kv_cache_mib']:.1f}",
            "differs": row.get("memory_differs", ""),
        }
        for row in rows
    ]
    text = pd.DataFrame(lines)
    return Printed("Memory against prediction", text, text)


# The page in Markdown


def about(run: Run) -> list[str]:
    """Machine, versions and commit, a line each."""
    env = run.env
    gpus = [f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in env.get("gpus", [])]
    drivers = {f"driver {gpu['driver']}" for gpu in env.get("gpus", []) if "driver" in gpu}
    facts = {
        "GPU": "; ".join([*gpus, *sorted(drivers)]),
        "CPU": f"{env.get('cpu')}, {env.get('cpu_threads')} threads, {env.get('memory_gib')} GiB",
        "Software": f"{run.software}, Python {env.get('python')}, {env.get('os')}",
        "CUDA": env.get("cuda") if gpus else "",
    }
    return [f"- {name}: {value}" for name, value in facts.items() if value] + [""]
