"""A profile rehearsed: a fake clock, and measurers that invent what they measure."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from bench.measure.profile import items, session
from bench.measure.profile.forecast import Forecast
from bench.measure.profile.session import Session
from bench.predict import ceilings
from bench.predict.ceilings import Ceilings, Product
from bench.predict.floor import floor_of
from bench.study import experiment, records, storage
from bench.study.cases import VARCase
from bench.study.records import Record, Samples, StartUp

CEILINGS = Ceilings(
    device="cuda",
    threads=8,
    products=[
        Product(precision=kind, M=1, K=1, N=1, flop_per_s=rate)
        for kind, rate in {"float32": 50e12, "tf32": 90e12, "bf16": 210e12, "fp16": 215e12}.items()
    ],
    copy_bytes_per_s=750e9,
    read_bytes_per_s=780e9,
    launch_s=4e-6,
)


class Killed(BaseException):
    """As if the whole process ended."""


@pytest.fixture(scope="module")
def whole():
    return items.jobs("cuda")


@pytest.fixture(scope="module")
def listed(whole):
    """Of each item the first jobs."""
    sweep, jobs = whole
    count = Counter()
    thin = [job for job in jobs if not count.update([job.item]) and count[job.item] <= 4]
    return sweep, thin


class Assumed:
    """Half a minute a job, a quarter where a process waits: a forecast that nothing corrects."""

    top, slower = None, 1.0

    def seconds(self, job, started=False):
        return 40.0 if job.case is None else 20.0 if started else 30.0

    def use(self, ceilings):
        self.top = ceilings

    def learn(self, records, lines):
        pass


class Machine:
    """A GPU that is not there: jobs take what they take of a clock that nobody waits for.

    takes: seconds of a job, of the seconds predicted.  does: what happens to a job, by its key.
    forecast: makes one.
    """

    def __init__(self, folder, listed, takes=None, does=None, forecast=Assumed):
        self.folder, (self.sweep, self.jobs), self.new = folder, listed, forecast
        self.now, self.takes, self.does = 0.0, takes or (lambda job, told: told), does or {}
        self.order, self.records, self.said = [], [], []

    def session(self):
        self.forecast = self.new()
        return Session(
            self.folder,
            self.jobs,
            self.forecast,
            self.measure,
            lambda: self.records,
            self.said.append,
            lambda: bool(self.records),
            lambda: self.now,
        )

    def run(self, minutes):
        work = self.session()
        before = self.now
        work.run(60 * minutes)
        assert self.now - before <= 60 * minutes
        return work

    def measure(self, job, limit_s):
        self.order.append(job)
        seconds = self.takes(job, self.forecast.seconds(job, bool(self.records)))
        what = self.does.get(job.key)
        if what == "hang" or seconds > limit_s:
            self.now += limit_s
            return {"status": "timeout", "reason": f"took longer than {limit_s:g} s"}
        self.now += seconds
        if isinstance(what, BaseException):
            raise what
        if what is not None:
            return {"status": what, "reason": "as asked"}
        if job.task == "ceilings":
            storage.write_json(self.folder / ceilings.FILE, CEILINGS.model_dump())
        if isinstance(job.case, VARCase):
            self.records.append(record_of(job, seconds))
        return {"status": "ok"}


def record_of(job, seconds, latency_s=None):
    """As the runner leaves it, in what a session reads of it; the latency is twice the floor."""
    case = job.case
    latency = latency_s or 2 * sum(floor_of(case, CEILINGS).seconds)
    samples = {"warmup_latency_s": [latency] * 2, "latency_s": [latency] * 3}
    start_up = {"import_s": 5.0, "load_s": 2.0, "prepare_s": 0.5, "first_latency_s": 2 * latency}
    return Record.model_construct(
        key=case.key,
        status="ok",
        case=case.model_dump(),
        duration_s=seconds,
        start_up=StartUp(**start_up, first_vqvae_latency_s=0.5),
        samples=Samples.model_construct(**samples, vqvae_latency_s=[0.3]),
    )


@pytest.fixture
def machine(tmp_path, listed, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def make(**options):
        return Machine(tmp_path, listed, **options)

    return make


def keys(jobs):
    return [job.key for job in jobs]


def test_what_is_most_worth_comes_first_and_each_case_once(whole):
    _, jobs = whole
    assert max(Counter(keys(jobs)).values()) == 1
    assert [job.item for job in jobs] == sorted(job.item for job in jobs)
    assert {job.item for job in jobs} == set("abcdefghijk")
    first = [job.case for job in jobs if job.item == "c"]
    assert Counter((c.batch_size, c.stack, c.precision) for c in first) == {
        (64, "published", "fp16"): 3,
        (64, "modern", "bf16"): 3,
        (1, "published", "fp16"): 3,
        (1, "modern", "bf16"): 3,
    }
    assert {job.case.memory_limit_gib for job in jobs if job.item == "e"} == {44.5}
    assert {job.about for job in jobs if job.item == "k"} >= {"tests/test_gpu.py"}


def test_cases_of_the_papers_tables_are_shared(whole):
    """CoDe N=6 of item c is the row of Table 1: what is measured once serves both."""
    of_table = {c.key for c in experiment.load("code_table1", ["method=var,code"], "cuda").cases}
    ways = Counter(job.case.key for job in whole[1] if job.case and job.case.key in of_table)
    assert ways.keys() == of_table


def test_with_time_enough_all_is_done_in_order(machine):
    gpu = machine()
    assert gpu.run(minutes=600).todo == []
    assert keys(gpu.order) == keys(gpu.jobs)


@pytest.mark.parametrize("minutes", [1, 5, 9, 30])
@pytest.mark.parametrize("slower", [0.5, 1, 3])
def test_it_stops_in_time_however_slow_the_machine_is(machine, minutes, slower):
    gpu = machine(takes=lambda job, predicted: slower * predicted)
    gpu.run(minutes)  # which asserts that it does
    assert gpu.order


def test_five_minutes_give_ceilings_and_a_row_of_each_method(machine, listed):
    gpu = machine(forecast=lambda: Forecast("cuda", listed[0].experiment))
    gpu.run(minutes=5)
    assert "ceilings" in [job.task for job in gpu.order]
    assert {job.case.method for job in gpu.order if job.case} >= {"var", "code", "variant"}


def test_a_plan_is_what_the_session_then_does(machine):
    gpu = machine()
    planned = gpu.session().plan(seconds=540)
    assert not (gpu.folder / records.SESSION).exists()
    assert [begins for _, begins, _ in planned[1:]] == [ends for _, _, ends in planned[:-1]]
    assert planned[-1][2] <= 540
    gpu.run(minutes=9)
    assert keys(gpu.order) == keys(job for job, _, _ in planned)


def test_killed_at_any_job_it_goes_on_there_and_does_nothing_twice(machine):
    gpu = machine()
    for job in gpu.jobs:
        gpu.does = {job.key: Killed()}
        with pytest.raises(Killed):
            gpu.run(minutes=600)
        assert gpu.order[-1].key == job.key
    gpu.does = {}
    gpu.run(minutes=600)
    finished = Counter(keys(gpu.order)) - Counter(keys(gpu.jobs))
    assert finished == Counter(keys(gpu.jobs))  # each once killed, and once done
    assert keys(gpu.order)[::2] == keys(gpu.jobs)


def test_in_slots_of_nine_minutes_all_of_it_gets_done_once(machine):
    gpu = machine()
    for _ in range(30):
        if not gpu.run(minutes=9).todo:
            break
    assert not gpu.session().todo
    assert Counter(keys(gpu.order)) == Counter(keys(gpu.jobs))


HOW = {
    "out of memory": ("oom", "oom"),
    "a crash": ("error", "error"),
    "a hang": ("hang", "timeout"),
    "a missing compiler": (RuntimeError("Failed to find C compiler.\nPlease specify"), "error"),
    "no NVML": (ImportError("libnvidia-ml.so.1: cannot open shared object file"), "error"),
}


@pytest.mark.parametrize("how", HOW)
def test_each_job_may_fail_in_each_way_and_the_rest_goes_on(machine, listed, how):
    does, status = HOW[how]
    gpu = machine(does={job.key: does for job in listed[1]})
    work = gpu.run(minutes=3000)
    assert work.todo == []
    assert keys(gpu.order) == keys(gpu.jobs)
    ended = session.ended(session.read(gpu.folder))
    assert {line.status for line in ended.values()} == {status}
    assert all("\n" not in line.reason for line in ended.values())


def test_what_failed_is_tried_once_more_when_all_else_is_done(machine, listed):
    victim = listed[1][4].key
    gpu = machine(does={victim: "error"})
    gpu.run(minutes=600)
    assert gpu.order[4].key == victim
    gpu.order.clear()
    gpu.run(minutes=600)
    assert keys(gpu.order) == [victim]
    gpu.run(minutes=600)
    assert keys(gpu.order) == [victim]


def test_a_failure_comes_after_what_was_never_tried(machine, listed):
    victim = listed[1][1].key
    gpu = machine(does={victim: "error"})
    gpu.run(minutes=3)
    assert gpu.session().todo[-1].key == victim


def test_what_the_end_of_the_session_cut_short_comes_first_in_the_next(machine, listed):
    victim = listed[1][2]
    assert victim.task == "selfcheck"
    slow = machine(takes=lambda job, predicted: 1000 if job.key == victim.key else predicted)
    slow.jobs = slow.jobs[:3]
    slow.run(minutes=2.5)
    assert session.read(slow.folder)[-1].status == session.CUT
    assert slow.session().todo == [victim]
    slow.run(minutes=30)  # its own limit, now: three times what was predicted
    assert session.read(slow.folder)[-1].status == "timeout"


def test_a_line_that_a_power_cut_left_half_is_passed_over(machine):
    gpu = machine()
    gpu.run(minutes=5)
    file = gpu.folder / records.SESSION
    file.write_text(file.read_text()[:-40])
    done = len(gpu.order)
    again = gpu.session()
    assert len(again.todo) == len(gpu.jobs) - done + 1


def test_a_decode_below_its_floor_has_the_ceilings_measured_again_once(machine, listed):
    gpu = machine()
    case = next(job for job in listed[1] if job.case)
    floor = sum(floor_of(case.case, CEILINGS).seconds)
    storage.write_json(gpu.folder / ceilings.FILE, CEILINGS.model_dump())
    gpu.records.append(record_of(case, 30, latency_s=0.96 * floor))
    assert gpu.session().todo[0].key != "ceilings again"
    gpu.records.append(record_of(case, 30, latency_s=0.94 * floor))
    gpu.run(minutes=30)
    assert keys(gpu.order)[0] == "ceilings again"
    assert Counter(keys(gpu.order))["ceilings again"] == 1
    gpu.order.clear()
    gpu.run(minutes=30)
    assert "ceilings again" not in keys(gpu.order)


def test_what_was_measured_corrects_what_was_assumed(whole):
    sweep, jobs = whole
    forecast = Forecast("cuda", sweep.experiment, CEILINGS)
    cases = [job for job in jobs if job.item == "c"]
    before = forecast.decode_s(cases[0].case)
    record = record_of(cases[0], 30, latency_s=3 * before)
    record.start_up.import_s = 2.0
    forecast.learn([record], [])
    assert forecast.decode_s(cases[0].case) == pytest.approx(3 * before)
    assert forecast.start_s == 2.0
    # The same stack at another batch, by the same factor; another stack, not.
    assert forecast.decode_s(cases[6].case) == pytest.approx(
        3 * Forecast("cuda", sweep.experiment, CEILINGS).decode_s(cases[6].case)
    )
    other = Forecast("cuda", sweep.experiment, CEILINGS).decode_s(cases[3].case)
    assert forecast.decode_s(cases[3].case) == other


def test_on_a_cpu_the_list_is_the_same_at_sizes_that_fit():
    sweep, jobs = items.jobs("cpu")
    assert {job.item for job in jobs} == set("abcdefghi")
    first = [job.case for job in jobs if job.item == "c"]
    assert {(c.depth, c.batch_size) for c in first} == {(16, 1)}
    assert {case.precision for case in sweep.cases} == {"float32", "bf16"}
    assert {case.attention for case in sweep.cases} <= {"auto", "math", "flash"}


def test_a_card_without_bf16_runs_in_fp16():
    sweep, _ = items.jobs("cuda", bf16=False)
    assert {case.precision for case in sweep.cases} == {"fp16"}
