"""Latency of a decode, in all and by scale; two decodes in turn; a stream of batches.

The decode knows nothing of the timer: it calls `on_scale`, which here notes the time.  On a
GPU that is an event in the stream, so nothing waits between scales; elsewhere it is the
monotonic clock.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bench.measure.card import Card
from bench.study.records import Paired, Samples, Stream
from codevar.outputs import OnScale

Run = Callable[[OnScale], object]
ENERGY_S = 2.0  # for which an energy counter must run: it moves in steps of up to 100 ms


class Marks:
    """Seconds between the scales of one decode."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list = []

    def __call__(self, k: int) -> None:
        """Notes the time after scale k, in the device's stream."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def wait(self, i: int) -> None:
        """Until what was queued before mark `i` is done."""
        if self.device.type == "cuda":
            self._marks[i].synchronize()

    def seconds(self) -> list[float]:
        """One figure between every two marks."""
        pairs = itertools.pairwise(self._marks)
        if self.device.type == "cuda":
            self._marks[-1].synchronize()
            return [a.elapsed_time(b) / 1000 for a, b in pairs]
        return [b - a for a, b in pairs]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Warm-up: at least `warmup` decodes, and until one is no faster than the one before.
    Sampling: at least `samples` decodes, and until the 95 % interval of their median is within
    `target` of it, or has stopped narrowing; but no longer than `max_seconds` each.
    """

    warmup: int
    samples: int
    target: float
    max_seconds: float


def time_by_scale(run: Run, device: torch.device) -> list[float]:
    """Seconds by scale of one decode."""
    marks = Marks(device)
    run(marks)
    return marks.seconds()


def take_samples(
    run: Run,
    decode_images: Callable[[], object],
    device: torch.device,
    effort: Effort,
    card: Card,
    stands_for: Sequence[int] = (),
) -> Samples:
    """Warms up, then decodes until the effort says it is enough.

    stands_for: how many steps each step that runs stands for, if not all run.
    """

    def whole(by_step: list[float]) -> float:
        if not stands_for:
            return sum(by_step)
        return sum(n * seconds for n, seconds in zip(stands_for, by_step, strict=True))

    taken = Samples.model_construct(
        warmup_latency_s=[], latency_s=[], scale_latency_s=[], vqvae_latency_s=[]
    )
    clock = Budget(effort.max_seconds)
    while not (is_warm(taken.warmup_latency_s, effort.warmup) or clock.is_over()):
        taken.warmup_latency_s.append(whole(time_by_scale(run, device)))
    taken.steady = is_warm(taken.warmup_latency_s, effort.warmup)

    clock, widths, before = Budget(effort.max_seconds), [], card.energy_j()
    card.throttled()
    while not taken.stopped_by:
        by_scale = time_by_scale(run, device)
        if reasons := card.throttled():
            taken.discarded_latency_s.append(whole(by_scale))
            taken.discarded_for = sorted({*taken.discarded_for, *reasons})
            taken.stopped_by = "time" if clock.is_over() else ""
            continue
        taken.latency_s.append(whole(by_scale))
        taken.scale_latency_s.append(by_scale)
        widths.append(relative_width(taken.latency_s))
        taken.stopped_by = stop_reason(widths, effort, clock)
    after = card.energy_j()
    long_enough = clock.spent() > ENERGY_S and not stands_for
    if before is not None and after is not None and long_enough:
        taken.energy_j = after - before

    def images(mark: OnScale) -> None:
        mark(0)
        decode_images()
        mark(1)

    if effort.warmup > 0:
        time_by_scale(images, device)
    clock = Budget(effort.max_seconds / 2)
    while len(taken.vqvae_latency_s) < len(taken.latency_s) and not (
        taken.vqvae_latency_s and clock.is_over()
    ):
        taken.vqvae_latency_s += time_by_scale(images, device)
    return taken


def take_pairs(baseline: Run, run: Run, device: torch.device, effort: Effort, card: Card) -> Paired:
    """Both in turn, A B B A, until the median of their ratio is known as well as the effort asks.

    Both must have run before.  Turns end as often after one as after the other, as a machine that
    drifts favours the same one of A B each time.
    """
    taken = Paired.model_construct()
    ratios: list[float] = []
    widths: list[float] = []
    for _ in range(effort.warmup):
        time_by_scale(baseline, device)
        time_by_scale(run, device)
    clock = Budget(2 * effort.max_seconds)
    card.throttled()
    while not taken.stopped_by:
        order = (run, baseline) if len(ratios) % 2 else (baseline, run)
        seconds = {which: sum(time_by_scale(which, device)) for which in order}
        if card.throttled():
            taken.discarded += 1
            taken.stopped_by = "time" if clock.is_over() else ""
            continue
        taken.latency_s.append(seconds[run])
        taken.baseline_latency_s.append(seconds[baseline])
        ratios.append(seconds[baseline] / seconds[run])
        widths.append(relative_width(ratios))
        if len(ratios) % 2 == 0:
            taken.stopped_by = stop_reason(widths, effort, clock)
    return taken


def time_stream(batch: Callable[[int], object], device: torch.device, seconds: float) -> Stream:
    """Sustained throughput: batch 0, 1, 2, ... without a pause for that many seconds.

    On a GPU the next batch is launched while one still runs, as a server would; two at most are
    in flight, or the host would run ahead of the card without end.
    """
    clock, marks = Budget(seconds), Marks(device)
    batch(0)
    marks(0)
    for i in itertools.count(1):
        batch(i)
        marks(i)
        marks.wait(i - 1)
        if clock.is_over():
            break
    return Stream(batch_s=marks.seconds())


class Budget:
    """Seconds that may pass."""

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.perf_counter(), seconds

    def spent(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.began

    def is_over(self) -> bool:
        """Whether they have passed."""
        return self.spent() >= self.seconds


def is_warm(latencies: list[float], least: int) -> bool:
    """Whether the last warm-up was not clearly faster than the one before; 0 asks for none."""
    if least == 0:
        return True
    return len(latencies) >= max(least, 2) and latencies[-1] > 0.95 * latencies[-2]


def stop_reason(widths: list[float], effort: Effort, clock: Budget) -> str:
    """What ends the sampling, or "".

    widths: after each sample, the relative width of the median's interval.
    """
    if len(widths) >= effort.samples and widths[-1] <= 2 * effort.target:
        return "target"
    window = 12  # NVBench's idea: more samples no longer help
    if len(widths) >= max(effort.samples, 2 * window):
        before, now = widths[-2 * window : -window], widths[-window:]
        if statistics.median(now) > 0.98 * statistics.median(before):
            return "noise"
    return "time" if clock.is_over() else ""


def relative_width(samples: list[float]) -> float:
    """Width of the median's 95 % interval over the median; infinite below six samples."""
    low, high = median_interval(samples)
    return (high - low) / statistics.median(samples)


def median_interval(samples: list[float]) -> tuple[float, float]:
    """95 % interval of the median from order statistics: no assumption but independence."""
    n, ordered, below, k = len(samples), sorted(samples), 0.0, 0
    if n < 6:
        return -math.inf, math.inf
    while (below := below + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    return ordered[k - 1], ordered[n - k]
