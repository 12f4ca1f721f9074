"""What a case's records say together."""

from __future__ import annotations

import math
import statistics
from copy import deepcopy

import pytest

from bench.study.columns import rounded
from bench.study.records import Paired, Stream
from bench.tables import summary, tables
from tests.synthetic import fake_run


@pytest.fixture(scope="module")
def run():
    return fake_run("code_figure5", batch_size=64, stack="published", rounds=3)


def of(run, method):
    return deepcopy([r for r in run.records if r.method.startswith(method)])


def slower(record, factor):
    samples = record.samples
    samples.latency_s = [factor * s for s in samples.latency_s]


def test_a_figure_is_the_median_of_the_rounds_whatever_their_sizes(run):
    records = of(run, "VAR-d30")
    for record, seconds in zip(records, ([1.0], [2.0], [3.0] * 40), strict=True):
        record.samples.latency_s = seconds
    found = summary.measured(records)
    assert found["latency_s"] == 2.0
    assert found["latency_spread"] == 1.0
    assert (found["rounds"], found["samples"]) == (3, 42)


def test_a_machine_that_slows_down_does_not_change_interleaved_speed_ups(run):
    base, own = of(run, "VAR-d30"), of(run, "CoDe N=6")
    slower(own[0], 1.01)
    slower(own[2], 0.99)
    before = summary.speedup(own, base)
    for i in range(3):
        slower(base[i], 1.2**i)
        slower(own[i], 1.2**i)
    after = summary.speedup(own, base)
    assert after == pytest.approx(before)
    assert before["speedup_by"] == "interleaved"
    assert before["speedup_low"] < before["speedup"] < before["speedup_high"]


def test_the_interval_of_rounds_is_students():
    low, high = summary.interval([math.exp(x) for x in (1.0, 2.0, 3.0)])
    assert math.log(high) - 2 == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert math.log(low) - 2 == pytest.approx(-4.303 / math.sqrt(3), rel=1e-3)


def test_one_round_has_no_interval_and_says_so(run):
    found = summary.speedup(of(run, "CoDe N=6")[:1], of(run, "VAR-d30")[:1])
    assert found["speedup_by"] == "one round"
    assert "speedup_low" not in found
    text = tables.measured(fake_run("code_table1")).text
    assert [cell[:1] for cell in text["speed-up"]][:2] == ["1", "~"]


def paired(record, baseline, ratio, n=8):
    own = [1 + 0.001 * i for i in range(n)]
    pairs = {"latency_s": own, "baseline_latency_s": [ratio * s for s in own]}
    record.paired = Paired(baseline=baseline.key, **pairs, stopped_by="target")


def test_pairs_go_before_rounds(run):
    base, own = of(run, "VAR-d30"), of(run, "CoDe N=6")
    paired(own[0], base[0], 2.5)
    found = summary.speedup(own, base)
    assert (found["speedup_by"], found["speedup"]) == ("paired", pytest.approx(2.5))


def test_an_interval_comes_from_rounds_however_many_turns_they_have(run):
    """What a process is born with, all of its turns share."""
    base, own = of(run, "VAR-d30")[:3], of(run, "CoDe N=6")[:3]
    for record, ratio in zip(own, (2.4, 2.5, 2.6), strict=True):
        paired(record, base[0], ratio)
    found = summary.speedup(own[:2], base[:2])
    assert (found["speedup"], found["pairs"]) == (pytest.approx(2.45), 16)
    assert "speedup_low" not in found
    found = summary.speedup(own, base)
    assert found["speedup_low"] < 2.4 < 2.6 < found["speedup_high"]


@pytest.mark.parametrize(("turns", "by", "mark"), [(5, "few turns", "~"), (6, "paired", "2")])
def test_few_turns_in_one_process_are_marked(turns, by, mark):
    run = fake_run("code_table1")
    base, own = of(run, "VAR-d30"), of(run, "CoDe N=6")
    paired(own[0], base[0], 2.5, turns)
    run.records = [base[0], own[0]]
    assert summary.speedup(own[:1], base[:1])["speedup_by"] == by
    text = tables.measured(run).text
    assert text["speed-up"][text["method"].str.startswith("CoDe N=6")].iloc[0][:1] == mark


def test_a_pair_that_did_not_fit_falls_back_to_rounds_and_is_told(run):
    base, own = of(run, "VAR-d30"), of(run, "CoDe N=6")
    for record in own:
        record.paired = Paired(baseline=base[0].key, reason="no memory for both")
    found = summary.speedup(own, base)
    assert found["speedup_by"] == "interleaved"
    assert found["paired_reason"] == "no memory for both"


def test_no_speed_up_where_the_baseline_failed_and_one_for_the_baseline(run):
    base, own = of(run, "VAR-d30"), of(run, "CoDe N=6")
    assert summary.speedup(base, base) == {"speedup": 1.0}
    for record in base:
        record.status = "oom"
    assert summary.speedup(own, base) == {}
    assert summary.speedup(base, base) == {}


def test_a_case_that_failed_in_one_round_is_no_measured_case(run):
    records = of(run, "VAR-d30")
    records[1].status, records[1].reason = "error", "crashed: SIGSEGV"
    found = summary.measured(records)
    assert (found["status"], found["reason"]) == ("error", "crashed: SIGSEGV")
    assert "latency_s" not in found
    assert summary.speedup(records, records) == {}
    assert summary.speedup(records, of(run, "CoDe N=6")) == {}


def test_percentiles_and_rate_of_a_stream(run):
    records = of(run, "VAR-d30")[:1]
    records[0].stream = Stream(batch_s=[0.01 * i for i in range(100, 0, -1)])
    found = summary.measured(records)
    shares = [found[f"batch_p{q}_s"] for q in (50, 90, 99)]
    assert shares == pytest.approx([0.5, 0.9, 0.99])
    assert found["sustained_img_s"] == pytest.approx(64 * 100 / 50.5)


def test_energy_counts_all_that_was_decoded(run):
    records = of(run, "VAR-d30")[:2]
    for record in records:
        record.samples.energy_j, record.samples.discarded_latency_s = 7000.0, [1.0]
    images = 64 * sum(1 + len(r.samples.latency_s) for r in records)
    assert summary.measured(records)["energy_j_per_image"] == pytest.approx(14000 / images)


def test_rows_that_differ_in_a_setting_say_so_and_stay_when_not_run():
    axes = {"method": ["var", "code"], "depth": 30, "draft_steps": 6}
    run = fake_run("code_table1", attention=["auto", "math"], seed=[0, 1], **axes)
    run.records = run.records[:5]
    text = tables.measured(run).text
    ours = text[text["method"].str.contains("seed")]
    assert [*ours["method"].str.partition(", ")[2]] == [
        f"{a}, seed {s}" for a in ("auto", "math") for s in "01"
    ] * 2
    assert [*ours["status"]] == ["ok"] * 5 + ["not run"] * 3


def test_runs_of_several_machines_are_one_table(run):
    other = deepcopy(run)
    other.env = {**run.env, "machine": "h200", "gpus": [{"name": "NVIDIA H200"}]}
    for record in other.records:
        slower(record, 0.5)
    table = tables.measured(run, other)
    assert list(table.text["machine"][:2]) == ["l20", "h200"]
    assert table.text["method"][0] == table.text["method"][1]
    measured = table.data[table.data["status"] == "ok"]
    halves = measured.groupby("method")["latency_s"].agg(lambda s: s.iloc[1] / s.iloc[0])
    assert list(halves) == pytest.approx([0.5] * len(halves))
    speedups = measured.groupby("method")["speedup"].agg(lambda s: s.iloc[1] / s.iloc[0])
    assert list(speedups) == pytest.approx([1] * len(speedups))
    assert any("NVIDIA H200" in note for note in table.notes)


def test_how_it_was_measured_is_a_table(run):
    table = next(t for t in tables.measured(run).more if t.title == "How it was measured")
    first = table.text.iloc[0]
    assert (first["rounds"], first["stopped by"]) == ("3", "target 3")
    record = run.records[0]
    latency = statistics.median(record.samples.latency_s)
    assert first["warm decode s"] == rounded(latency)
    assert first["to first image s"] == "20.0"
    parts = [first[f"{name} s"] for name in ("import", "load", "prepare")]
    assert parts == ["5.00", "9.00", "0.500"]
    decoder = statistics.median(record.samples.vqvae_latency_s)
    assert first["to warm image s"] == rounded(latency + decoder)


def test_records_from_before_the_start_up_was_split_have_no_columns_of_its_parts(run):
    older = deepcopy(run)
    for record in older.records:
        record.start_up.import_s = record.start_up.prepare_s = None
    table = next(t for t in tables.measured(older).more if t.title == "How it was measured")
    assert "load s" in table.text
    assert not {"import s", "prepare s"} & {*table.text}
