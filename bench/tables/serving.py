"""Requests that arrive at a rate, answered by batches of one method on one device.

The clock is simulated: arrivals are a Poisson process of a seed, and a batch takes what a measured
one of its size took, drawn from the samples.  So the same records, rate and seed give the same
table on any machine.  A batch of n runs at the smallest measured size that holds it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bench.study.columns import format_figure
from bench.study.errors import UsageError
from bench.study.printing import Printed
from bench.tables.frames import Run

Batches = Mapping[int, Sequence[float]]  # seconds from start to image, by measured batch size


@dataclass(frozen=True)
class Policy:
    """When a batch starts: as soon as it is full, or its oldest request has waited.

    max_batch: images.  wait_s: seconds.  limit_s: within which a request counts as goodput.
    """

    max_batch: int
    wait_s: float
    limit_s: float


@dataclass(frozen=True)
class Served:
    """What requests met.  Times in seconds from arrival to image; rates in requests a second."""

    rate: float
    batch: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    goodput: float
    within: float


def serve(batches: Batches, rate: float, policy: Policy, requests: int, seed: int) -> Served:
    """Simulates so many requests; the first tenth, which find an empty queue, do not count."""
    sizes = [size for size in sorted(batches) if size <= policy.max_batch]
    if not sizes:
        raise UsageError(f"no batch of at most {policy.max_batch} was measured")
    arrivals_rng, service_rng = np.random.default_rng(seed).spawn(2)
    arrival = np.cumsum(arrivals_rng.exponential(1 / rate, requests))
    done, members, first, free = np.empty(requests), [], 0, 0.0
    while first < requests:
        full = first + sizes[-1] - 1
        filled = arrival[full] if full < requests else np.inf
        start = max(free, min(filled, arrival[first] + policy.wait_s))
        waiting = int(np.searchsorted(arrival, start, side="right"))
        last = min(max(waiting, first + 1), first + sizes[-1])
        size = next(size for size in sizes if size >= last - first)
        free = start + float(service_rng.choice(batches[size]))
        done[first:last] = free
        members.append(last - first)
        first = last
    counted = slice(requests // 10, None)
    times = (done - arrival)[counted]
    span = done[-1] - arrival[requests // 10]
    p50, p90, p99 = np.quantile(times, (0.5, 0.9, 0.99))
    good = int((times <= policy.limit_s).sum())
    return Served(
        rate=rate,
        batch=float(np.mean(members)),
        mean_s=float(times.mean()),
        p50_s=float(p50),
        p90_s=float(p90),
        p99_s=float(p99),
        goodput=good / span,
        within=good / len(times),
    )


def capacity(batches: Batches, policy: Policy) -> float:
    """The most images a second that batches of a measured size give."""
    return max(
        (size / float(np.mean(seconds)) for size, seconds in batches.items()
         if size <= policy.max_batch),
        default=0.0,
    )  # fmt: skip


def measured_batches(run: Run) -> dict[tuple[str, str], dict[int, list[float]]]:
    """Seconds to images of every batch size, by method and stack: each sample of the decode with
    the median of the VQVAE's."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for record in run.records:
        if record.samples is None or not record.ok:
            continue
        vqvae = float(np.median(record.samples.vqvae_latency_s or [0.0]))
        by_size = found.setdefault((record.method, record.stack), {})
        seconds = [latency + vqvae for latency in record.samples.latency_s]
        by_size.setdefault(record.batch_size, []).extend(seconds)
    return found


def table(
    run: Run, rates: Sequence[float], policy: Policy, requests: int = 20_000, seed: int = 0
) -> Printed:
    """A row for each method, stack and rate, with its ranks by goodput and by batch throughput.

    rates: requests a second; none: shares of what the fastest can do.  Raises UsageError for a run
    without measured batches.
    """
    methods = {
        which: {size: s for size, s in by_size.items() if size <= policy.max_batch}
        for which, by_size in measured_batches(run).items()
    }
    methods = {which: by_size for which, by_size in methods.items() if by_size}
    if not methods:
        raise UsageError(f"{run.sweep.name}: no batch of at most {policy.max_batch} was measured")
    most = max(capacity(batches, policy) for batches in methods.values())
    rows: list[dict[str, Any]] = []
    for rate in rates or [float(f"{share * most:.2g}") for share in (0.25, 0.5, 0.9)]:
        for (method, stack), batches in methods.items():
            served = serve(batches, rate, policy, requests, seed)
            whole = {"method": method, "stack": stack, **asdict(served)}
            rows.append(whole | {"capacity": capacity(batches, policy)})
    data = pd.DataFrame(rows)
    by_rate = data.groupby("rate")
    data["goodput_rank"] = by_rate["goodput"].rank(ascending=False, method="min").astype(int)
    data["capacity_rank"] = by_rate["capacity"].rank(ascending=False, method="min").astype(int)
    differ = data[data["goodput_rank"] != data["capacity_rank"]]
    notes = [
        f"Simulated: {requests:,} requests at random (Poisson, seed {seed}), batches of at most "
        f"{policy.max_batch} that wait at most {policy.wait_s:g} s, each as long as a measured one "
        f"of {run.device_name}, decode and VQVAE.",
        f"Goodput: requests a second whose image came within {policy.limit_s:g} s.  Capacity: "
        "images a second of the best full batches.  -: more requests than that; the queue grows.",
        "The ranking by goodput is that by batch throughput."
        if differ.empty
        else "The rankings by goodput and by batch throughput differ for "
        + ", ".join(dict.fromkeys(f"{r.method} at {r.rate:g}/s" for r in differ.itertuples()))
        + ".",
    ]
    return Printed("Requests served", data, as_text(data), notes)


def as_text(data: pd.DataFrame) -> pd.DataFrame:
    """The cells as they are printed."""
    text = data[["method", "stack"]].copy()
    for name, heading, form in (
        ("rate", "requests/s", "{:g}"),
        ("batch", "mean batch", "{:.1f}"),
        ("p50_s", "p50 s", "{:.3g}"),
        ("p90_s", "p90 s", "{:.3g}"),
        ("p99_s", "p99 s", "{:.3g}"),
        ("goodput", "goodput/s", "{:.3g}"),
        ("within", "within limit", "{:.1%}"),
        ("capacity", "capacity/s", "{:.3g}"),
        ("goodput_rank", "rank", "{}"),
        ("capacity_rank", "by capacity", "{}"),
    ):
        text[heading] = data[name].map(partial(format_figure, form))
    late = data["rate"] > data["capacity"]
    text.loc[late, ["p50 s", "p90 s", "p99 s"]] = "-"  # the queue only grows
    return text
