"""The regression gate: what it finds, what it refuses, and what it says."""

from __future__ import annotations

import copy
import itertools
import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.cli import app, targets
from bench.figures import gate_figure
from bench.metrics import METRICS
from bench.study import printing, records, storage
from bench.study.errors import UsageError
from bench.tables import compare, frames, gate, sides, stats
from bench.tables.links import Quality
from bench.tables.sides import NotComparableError
from tests.synthetic import fake_run

ROOT = Path(__file__).parents[2]
HOSTILE = "[red]a|b$^{ <b>&amp;\"'%\r\n::error title=x::y, z: \x1b[31m\x00\ud800`*_"


@pytest.fixture(scope="module")
def measured():
    """A run of three cases: VAR-d30, the baseline, and two of CoDe."""
    return fake_run("code_table1", method=["var", "code"], depth=30, draft_steps=[6, 8])


@pytest.fixture
def run(measured):
    """Makes runs of that experiment; noise of 0.5 %, each with a seed of its own.

    processes: what the rounds differ by, a standard deviation.
    """
    seeds = itertools.count()

    def make(n=stats.SAMPLES, slower=(), by=1.0, rounds=stats.ROUNDS, processes=0.0):
        rng, made = np.random.default_rng(next(seeds)), copy.deepcopy(measured)
        made.records = [
            record.model_copy(update={"round": i, "other_load_cores": 0}, deep=True)
            for i in range(1, rounds + 1)
            for record in made.records
        ]
        for i, record in enumerate(made.records):
            i %= len(made.sweep.cases)
            taken = record.samples
            mid = np.median(taken.scale_latency_s, 0)
            scales = mid * np.exp(0.005 * rng.standard_normal((n, mid.size)))
            scales *= (by if i in slower else 1) * np.exp(processes * rng.standard_normal())
            taken.scale_latency_s = scales.tolist()
            taken.latency_s = scales.sum(1).tolist()
            taken.vqvae_latency_s = (0.4 * np.exp(0.005 * rng.standard_normal(n))).tolist()
        return made

    return make


def verdicts(comparison, figure="latency"):
    return [f.verdict for f in comparison.findings if f.figure == figure]


def test_the_same_code_is_the_same_in_every_figure(run):
    found = compare.compare(run(), run())
    assert found.exit_code == 0
    assert {f.verdict for f in found.findings} == {"same"}
    assert {f.figure for f in found.findings} == {
        *("latency", "VQVAE latency", "total memory", "KV cache", "speed-up", "tokens"),
        *(f"scale {k}" for k in range(1, 11)),
    }


def test_a_slower_case_is_a_regression_in_latency_scales_and_speed_up(run):
    found = compare.compare(run(), run(slower=[1], by=1.06))
    assert found.exit_code == 1
    assert verdicts(found) == ["same", "slower", "same"]
    assert verdicts(found, "scale 10") == ["same", "slower", "same"]
    assert verdicts(found, "speed-up") == ["slower", "same"]
    latency = next(f for f in found.regressions if f.figure == "latency")
    assert latency.low < 0.06 < latency.high
    assert latency.change == pytest.approx(0.06, abs=0.005)
    speedup = next(f for f in found.regressions if f.figure == "speed-up")
    assert speedup.change == pytest.approx(1 / 1.06 - 1, abs=0.005)
    assert speedup.low < speedup.change < speedup.high < 0


def test_a_speed_up_has_the_noise_of_two_and_is_given_more_room(run):
    found = compare.compare(run(), run(slower=[1], by=1.04))
    assert verdicts(found) == ["same", "slower", "same"]
    assert verdicts(found, "speed-up") == ["same", "same"]


def test_a_faster_case_is_no_regression(run):
    found = compare.compare(run(slower=[1], by=1.06), run())
    assert found.exit_code == 0
    assert verdicts(found) == ["same", "faster", "same"]
    assert verdicts(found, "speed-up") == ["faster", "same"]


def test_a_faster_baseline_lowers_speed_ups_but_regresses_nothing(run):
    found = compare.compare(run(slower=[0], by=1.2), run())
    assert verdicts(found, "speed-up") == ["slower", "slower"]
    assert found.exit_code == 0


def test_a_change_at_the_threshold_is_undecided(run):
    found = compare.compare(run(), run(slower=[0, 1, 2], by=1.03))
    assert "same" not in verdicts(found)
    assert "faster" not in verdicts(found)


def test_one_round_a_side_has_no_power_whatever_its_samples_say(run):
    found = compare.compare(run(40, rounds=1), run(40, slower=[1], by=2, rounds=1))
    assert set(verdicts(found)) == {"undecided"}
    assert found.exit_code == 2
    assert set(found.inconclusive.values()) == {"no power in latency: no noise is known"}
    assert any("have 1 round: 5 on each side" in note for note in found.notes)


def test_few_rounds_are_told(run):
    found = compare.compare(run(rounds=5), run(rounds=3))
    assert any("have 3 rounds: 5 on each side" in note for note in found.notes)
    assert not any("rounds" in note for note in compare.compare(run(), run()).notes)


def test_what_processes_differ_by_is_no_change_though_samples_agree(run):
    """Two processes a side that are 3 to 6 % apart, each with hardly any noise of its own."""
    found = compare.compare(run(processes=0.05), run(processes=0.05))
    assert "slower" not in verdicts(found) + verdicts(found, "scale 10")


def test_one_round_that_overlaps_keeps_a_noisy_case_from_an_alarm(run):
    """Four of its five rounds are slow; the other cases are quiet, and t alone would say so."""
    base, new = run(), run()
    for record in new.records[1:-3:3]:
        taken = record.samples
        for name in ("latency_s", "scale_latency_s"):
            setattr(taken, name, (1.06 * np.array(getattr(taken, name))).tolist())
    assert verdicts(compare.compare(base, new)) == ["same", "undecided", "same"]


def test_sides_may_have_different_numbers_of_rounds_and_samples(run):
    base, new = run(25, rounds=4), run(7, rounds=6, slower=[1], by=1.08)
    del new.records[-2]
    found = compare.compare(base, new)
    assert verdicts(found) == ["same", "slower", "same"]
    latency = [f for f in found.findings if f.figure == "latency"]
    assert {(f.n_base, f.rounds_base) for f in latency} == {(100, 4)}
    assert [(f.n_new, f.rounds_new) for f in latency] == [(42, 6), (35, 5), (42, 6)]


def test_a_case_that_failed_in_a_round_failed(run):
    new = run()
    new.records[4].status, new.records[4].reason = "oom", "no memory"
    found = compare.compare(run(), new)
    status = [f for f in found.regressions if f.figure == "status"]
    assert [f.reason for f in status] == ["ok to oom: no memory"]


@pytest.mark.parametrize("side", ["BASE", "NEW"])
def test_times_beside_other_work_are_no_regressions_and_no_pass(run, side):
    """All cases of one side are slower by half, as they are while something else runs."""
    sides_ = {"BASE": run(), "NEW": run()}
    for record in sides_[side].records:
        record.other_load_cores = 1.3
        record.samples.latency_s = [1.5 * s for s in record.samples.latency_s]
    found = compare.compare(*sides_.values())
    assert found.exit_code == 2
    assert not found.regressions
    reason = f"measured beside other work (1.3 cores) in {side}"
    assert set(found.inconclusive.values()) == {reason}
    assert compare.compare(*sides_.values(), allow_undecided=True).exit_code == 2


def test_a_regression_beside_an_invalid_case_is_one(run):
    new = run(slower=[1], by=1.06)
    new.records[2].other_load_cores = 1.3
    found = compare.compare(run(), new)
    assert found.exit_code == 1
    assert list(found.inconclusive) == [new.records[2].key]


def test_a_case_whose_throttled_samples_were_not_replaced_is_invalid(run):
    new = run()
    taken = new.records[1].samples
    taken.discarded_for = ["hw_slowdown"]
    assert compare.compare(run(), new).exit_code == 0
    taken.stopped_by = "time"
    found = compare.compare(run(), new)
    assert found.inconclusive == {new.records[1].key: "throttled (hw_slowdown) in NEW"}


def test_a_change_that_could_not_have_been_seen_is_no_pass(run):
    found = compare.compare(run(processes=0.04), run(processes=0.04))
    assert found.exit_code == 2
    assert all("no change below" in why for why in found.inconclusive.values())
    allowed = compare.compare(run(processes=0.04), run(processes=0.04), allow_undecided=True)
    assert allowed.exit_code == 0


def test_noise_of_scales_alone_is_no_lack_of_power(run):
    base, new = run(), run()
    rng = np.random.default_rng(0)
    for record in base.records + new.records:
        scales = np.array(record.samples.scale_latency_s) * np.exp(rng.normal(0, 0.2))
        record.samples.scale_latency_s = scales.tolist()
    found = compare.compare(base, new)
    assert "undecided" in verdicts(found, "scale 3")
    assert found.exit_code == 0


def test_other_tokens_are_an_error_where_nothing_is_left_to_chance(run):
    base, new = run(), run()
    for record in new.records[1::3]:
        record.tokens_sha256 = "1" * 64
    found = compare.compare(base, new)
    assert verdicts(found, "tokens") == ["same", "other", "same"]
    assert found.exit_code == 0
    (line, _) = gate.workflow_commands(found).splitlines()
    assert line.startswith("::warning")
    assert "other tokens of the same seed" in line
    for record in base.records + new.records:
        record.sampling = {"top_k": [1] * 10}
    found = compare.compare(base, new)
    assert [(f.figure, f.reason) for f in found.regressions] == [
        ("tokens", "other tokens of the same seed, greedy")
    ]
    assert found.exit_code == 1


@pytest.mark.parametrize(
    ("name", "old", "now", "verdict"),
    [
        ("fid", (5.0, 4.8, 5.2), (5.1, 4.9, 5.3), "same"),
        ("fid", (5.0, 4.8, 5.2), (5.6, 5.4, 5.8), "slower"),
        ("fid", (5.0, 4.8, 5.2), (4.4, 4.2, 4.6), "faster"),
        ("inception_score", (50.0, 49.0, 51.0), (45.0, 44.0, 46.0), "slower"),
    ],
)
def test_a_quality_loss_beyond_its_interval_is_a_regression(run, name, old, now, verdict):
    base, new = sides.of_run(run()), sides.of_run(run())
    for side, (figure, *interval) in ((base, old), (new, now)):
        case = next(iter(side.cases.values()))
        case.quality = Quality({name: figure}, {name: tuple(interval)}, {name: 1000}, {}, {})
    found = compare.compare(base, new)
    assert verdicts(found, METRICS[name].heading) == [verdict]
    assert found.exit_code == (verdict == "slower")


@pytest.mark.parametrize(
    ("key", "grown", "verdict"),
    [
        ("total_mib", 1.02, "slower"),
        ("total_mib", 1.005, "same"),
        ("total_mib", 0.9, "faster"),
        ("kv_cache_mib", 1.001, "slower"),
    ],
)
def test_memory_is_compared_as_it_is(run, key, grown, verdict):
    base, new = run(1), run(1)
    for record in new.records[1::3]:
        setattr(record.memory, key, grown * getattr(record.memory, key))
    found = compare.compare(base, new)
    figure = {"total_mib": "total memory", "kv_cache_mib": "KV cache"}[key]
    assert verdicts(found, figure) == ["same", verdict, "same"]
    assert found.exit_code == (verdict == "slower")


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ("ok", "oom", "slower"),
        ("ok", "error", "slower"),
        ("ok", "timeout", "slower"),
        ("oom", "ok", "faster"),
        ("oom", "oom", "same"),
        ("oom", "error", "invalid"),
        ("error", "error", "invalid"),
    ],
)
def test_a_status_that_changed_is_a_finding(run, before, after, verdict):
    base, new = run(), run()
    base.records[1].status, new.records[1].status = before, after
    found = compare.compare(base, new)
    assert verdicts(found, "status") == [verdict]
    assert verdicts(found) == ["same", "same"]
    assert found.exit_code == {"slower": 1, "invalid": 2}.get(verdict, 0)


def test_a_baseline_that_failed_leaves_the_others_to_be_judged(run):
    base, new = run(), run()
    new.records[0].status, new.records[0].reason = "oom", "CUDA out of memory"
    for before, after, exit_code in ((base, new, 1), (new, new, 0), (new, base, 0)):
        found = compare.compare(before, after)
        assert verdicts(found) == ["same", "same"]
        assert verdicts(found, "speed-up") == ["undecided"] * 2
        assert found.exit_code == exit_code


def test_the_baseline_is_the_experiments_whatever_the_order_of_lines():
    several = fake_run("code_table1", method=["var", "code"], depth=[30, 20], draft_steps=6)
    of_each = {key: case.baseline for key, case in sides.of_run(several).cases.items()}
    assert [*of_each.values()].count(several.sweep.cases[0].key) == len(of_each) - 1
    several.records.reverse()
    assert {k: case.baseline for k, case in sides.of_run(several).cases.items()} == of_each


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_a_sample_that_is_no_time_leaves_its_figures_undecided(run, bad):
    new = run()
    new.records[3].samples.latency_s[3] = bad
    found = compare.compare(run(), new)
    assert verdicts(found) == ["undecided", "same", "same"]
    assert set(verdicts(found, "speed-up")) == {"undecided"}
    reason = next(f.reason for f in found.findings if f.figure == "latency")
    assert reason == "1 of 60 samples are not positive numbers in NEW"


def test_a_figure_that_one_side_lacks_is_undecided(run):
    new = run()
    for record in new.records[0::3]:
        record.samples.vqvae_latency_s = []
    assert verdicts(compare.compare(run(), new), "VQVAE latency")[0] == "undecided"


def test_a_vanished_case_is_a_regression_and_one_that_base_lacks_is_not_judged(run):
    base, new = run(), run()
    del new.records[2::3]
    found = compare.compare(base, new)
    assert [f.said for f in found.regressions] == ["case worse (only in BASE, ok there)"]
    assert found.exit_code == 1
    found = compare.compare(new, base)
    assert found.inconclusive == {base.records[2].key: "only in NEW"}
    assert found.exit_code == 2  # BASE was to measure it
    new.sweep = copy.copy(new.sweep)
    new.sweep.cases = new.sweep.cases[:2]
    assert compare.compare(new, base).exit_code == 0


def test_other_software_is_told_not_refused(run):
    new = run()
    for record in new.records:
        record.torch = "3.0"
    assert "torch: 2.9.0 in BASE, 3.0 in NEW" in compare.compare(run(), new).notes


def test_other_hardware_is_refused_and_what_is_not_told_is_not_compared(run):
    base, new = run(), run()
    base.env = {**base.env, "hardware": {"cpu_flags": "abc", "host": "1"}, "python": "3.11.0"}
    assert "python: 3.11.0 in BASE, unknown in NEW" in compare.compare(base, new).notes
    new.env = {**new.env, "hardware": {"cpu_flags": "abc", "host": "2"}}
    with pytest.raises(NotComparableError, match="other hardware, host: 1 in BASE, 2 in NEW"):
        compare.compare(base, new)


def changed(run, **values):
    run.records = [record.model_copy(update=values) for record in run.records]
    return run


def renamed(run, name):
    run.sweep = copy.copy(run.sweep)
    run.sweep.name = name
    return run


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda r: changed(r, machine="h200"), "other machine: l20 in BASE, h200 in NEW"),
        (lambda r: renamed(r, "d16_cpu"), "other experiment: code_table1 in BASE, d16_cpu in NEW"),
        (lambda r: frames.Run(r.sweep), "no records (it is empty)"),
        (lambda r: frames.Run(r.sweep, complaints=["x:1: left out"]), "x:1: left out"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(run, break_it, words):
    for_new = break_it(run())
    with pytest.raises(NotComparableError) as caught:
        compare.compare(run(), for_new)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_precision_is_refused(run):
    new = changed(run(), precision="bf16")
    for record in new.records:
        record.key = record.key[::-1]
    with pytest.raises(NotComparableError, match="other precision: fp16 in BASE, bf16 in NEW"):
        compare.compare(run(), new)


def test_no_common_case_is_refused(run):
    new = run()
    for record in new.records:
        record.key = record.key[::-1]
    with pytest.raises(NotComparableError, match="no case in common"):
        compare.compare(run(), new)


def test_a_table_without_a_measurement_is_refused(run):
    base, new = (changed(run(), status="oom") for _ in "ab")
    with pytest.raises(
        NotComparableError, match="nothing was measured in either: all 3 cases are oom"
    ):
        compare.compare(base, new)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"alpha": 0.7}, "alpha"),
    ],
)
def test_impossible_settings_are_refused(run, options, words):
    with pytest.raises(UsageError, match=words):
        compare.compare(run(), run(), **options)


def test_each_figure_may_have_a_threshold_of_its_own(run):
    base, new = run(), run(slower=[1], by=1.06)
    for record in new.records[0::3]:
        record.memory.total_mib *= 1.005
    assert compare.thresholds("5%") == {"latency": 0.05}
    limits = compare.thresholds("latency=10%, memory=0%,scales=3%,speed-up=0.2")
    found = compare.compare(base, new, limits)
    assert verdicts(found)[1] == "same"
    assert verdicts(found, "scale 10")[1] == "slower"
    assert verdicts(found, "total memory") == ["slower", "same", "same"]
    assert verdicts(found, "speed-up") == ["same", "same"]
    with pytest.raises(UsageError, match="latencies: not one of latency, "):
        compare.compare(base, new, compare.thresholds("latencies=3%"))


def test_shares_are_percent_or_plain():
    assert compare.share("3%") == compare.share("0.03") == pytest.approx(0.03)
    with pytest.raises(UsageError, match="lots: not a share"):
        compare.share("lots")


# Statistics


def test_holm_is_the_textbook():
    assert stats.holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])


def test_the_interval_of_rounds_covers_all_shifts_at_once():
    rng, kinds, margins = np.random.default_rng(0), np.zeros(10, int), np.full(10, 0.03)
    base, new = rng.standard_normal((2, 2000, 10, 5))
    new += 1
    evidence = stats.weigh(base, new, margins, kinds, alpha=0.1)
    covered = ((evidence.low <= 1) & (evidence.high >= 1)).all(-1).mean()
    assert 0.88 < covered < 0.94


def test_one_figure_alone_is_students_test():
    base, new = np.array([[1.0, 2.0, 4.0]]), np.array([[6.0, 7.0, 9.0, 10.0]])
    evidence = stats.weigh(base, new, np.array([0.5]), np.zeros(1, int), 0.05)
    # as scipy.stats.ttest_ind(new, base) and its 95 % interval
    assert evidence.changed == pytest.approx([0.0074852], rel=1e-4)
    assert [*evidence.low, *evidence.high] == pytest.approx([2.30410, 9.02923], abs=1e-4)


def test_a_figure_in_one_round_takes_the_noise_of_the_others():
    base, new = np.full((3, 2), np.nan), np.full((3, 2), np.nan)
    base[:, 0], new[:, 0] = 0, 1
    kinds, margins = np.array([0, 0, 1]), np.full(3, 0.03)
    assert (stats.weigh(base, new, margins, kinds, 0.05).changed == 1).all()
    base[1] = [0, 0.01]
    new[1] = [1, 1.01]
    first, _, lonely = stats.weigh(base, new, margins, kinds, 0.05).changed
    assert first < 0.001
    assert lonely == 1


# What it says


@pytest.fixture
def regressed(run):
    base, new = run(), run(slower=[1], by=1.06)
    for side in (base, new):
        side.records[1].method = HOSTILE
    return compare.compare(base, new)


@pytest.mark.parametrize("format", ["rich", "md", "csv", "latex", "json"])
def test_every_format_prints_the_regression(regressed, format, capsys):
    printing.show(gate.printed(regressed), format)
    out = capsys.readouterr().out
    assert "slower" in out
    assert "\x1b" not in out
    assert "\x00" not in out


def test_json_has_a_row_for_each_figure_and_is_strict(regressed, capsys):
    printing.show(gate.printed(regressed), "json")
    text = capsys.readouterr().out
    rows = json.loads(text, parse_constant=pytest.fail)
    assert len(rows) == len(regressed.findings)
    slow = [row for row in rows if row["regression"] and row["figure"] == "latency"]
    assert {"key", "case", "verdict", "base", "new", "change", "low", "high", "p"} <= slow[0].keys()


def test_annotations_are_a_line_a_case_and_escaped(regressed):
    line, notice = gate.workflow_commands(regressed).splitlines()
    assert len(regressed.regressions) > 5
    command, message = line.split("::", 2)[1:]
    assert command.startswith("error title=Regression%3A ")
    assert "," not in command.removeprefix("error title=")
    assert "%25" in command
    assert "%25" in message
    assert notice.startswith("::notice")
    assert gate.escape("a%b\r\nc:,") == "a%25b%0D%0Ac:,"
    assert gate.escape("a%b\r\nc:,", True) == "a%25b%0D%0Ac%3A%2C"


def test_the_step_summary_is_appended_where_there_is_one(regressed, tmp_path, monkeypatch):
    file = tmp_path / "summary.md"
    file.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    gate.step_summary(regressed)
    text = file.read_text()
    assert text.startswith("before\n### ")
    assert "<b>" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.replace("\\|", "").count("|") for row in rows[:5]}) == 1
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    with pytest.raises(UsageError, match="cannot be written"):
        gate.step_summary(regressed)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    gate.step_summary(regressed)


def test_junit_is_well_formed_with_a_test_for_each_figure(regressed):
    suite = ET.fromstring(gate.junit(regressed))
    assert len(suite.findall("testcase")) == len(regressed.findings) == int(suite.get("tests"))
    assert len(suite.findall("testcase/failure")) == int(suite.get("failures"))
    assert int(suite.get("failures")) == len(regressed.regressions)
    assert suite.get("errors") == "0"


def test_what_is_inconclusive_says_so_in_every_format(run, capsys):
    new = run()
    new.records[1].other_load_cores = 1.3
    found = compare.compare(run(), new)
    suite = ET.fromstring(gate.junit(found))
    assert [e.get("type") for e in suite.findall("testcase/error")] == ["inconclusive"]
    assert not suite.findall("testcase/skipped")
    assert gate.workflow_commands(found).count("::warning") == 1
    printing.show(gate.printed(found), "md")
    out = capsys.readouterr().out
    assert "1 case inconclusive" in out
    assert "measured beside other work (1.3 cores) in NEW" in out


def test_pictures_are_drawn_of_what_regressed(regressed, tmp_path):
    paths = gate_figure.draw(regressed, tmp_path / "new" / "folder")
    assert len(paths) == 1
    assert paths[0].read_bytes().startswith(b"\x89PNG")


def test_pictures_are_drawn_of_all_if_nothing_did(run, tmp_path):
    base, new = run(6), run(6)
    new.records[2].status = base.records[2].status = "oom"
    assert len(gate_figure.draw(compare.compare(base, new), tmp_path)) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        gate_figure.draw(compare.compare(base, new), tmp_path / "file")


# The command


@pytest.fixture
def call(monkeypatch, tmp_path):
    monkeypatch.setattr(targets, "RESULTS", tmp_path / "results")
    return lambda *words: CliRunner().invoke(app.app, ["compare", *map(str, words)])


@pytest.fixture
def saved(tmp_path):
    """Saves a run as the runner does."""

    def save(run, name):
        folder = tmp_path / name
        folder.mkdir()
        what = {"name": run.sweep.name, "device": "cuda"}
        what["experiment"] = run.sweep.experiment.model_dump(mode="json")
        storage.write_json(folder / "run.json", what)
        storage.write_json(folder / "env.json", run.env)
        storage.write_lines(folder / records.FILE, run.records)
        return folder

    return save


def test_exit_codes(run, saved, call, tmp_path):
    base, slow = saved(run(), "base"), saved(run(slower=[1], by=1.06), "slow")
    other = saved(changed(run(), machine="h200"), "other")
    assert call(base, base).exit_code == 0
    result = call(base, slow, "--format", "md", "--plot", tmp_path / "pictures")
    assert result.exit_code == 1
    assert "+6." in result.stdout or "+5.9" in result.stdout
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1
    assert call(base, slow, "--threshold", "10%").exit_code == 0
    result = call(base, other)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "bench.py: other machine: l20 in BASE, h200 in NEW\n"


@pytest.mark.parametrize("format", ["rich", "md", "csv", "latex", "json", "github", "junit"])
def test_the_command_prints_every_format(run, saved, call, format, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    base, slow = saved(run(), "base"), saved(run(slower=[1], by=1.06), "slow")
    result = call(base, slow, "--format", format)
    assert result.exit_code == 1
    assert "slower" in result.stdout


def benchmark_json(file, times, brand="A CPU", **changes):
    told = {
        "machine_info": {"cpu": {"brand_raw": brand, "count": 2}, "python_version": "3.12.1"},
        "commit_info": {"id": "abc"},
        "benchmarks": [
            {"fullname": name, "stats": {"data": list(data)}} for name, data in times.items()
        ],
    }
    file.write_text(json.dumps({**told, **changes}))
    return file


def test_pytest_benchmarks_files_are_compared(call, tmp_path):
    rng = np.random.default_rng(0)
    times = {f"test_{i}[{HOSTILE[:20]}]": rng.normal(1, 0.01, 5000) for i in range(2)}
    slow = {name: 1.1 * data for name, data in times.items()}
    base = benchmark_json(tmp_path / "base.json", times)
    new = benchmark_json(tmp_path / "new.json", slow)
    result = call(base, new, "--format", "json")
    assert result.exit_code == 2  # one process a side
    assert [row["verdict"] for row in json.loads(result.stdout)] == ["undecided", "undecided"]
    assert call(base, new, "--allow-undecided", "--plot", tmp_path / "p").exit_code == 0
    new = benchmark_json(tmp_path / "new.json", {name: times[name] for name in [*times][:1]})
    assert call(base, new, "--allow-undecided").exit_code == 1


def test_a_folder_of_pytest_benchmarks_files_is_rounds(call, tmp_path):
    """Processes differ by 1 %, their samples hardly: slower by 8 % is seen, no change is none."""
    rng = np.random.default_rng(0)
    for name, by in {"base": 1, "again": 1, "slow": 1.08}.items():
        (tmp_path / name).mkdir()
        for i in range(5):
            process = rng.normal(1, 0.01, 8)
            times = {f"t{j}": by * v * rng.normal(1, 1e-3, 12) for j, v in enumerate(process)}
            benchmark_json(tmp_path / name / f"{i}.json", times)
    assert call(tmp_path / "base", tmp_path / "again").exit_code == 0
    result = call(tmp_path / "base", tmp_path / "slow", "--format", "json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [(row["verdict"], row["rounds_base"]) for row in rows] == [("slower", 5)] * 8
    benchmark_json(tmp_path / "slow" / "9.json", {"t0": [1.0]}, brand="Another CPU")
    result = call(tmp_path / "base", tmp_path / "slow")
    assert result.exit_code == 2
    assert "its files are of different machines" in result.stderr


def test_case_and_figure_of_a_benchmark_are_taken_from_its_extra_info(tmp_path):
    file = benchmark_json(tmp_path / "a.json", {"t1": [1.0], "t2": [2.0]})
    told = json.loads(file.read_text())
    for i, benchmark in enumerate(told["benchmarks"], 1):
        benchmark["extra_info"] = {"case": "VAR", "figure": f"scale {i}"}
    file.write_text(json.dumps(told))
    assert [*sides.of_benchmarks(file).cases["VAR"].samples] == ["scale 1", "scale 2"]


def test_another_device_of_the_same_machine_is_refused(call, tmp_path):
    on = {
        device: {"machine_info": {"cpu": {}, "gpus": ["H200"], "device": device}}
        for device in ("cpu", "cuda")
    }
    base = benchmark_json(tmp_path / "base.json", {"t": [1.0]}, **on["cpu"])
    new = benchmark_json(tmp_path / "new.json", {"t": [1.0]}, **on["cuda"])
    result = call(base, new)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "H200" in result.stderr
    assert "cuda" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a JSON file of pytest-benchmark"),
        ("[]", "not a JSON file of pytest-benchmark"),
        ("{}", "not a JSON file of pytest-benchmark"),
        (None, "cannot be read"),
        ({"benchmarks": []}, "no benchmarks"),
        ({"benchmarks": [{"fullname": "a", "stats": {}}]}, "add --benchmark-save-data"),
        ({"benchmarks": [{"fullname": "a", "stats": {"data": ["x"]}}]}, "not a JSON file"),
        ({"machine_info": {"cpu": {"brand_raw": "Other"}}}, "other machine"),
    ],
)
def test_a_bad_file_is_a_line_and_exit_code_2(call, tmp_path, text, words):
    base = benchmark_json(tmp_path / "base.json", {"a": [1.0] * 9})
    new = tmp_path / "new.json"
    if isinstance(text, dict):
        benchmark_json(new, {"a": [1.0] * 9}, **text)
    elif text is not None:
        new.write_text(text)
    result = call(base, new)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["base.json"], ["nope", "nope"], ["/tmp", "/tmp"]])
def test_a_mistake_on_the_command_line_is_a_line(call, words):
    result = call(*words)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_a_run_is_not_compared_with_pytest_benchmark(run, saved, call, tmp_path):
    file = benchmark_json(tmp_path / "base.json", {"a": [1.0] * 9})
    result = call(saved(run(), "base"), file)
    assert result.exit_code == 2
    assert "other experiment" in result.stderr


def test_a_crash_is_no_verdict(run, saved, call, monkeypatch):
    def crash(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(compare, "judge", crash)
    base = saved(run(), "base")
    result = call(base, base)
    assert result.exit_code == 2
    assert "RuntimeError: a fault of ours" in result.stderr


def test_an_output_that_is_full_is_no_verdict(run, saved):
    base = saved(run(), "base")
    command = [sys.executable, "bench.py", "compare", base, base]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
