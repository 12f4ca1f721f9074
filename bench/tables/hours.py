"""Hours and cost of a sweep, or of sampling a set of images, from FLOPs and a rate.

An estimate before anything runs: one rate for all cases, though small batches reach less of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from bench.predict import durations
from bench.predict.durations import Span, decoder_flops
from bench.predict.prediction import predict
from bench.predict.shares import families
from bench.study.cases import Case, sampled
from bench.study.experiment import Sweep
from bench.study.printing import Printed

# Assumed of a process: to start, to import torch, to load or make its weights.
START_S = 20.0


@dataclass(frozen=True)
class Terms:
    """rate: FLOP/s that a card reaches.  price: of an hour of one card.  gpus: cards at a time.
    images: to sample with each case; None: the sweep is to be measured."""

    rate: float
    price: float | None = None
    gpus: int = 1
    images: int | None = None


def decode_s(case: Case, rate: float) -> float:
    """Seconds of a decode on a card that reaches so many FLOP/s."""
    return sum(predict(case).flops) / rate


def images_s(case: Case, rate: float) -> float:
    """Of the image decoder, one batch."""
    return case.batch_size * decoder_flops(case) / rate


def sampling(case: Case, images: int, rate: float, gpus: int = 1) -> Span:
    """Of so many images by cards that share the batches, decoder included, writing not."""
    batches = -(-images // (case.batch_size * gpus))
    seconds = START_S + batches * (decode_s(case, rate) + images_s(case, rate))
    return Span(seconds, seconds)


def measuring(case: Case, sweep: Sweep, rate: float) -> Span:
    """Of all rounds of a case."""
    baseline = sweep.baseline_case(case) if sweep.experiment.paired else None
    pair = None
    if baseline is not None and baseline != case:
        pair = decode_s(case, rate) + decode_s(baseline, rate)
    spent = durations.measuring(sweep.experiment, decode_s(case, rate), images_s(case, rate), pair)
    starts = Span(START_S, START_S if pair is None else 2 * START_S)
    return (starts + spent) * sweep.experiment.rounds


def on_cards(jobs: list[float], gpus: int) -> float:
    """When the last is done, if each card takes the next, the largest first."""
    busy = [0.0] * gpus
    for seconds in sorted(jobs, reverse=True):
        busy.sort()
        busy[0] += seconds
    return max(busy)


def estimate(sweep: Sweep, terms: Terms) -> Printed:
    """The table of `bench.py predict --rate`; to sample, of what can be sampled."""
    cases = sampled(sweep.cases, sweep.name) if terms.images else sweep.cases
    spans = {
        case.key: sampling(case, terms.images, terms.rate)
        if terms.images
        else measuring(case, sweep, terms.rate)
        for case in cases
    }
    rows = [
        {
            "method": case.label,
            "batch_size": case.batch_size,
            "stack": case.stack,
            "precision": case.precision,
            "tflops": sum(predict(case).flops) / 1e12,
            "decoder_tflops": images_s(case, 1e12),
            "decode_s": decode_s(case, terms.rate),
            "hours_least": spans[case.key].least / 3600,
            "hours_most": spans[case.key].most / 3600,
        }
        for case in cases
    ]
    data = pd.DataFrame(rows)
    text = data[["method", "batch_size", "stack"]].rename(columns={"batch_size": "batch"})
    for name, heading in (
        ("tflops", "TFLOP"),
        ("decoder_tflops", "decoder TFLOP"),
        ("decode_s", "decode s"),
        ("hours_least", "hours at least"),
        ("hours_most", "at most"),
    ):
        text[heading] = data[name].map("{:.3g}".format)
    if terms.images:  # all cards share the images of each case
        shared = [sampling(case, terms.images, terms.rate, terms.gpus).most for case in cases]
        ends = Span(sum(shared) / 3600, sum(shared) / 3600)
    else:
        jobs = [[spans[case.key] for case in family.cases] for family in families(sweep, "any")]
        least = on_cards([sum(span.least for span in job) for job in jobs], terms.gpus)
        most = on_cards([sum(span.most for span in job) for job in jobs], terms.gpus)
        ends = Span(least / 3600, most / 3600)
    hours = Span(data["hours_least"].sum(), data["hours_most"].sum())
    what = f"{terms.images} images of each" if terms.images else "all rounds of all"
    notes = [
        f"One card, {what}: {said(hours)} hours.",
        f"At {terms.rate / 1e12:g} TFLOP/s for all, which small batches do not reach, and "
        f"{START_S:g} s for a process to start and load.",
    ]
    if terms.gpus > 1:
        notes.insert(1, f"{terms.gpus} cards: {said(ends)} hours until the last is done.")
    if terms.price is not None:
        paid = said(ends * (terms.price * terms.gpus))
        notes.append(f"At {terms.price:g} an hour for each card until then: {paid}.")
    return Printed(f"{sweep.experiment.title}: hours", data, text, notes, names=3)


def said(span: Span) -> str:
    """A span in two digits: "0.5 to 1.2"."""
    least, most = f"{span.least:.2g}", f"{span.most:.2g}"
    return least if least == most else f"{least} to {most}"
