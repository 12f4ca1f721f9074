"""How long a process measures, from the seconds of a decode; and the work of the image decoders."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.methods.baseline import Baseline
from bench.methods.meta import meta_plan, vqvae_config
from bench.predict import baselines
from bench.study.cases import Case
from bench.study.experiment import Experiment
from codevar import VQVAE, VQVAEConfig


@dataclass(frozen=True)
class Span:
    """Seconds, at least and at most."""

    least: float
    most: float

    def __add__(self, other: Span) -> Span:
        return Span(self.least + other.least, self.most + other.most)

    def __mul__(self, times: float) -> Span:
        return Span(times * self.least, times * self.most)


@functools.cache
def decoder_flops(case: Case) -> int:
    """Of the image decoder, one image."""
    if isinstance(case, Baseline):
        return baselines.decoder_flops(case)
    patch_sizes = meta_plan(case).scales.patch_sizes
    return vqvae_flops(replace(vqvae_config(case), patch_sizes=patch_sizes))


@functools.cache
def vqvae_flops(config: VQVAEConfig) -> int:
    """FLOPs of decoding one image's features to pixels."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        side = config.patch_sizes[-1]
        VQVAE(config).decode_features(torch.empty(1, config.channels, side, side))
    return counter.get_total_flops()


class Speed(Protocol):
    """Seconds of a case's parts: its decode, its images, and its process until the first decode,
    with the weights of a baseline in it."""

    def decode_s(self, case: Case) -> float:
        """Of a decode."""

    def images_s(self, case: Case) -> float:
        """Of a batch's images."""

    def starting_s(self, case: Case, baseline: Case | None) -> Span:
        """Of a process until its first decode."""


def of_round(case: Case, baseline: Case | None, effort: Experiment, speed: Speed) -> Span:
    """Of one round of a case, as `bench.measure.child` goes through it.  It stops when a figure is
    known well enough, at the earliest after `samples`, at the latest after `max_seconds`.

    baseline: with which the case takes turns, if it does.
    """
    decode, images = speed.decode_s(case), speed.images_s(case)

    def until(least: int, seconds: float, budget: float) -> Span:
        most = budget + seconds
        return Span(min(least * seconds, most), most)

    one = Span(2 * decode + images, 2 * decode + images)
    if effort.warmup:
        one += until(max(effort.warmup, 2), decode, effort.max_seconds)
    one += until(effort.samples, decode, effort.max_seconds)
    one += until(effort.samples, images, effort.max_seconds / 2)
    if baseline is not None:
        pair = decode + speed.decode_s(baseline)
        one += until(effort.warmup + effort.samples, pair, 2 * effort.max_seconds)
    if effort.stream_seconds:
        one += Span(effort.stream_seconds, effort.stream_seconds + decode)
    return speed.starting_s(case, baseline) + one
