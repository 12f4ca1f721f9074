"""How long each job of a profile takes: from shapes and ceilings, corrected by what was measured.

What shapes do not tell is assumed (`Assumed`) until the run's own records tell it: how long a
process takes to start, to make weights, to compile, and by how much a decode exceeds its floor.
"""

import functools
import math
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from bench.measure.profile import items
from bench.measure.profile.items import Job
from bench.methods.baseline import Baseline
from bench.methods.meta import meta_plan
from bench.predict import baselines
from bench.predict.ceilings import Ceilings, Product
from bench.predict.durations import Span, decoder_flops, of_round
from bench.predict.floor import floor_of
from bench.study import storage
from bench.study.cases import Case, VARCase, make_case
from bench.study.errors import UsageError
from bench.study.experiment import Experiment
from bench.study.records import Record
from codevar.stacks import stack


class Line(storage.Line):
    """One of `session.jsonl`: a job that begins, or how it ended, then with a status; and what a
    task found."""

    key: str
    item: str
    title: str
    at: str | None = None
    predicted_s: float | None = None
    took_s: float | None = None
    status: str | None = None
    reason: str | None = None
    stacks: dict[str, dict[str, Any]] = Field(default={})  # of a smoke, `tasks.smoke`
    verdict: str | None = None  # of a selfcheck
    overhead: float | None = None
    passed: int | None = None  # of tests
    skipped: int | None = None
    failed: list[str] = Field(default=[])


@dataclass(frozen=True)
class Assumed:
    """Of a kind of device, before anything was measured on it.  Seconds, bytes/s, FLOP/s.

    rates: of matrix products by precision.  over_floor: decode over its floor, by stack.
    layer_s: what the host needs for a layer of a pass, however small, by stack.
    tasks: of what is no case, its process's start included.  compile_s: of a first decode more
    than of others.
    """

    start_s: float
    load_bytes_per_s: float
    compile_s: float
    rates: dict[str, float]
    bandwidth: float
    over_floor: dict[str, float]
    layer_s: dict[str, float]
    tasks: dict[str, float]

    def ceilings(self, device: str) -> Ceilings:
        """As if measured."""
        products = [
            Product(precision=kind, M=1, K=1, N=1, flop_per_s=rate)
            for kind, rate in self.rates.items()
        ]
        return Ceilings(
            device=device, threads=1, products=products, launch_s=5e-6,
            copy_bytes_per_s=self.bandwidth, read_bytes_per_s=self.bandwidth,
        )  # fmt: skip


UNKNOWN_S = 60.0  # of a case that cannot be predicted here: its libraries are missing


class Forecast:
    """Seconds of jobs on one device.

    effort: of jobs.  ceilings: those measured, or assumed.  `learn` takes what was measured so far.
    """

    def __init__(
        self, device: str, effort: Experiment | None = None, ceilings: Ceilings | None = None
    ) -> None:
        self.assumed = Assumed(**items.told(items.kind_of(device))["assumed"])
        self.effort = effort
        self.use(ceilings or self.assumed.ceilings(device))
        self.learn([], [])

    def use(self, ceilings: Ceilings) -> None:
        """From now on with these."""
        self.top = ceilings
        self._top = ceilings.model_dump_json()

    def learn(self, records: Sequence[Record], lines: Sequence[Line]) -> None:
        """Corrects what is assumed by all records of the run, and by its session's lines of what
        is no case: they tell how much slower than assumed this machine is, the ceilings aside."""
        self.measured = []
        for record in records:
            with suppress(UsageError):  # of a method, or of models, that are no longer here
                if record.ok:
                    self.measured.append(Measured(record, make_case(record.case)))
        tasks = {line.key: line.took_s for line in lines if line.status == "ok"}
        known = self.assumed.tasks.keys() & tasks
        slower = [(tasks[name] or 0.0) / self.assumed.tasks[name] for name in known]
        self.slower = max(1.0, statistics.median(slower)) if slower else 1.0
        known_s = median(m.import_s for m in self.measured)
        self.start_s = known_s or self.assumed.start_s * self.slower
        rate = median(m.load_bytes_per_s for m in self.measured)
        self.load_bytes_per_s = rate or self.assumed.load_bytes_per_s / self.slower
        compiling = median(m.compile_s for m in self.measured)
        self.compile_s = compiling or self.assumed.compile_s * self.slower
        over = (m.images_s and m.images_s / self._images_of_shapes(m.case) for m in self.measured)
        self.images_over = median(over) or 1.0
        self.rest_s = max(0.0, median(m.rest_s for m in self.measured) or 0.0)

    def seconds(self, job: Job, started: bool = False) -> float:
        """Of a job, at most.  started: a process that waits for the next case needs no start."""
        if job.case is None:
            return self.assumed.tasks[job.task] * self.slower
        try:
            return self._of_case(job, job.case, started)
        except (UsageError, ImportError):
            return UNKNOWN_S

    def _of_case(self, job: Job, case: Case, started: bool) -> float:
        alone = case.device == "cpu" or case.stack == "compiled"
        assert self.effort is not None
        effort = self.effort.model_copy(update=dict(job.effort))
        saved = self.start_s if started and not alone else 0.0
        return of_round(case, job.baseline, effort, self).most - saved

    def starting_s(self, case: Case, baseline: Case | None) -> Span:
        """Of a process until its first decode, with the weights of a baseline in it."""
        loading = self.load_s(case) + (self.load_s(baseline) if baseline else 0.0)
        compiling = self.compile_s if case.stack == "compiled" else 0.0
        seconds = self.rest_s + self.start_s + loading + compiling
        return Span(seconds, seconds)

    def load_s(self, case: Case) -> float:
        """To make the weights: random ones are drawn, in float32."""
        return 4 * params(case) / self.load_bytes_per_s

    def decode_s(self, case: Case) -> float:
        """Of a decode: what shapes say, times what the run's decodes on that stack exceeded it by,
        those of the nearest batch."""
        alike = [m for m in self.measured if m.is_like(case)]
        least = min((m.away(case) for m in alike), default=0)
        near = [m for m in alike if m.away(case) == least]
        over = median(m.latency_s / self._decode(m.case) for m in near) or 1.0
        return self._decode(case) * over

    def images_s(self, case: Case) -> float:
        """Of a batch's images."""
        return self._images_of_shapes(case) * self.images_over

    def _decode(self, case: Case) -> float:
        """As shapes, ceilings and what is assumed have it."""
        over, layer_s = self.assumed.over_floor[case.stack], self.assumed.layer_s[case.stack]
        if not isinstance(case, Baseline):
            return max(over * floor_s(case, self._top), layers(case) * layer_s)
        told, run = baselines.shapes(case), stack(case.stack, case.precision, case.attention)
        part = min(1.0, (case.max_steps or case.all_steps) / case.all_steps)
        reading = case.all_steps * told["params_bytes"] / self.top.bandwidth
        computing = sum(told["flops"]) / self.top.rate(run.precision)
        return part * max(over * max(computing, reading), 24 * case.all_steps * layer_s)

    def _images_of_shapes(self, case: Case) -> float:
        """A convolution reaches half of the rate, without tensor cores' precision less."""
        run = stack(case.stack, case.precision, case.attention)
        return 2 * case.batch_size * decoder_flops(case) / self.top.rate(run.precision)


class Measured:
    """What a record tells of its parts: seconds, bytes/s; None where it does not."""

    def __init__(self, record: Record, case: Case) -> None:
        start, samples = record.start_up, record.samples
        assert samples is not None
        self.case = case
        self.latency_s = statistics.median(samples.latency_s)
        self.images_s = median(samples.vqvae_latency_s)
        self.import_s = start.import_s
        loading = (start.load_s or 0.0) + (start.prepare_s or 0.0)
        self.load_bytes_per_s = 4 * params(case) / loading if loading else None
        self.compile_s = None
        if case.stack == "compiled" and start.first_latency_s is not None:
            self.compile_s = max(0.0, start.first_latency_s - self.latency_s)
        # Its parts: the start, both first decodes, all samples.  A pair loads a baseline too.
        spent = [loading, self.import_s, start.first_latency_s, start.first_vqvae_latency_s]
        spent += [self.latency_s, *samples.warmup_latency_s, *samples.latency_s]
        spent += [*samples.discarded_latency_s, *samples.vqvae_latency_s]
        if record.paired and record.paired.latency_s:
            spent += [loading, *record.paired.latency_s, *record.paired.baseline_latency_s]
        if record.stream:
            spent += record.stream.batch_s
        self.rest_s = record.duration_s - sum(filter(None, spent))

    def is_like(self, case: Case) -> bool:
        """Whether it tells of the case's decode: the same stack, both with scales or neither."""
        scales = isinstance(self.case, VARCase) == isinstance(case, VARCase)
        return scales and self.case.stack == case.stack

    def away(self, case: Case) -> float:
        """How far its batch is from the case's."""
        return abs(math.log(self.case.batch_size / case.batch_size))


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None without any."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


@functools.cache
def floor_s(case: Case, top: str) -> float:
    """The floor of a decode.  top: ceilings as JSON."""
    return sum(floor_of(case, Ceilings.model_validate_json(top)).seconds)


@functools.cache
def layers(case: Case) -> int:
    """That run in a decode, in all its passes."""
    return sum(len(step.layers) for step in meta_plan(case).steps)


@functools.cache
def params(case: Case) -> int:
    """Of all its transformers."""
    if isinstance(case, Baseline):
        return baselines.shapes(case)["params"]
    return sum(p.numel() for model in meta_plan(case).models for p in model.parameters())
