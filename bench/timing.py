"""Latency of a decode, in all and by scale.

The decode knows nothing of the timer: it calls `on_scale`, which here notes the time.  On a
GPU that is an event in the stream, so nothing waits between scales; elsewhere it is the
monotonic clock.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from codevar.decode import OnScale

Run = Callable[[OnScale], object]


class Marks:
    """Seconds between the scales of one decode."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list = []

    def __call__(self, k: int) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """One figure between every two marks."""
        pairs = itertools.pairwise(self._marks)
        if self.device.type == "cuda":
            self._marks[-1].synchronize()
            return [a.elapsed_time(b) / 1000 for a, b in pairs]
        return [b - a for a, b in pairs]


@dataclass
class Samples:
    """Raw samples; every statistic is computed by who reads them.

    latency_s: the whole decode without the VQVAE.  scale_latency_s: by scale, a list for each
    sample.  vqvae_latency_s: of the VQVAE's decoder.  warmup_latency_s: decodes not counted.
    """

    latency_s: list[float] = field(default_factory=list)
    scale_latency_s: list[list[float]] = field(default_factory=list)
    vqvae_latency_s: list[float] = field(default_factory=list)
    warmup_latency_s: list[float] = field(default_factory=list)


def once(run: Run, device: torch.device) -> list[float]:
    """Seconds by scale of one decode."""
    marks = Marks(device)
    run(marks)
    return marks.seconds()


def sample(
    run: Run,
    decode_images: Callable[[], object],
    device: torch.device,
    warmup: int,
    samples: int,
    max_seconds: float,
) -> Samples:
    """Decodes, one after the other, until there are enough or the time is over."""
    taken = Samples()
    for _ in range(warmup):
        taken.warmup_latency_s.append(sum(once(run, device)))
    began = time.perf_counter()
    while len(taken.latency_s) < samples:
        by_scale = once(run, device)
        taken.latency_s.append(sum(by_scale))
        taken.scale_latency_s.append(by_scale)
        if time.perf_counter() - began > max_seconds:
            break
    for i in range(len(taken.latency_s) + 1):
        marks = Marks(device)
        marks(0)
        decode_images()
        marks(1)
        if i > 0:  # the first one warms up
            taken.vqvae_latency_s += marks.seconds()
        if time.perf_counter() - began > 2 * max_seconds:
            break
    return taken
