"""The page of a machine: its ceilings, each method's time over its floor, as tables and picture.

`page` takes a run (of `experiments/profile.toml`, but any run will do) and the ceilings of the
device it was measured on.
"""

from __future__ import annotations

import pandas as pd

from bench.measure.machine import BUSY_CORES
from bench.predict.ceilings import Ceilings
from bench.predict.floor import Floor, compute_bound_from, floor_of, launches
from bench.study.cases import VARCase
from bench.study.printing import Printed
from bench.tables import case_rows
from bench.tables.case_rows import Row
from bench.tables.frames import Run

# Of a device's kind: precision and batch sizes that a first look takes minutes with.
DEFAULTS = {
    "cpu": ("precision=float32", "batch_size=1,4"),
    "cuda": ("precision=fp16", "batch_size=1,8,64"),
}
PICTURE, PAGE = "profile", "profile.md"


def axes_of(kind: str, depth: int, precision: str | None) -> list[str]:
    """The experiment's axes for a device ("cpu", "cuda") and a depth: CoDe's refiner is d16
    below a d20 or larger, as in the paper, else half as deep; VARiant keeps half the layers."""
    refiner = 16 if depth >= 20 else depth // 2
    chosen = [f"precision={precision}"] if precision else []
    sizes = [f"depth={depth}", f"refiner_depth={refiner}", f"subnet_depth={depth // 2}"]
    return [*sizes, *DEFAULTS[kind], *chosen]


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
    return rows


# Tables


def page(run: Run, ceilings: Ceilings) -> Printed:
    """Ceilings, methods, scales."""
    rows = rows_with_floor(run, ceilings)
    first = ceilings_table(run, ceilings)
    first.more = [methods_table(rows, run, ceilings), scales_table(rows)] if rows else []
    lost = [row for row in case_rows.rows_of(run) if "latency_s" not in row]
    if lost:
        told = ", ".join(
            f"{row['name']} batch {row['batch_size']} ({row['status']})" for row in lost
        )
        (first.more or [first])[-1].notes.append(f"Not measured: {told}.")
    return first


def ceilings_table(run: Run, ceilings: Ceilings) -> Printed:
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
    return f"{flop_per_s / 1e12:.3g} TFLOP/s"


def bandwidth(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 2**30:.3g} GiB/s"


def methods_table(rows: list[Row], run: Run, ceilings: Ceilings) -> Printed:
    """Each method's time, its floor, what bounds it, and from which batch on FLOPs do."""
    lines = []
    for row in rows:
        floor: Floor = row["floor"]
        alone = row["case"].model_copy(update={"batch_size": 1})
        turns = compute_bound_from(row["case"], ceilings)
        lines.append(
            {
                "method": row["name"],
                "batch": row["batch_size"],
                "stack": row["stack"],
                "latency s": f"{row['latency_s']:.3g}",
                "images/s": f"{row['throughput_img_s']:.3g}",
                "speed-up": f"{row['speedup']:.2f}x" if "speedup" in row else "",
                "total MiB": f"{row['total_mib']:.0f}",
                "reached": rate(sum(floor.flops) / row["latency_s"]),
                "floor s": f"{sum(floor.seconds):.3g}",
                "over floor": f"{row['latency_s'] / sum(floor.seconds):.2f}x",
                "bound by": "compute" if floor.compute_bound else "memory",
                "compute-bound from batch": "never" if turns is None else str(turns),
                "launches s": f"{launches(alone) * ceilings.launch_s:.3g}",
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
    return Printed("Methods", text, text, notes)


def scales_table(rows: list[Row]) -> Printed:
    """Time over floor of each scale; a star where bytes are the floor."""
    lines = []
    for row in rows:
        floor: Floor = row["floor"]
        named = {"method": row["name"], "batch": row["batch_size"], "stack": row["stack"]}
        cells = {
            str(k): f"{over:.1f}" + ("*" if memory > compute else "")
            for k, (over, compute, memory) in enumerate(
                zip(row["over_floor"], floor.compute_s, floor.memory_s, strict=True), 1
            )
        }
        lines.append(named | cells)
    text = pd.DataFrame(lines)
    notes = ["A star: bytes over bandwidth is the floor there, else FLOPs over the matrix rate."]
    return Printed("Time over floor by scale", text, text, notes)


# The page in Markdown


def about(run: Run, command: str) -> list[str]:
    """Machine, versions, commit and command, a line each."""
    env = run.env
    gpus = [f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in env.get("gpus", [])]
    drivers = {f"driver {gpu['driver']}" for gpu in env.get("gpus", []) if "driver" in gpu}
    facts = {
        "GPU": "; ".join([*gpus, *sorted(drivers)]),
        "CPU": f"{env.get('cpu')}, {env.get('cpu_threads')} threads, {env.get('memory_gib')} GiB",
        "Software": f"{run.software}, Python {env.get('python')}, {env.get('os')}",
        "CUDA": env.get("cuda") if gpus else "",
        "Command": f"`{command}`",
    }
    return [f"- {name}: {value}" for name, value in facts.items() if value] + [""]


# The picture
