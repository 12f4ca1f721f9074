"""`bench.py recommend`: what fits, what is best of it, and where each figure is from."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json

import matplotlib
import numpy as np
import pytest
from typer.testing import CliRunner

from bench.cli import app, targets
from bench.figures import advice_figure, looks
from bench.measure import machine
from bench.study import experiment
from bench.study.cases import make_case
from bench.study.errors import UsageError, bytes_of
from bench.study.units import GIB
from bench.tables import advice as recommend
from bench.tables.advice import Limits, Quality
from bench.tables.pareto import Known, pareto_front
from tests.synthetic import fake_evaluation, fake_run

SETTINGS = {"batch_size": 64, "stack": "published", "precision": "fp16", "device": "cuda"}


@functools.cache
def run():
    return fake_run("code_table1", samples=3)


@functools.cache
def found(measured: bool = True, on: str = "l20"):
    runs = [run()] if measured else []
    return recommend.candidates(recommend.grid(SETTINGS), runs, on)


def of(label: str, among=None):
    (candidate,) = [c for c in among or found() if c.case.label.startswith(label)]
    return candidate


def labels(some) -> set[str]:
    return {c.case.label.partition(" (")[0] for c in some}


@pytest.mark.parametrize(
    ("text", "size"), [("16GiB", 16 * GIB), ("500 MB", 500_000_000), ("0.5gib", GIB // 2)]
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["potato", "", "16 potatoes", "-1GiB", "0", "nan", "infGiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="a size must be like 48GiB"):
        bytes_of(text)


def test_a_cost_is_measured_where_this_machine_was_and_else_predicted():
    assert of("CoDe N=7").latency_from == of("CoDe N=7").memory_from == "measured"
    subnet = of("VARiant-d8 N=6")
    assert (subnet.latency_from, subnet.memory_from) == ("predicted", "predicted")
    rate = subnet.flops / subnet.latency_s
    measured = [c.flops / c.latency_s for c in found() if c.latency_from == "measured"]
    assert min(measured) <= rate <= max(measured)


def test_another_machines_run_says_nothing_of_time_and_memory():
    assert {c.latency_s for c in found(on="h100")} == {None}
    assert {c.memory_from for c in found(on="h100")} == {"predicted"}


def test_a_machine_of_which_only_ceilings_are_known_has_floors(tmp_path):
    from tests.tables.test_profile import CEILINGS

    (tmp_path / "ceilings.json").write_text(CEILINGS.model_dump_json())
    known = dataclasses.replace(fake_run("profile", measured=False), folder=tmp_path)
    known.env = {"machine": "l20"}
    candidates = recommend.candidates(recommend.grid(SETTINGS), [known], "l20")
    assert {c.latency_from for c in candidates} == {"floor"}
    assert of("VAR-d30", candidates).latency_s > of("VAR-d16", candidates).latency_s > 0


def test_fid_is_the_papers_and_named():
    assert of("VAR-d30").quality == Quality(Known(1.95), "CoDe, Table 1", "CoDe")
    assert of("CoDe N=7").quality == Quality(Known(2.11), "CoDe, Table 1", "CoDe")
    assert of("CoDe N=3").quality == Quality(Known(2.99), "CoDe, Table 6 (training-free)", "CoDe")
    theirs = Quality(Known(2.00), "VARiant, Table 8", "VARiant", obtainable=False)
    assert of("VARiant-d16 N=7").quality == theirs
    assert of("VAR-d16").quality is None


def test_a_measured_fid_counts_unless_the_weights_are_not_the_papers():
    case = of("VAR-d16").case
    fids = {"seeded": 300.0, "mini": 4.4, "published": 3.3}
    lines = {
        kind: fake_evaluation(case.model_copy(update={"weights": kind}), fid=fid)
        for kind, fid in fids.items()
    }
    for kinds, expected in ((("seeded", "mini"), None), (fids, 3.3)):
        evaluated = recommend.published([lines[kind] for kind in kinds])
        (found,) = recommend.candidates([case], [run()], "l20", evaluated)
        assert (found.quality and found.fid) == expected
        assert expected is None or found.quality.source.startswith("measured, ")


def test_fids_of_other_counts_are_not_compared():
    cases = [of("VAR-d30").case, of("CoDe N=9").case]
    evaluated = [
        fake_evaluation(case.model_copy(update={"weights": "published"}), fid=fid, images=count)
        for case, fid, count in zip(cases, (1.9, 5.0), (50_000, 5_000), strict=True)
    ]
    both = recommend.candidates(cases, [run()], "l20", evaluated)
    assert [c.quality.source for c in both] == ["measured, 50000 images", "CoDe"]  # the paper's


def estimate(value: float, apart: float, seed: int = 0) -> Known:
    """Of replicates that all move as those of another set do, but for `apart`."""
    luck = [(-1) ** i * 0.2 for i in range(50)]
    own = np.random.default_rng(round(100 * value)).normal(0, apart, 50)
    replicates = tuple(value + a + b for a, b in zip(luck, own, strict=True))
    return Known(value, (value - 2, value + 2), replicates, seed)


def test_a_slower_one_is_on_the_front_only_if_its_fid_can_be_told_to_be_better():
    fast, slow, slower = (1, estimate(5.0, 0.001)), (2, estimate(4.5, 0.001)), (3, Known(4.4))
    other = (2, estimate(4.5, 0.001, seed=1))

    def front(*items):
        return pareto_front(items, lambda one: (one[0], one[1].value), lambda one: one[1])

    assert front(fast, slow, slower) == [fast, slow, slower]  # paired; a paper's by its value
    assert front(fast, other) == [fast]  # of other seeds, within both intervals
    apart, (low, high) = slow[1].less(fast[1])
    assert apart == -0.5
    assert -0.6 < low < -0.5 < high < -0.4
    low, high = other[1].less(fast[1])[1]
    assert (low, high) == pytest.approx((-0.5 - 8**0.5, -0.5 + 8**0.5))


def test_ones_own_models_are_ranked_by_paired_differences_and_the_choice_is_explained():
    """A plan that was found too; fakes of one seed, whose figures move together."""
    sweep = experiment.load("mini_table1", ["method=var,code", "weights=mini"], "cuda")
    steps = '[{"scales": "1-8"}, {"scales": "9-10", "model": 2}]'
    plan = {"method": "plan", "name": "found", "depth": 12, "other_depth": 4, "by_scale": steps}
    alike = {"batch_size": 8, "stack": "modern", "precision": "fp16", "device": "cuda"}
    own = recommend.alike([*sweep.cases, make_case(plan | {"weights": "mini"})], alike)
    values = {"VAR-d12": 4.0, "VAR-d4": 30.0, "found (d12+d4)": 4.1, "CoDe N=9 (d12+d4)": 4.05}
    lines = [fake_evaluation(case, fid=values.get(case.label, 9.0)) for case in own]
    for line in lines:
        line.intervals["fid"] = (line.metrics["fid"] - 2, line.metrics["fid"] + 2)
        line.replicates["fid"] = list(estimate(line.metrics["fid"], 0.001).replicates)
    ranked = recommend.candidates(own, [], "l20", lines)
    limits = Limits(64 * GIB)
    advice = recommend.advise(ranked, limits, 8)
    assert {"VAR-d4", "VAR-d12", own[-1].label} <= {c.case.label for c in advice.best}
    assert advice.why.startswith("Choose VAR-d12 (")
    within = recommend.advise(ranked, Limits(64 * GIB, max_fid=4.2), 8)
    assert within.chosen[0].case.method == "plan"
    (told, *_) = recommend.printed(within, limits).more
    assert told.title.startswith(f"What {within.chosen[0].name} saves of VAR-d12")
    assert [row[:1] for row in told.text.values.tolist()] == [[str(k)] for k in range(1, 11)]
    assert {*told.text["of all saved"][:8]} == {"0%"}
    assert "FID +0.10 (95 % interval +0.09 to +0.11)" in told.notes[0]
    for line in lines:  # unpaired, nothing could be told
        line.seed = hash(line.label)
    by_chance = recommend.advise(recommend.candidates(own, [], "l20", lines), limits, 8)
    assert "too few images to tell that of" in by_chance.why


def test_what_does_not_fit_is_left_out_with_the_reason():
    advice = recommend.advise(found(), Limits(20 * GIB), 64)
    out = {c.case.label: why for c, why in advice.excluded}
    assert out["VAR-d30"].startswith("needs 3")
    assert "CoDe N=6 (d30+d16)" not in out
    assert labels(advice.unranked) == {"VAR-d16"}
    shown = labels([*advice.ranked, *advice.unranked]) | labels(c for c, _ in advice.excluded)
    assert shown == labels(found())


def test_the_best_are_beaten_by_none_of_their_source_and_by_other_sources_neither():
    advice = recommend.advise(found(), Limits(64 * GIB), 64)
    for c, other in itertools.product(advice.best, advice.ranked):
        if c.quality.source == other.quality.source:
            assert not (other.cost < c.cost and other.fid < c.fid)
    fast, slow = of("CoDe N=8"), of("VARiant-d16 N=8")
    same = dataclasses.replace(slow, quality=Quality(Known(2.5), "CoDe, Table 1", "CoDe"))
    worse = dataclasses.replace(slow, quality=Quality(Known(2.5), "VARiant, Table 8", "VARiant"))
    assert recommend.best_of_each_source([fast, same]) == [fast]
    assert recommend.best_of_each_source([fast, worse, fast]) == [fast, worse, fast]


def test_with_a_fid_the_fastest_that_has_it_is_chosen():
    advice = recommend.advise(found(), Limits(64 * GIB, max_fid=2.12), 64)
    had = [c for c in found() if c.quality and c.quality.obtainable and c.fid <= 2.12]
    fastest = min(had, key=lambda c: c.latency_s)
    assert advice.why.startswith(f"Choose {fastest.case.label}")
    assert advice.ranked[0] == fastest


def test_without_one_the_best_fid_of_each_source_is_offered():
    chosen = recommend.advise(found(), Limits(64 * GIB, obtainable=False), 64).why
    assert "CoDe N=9 (d30+d16)" in chosen
    assert "VARiant-d16 N=9 (d30)" in chosen


def test_what_has_no_weights_to_be_had_is_left_out_and_a_papers_fid_has_no_interval():
    limits = Limits(64 * GIB)
    advice = recommend.advise(found(), limits, 64)
    out = {c.case.label: why for c, why in advice.excluded}
    assert "nobody published" in out["VARiant-d16 N=9 (d30)"]
    assert "VARiant" not in advice.why
    assert set(recommend.printed(advice, limits).text["FID 95 %"]) == {"no interval", ""}


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        (Limits(GIB), "nothing fits 1,024 MiB at batch 64: the least is VAR-d16"),
        (Limits(64 * GIB, max_fid=1.5), "the best FID that fits is 1.94 (CoDe N=9"),
        (Limits(64 * GIB, max_latency=1e-3), "the fastest that fits takes"),
    ],
)
def test_where_nothing_is_left_the_line_says_what_is_nearest(limits, line):
    with pytest.raises(UsageError) as e:
        recommend.advise(found(), limits, 64)
    assert line in str(e.value)


def test_a_limit_on_time_needs_a_machine_that_is_known():
    with pytest.raises(UsageError, match=r"`bench\.py profile` measures it"):
        recommend.advise(found(measured=False), Limits(64 * GIB, max_latency=1), 64)


@pytest.mark.parametrize("measured", [True, False])
def test_every_candidate_has_a_number_of_its_own_in_the_picture(measured):
    advice = recommend.advise(found(measured), Limits(20 * GIB), 64)
    with matplotlib.rc_context(looks.STYLE):
        figure = advice_figure.picture(advice, Limits(20 * GIB))
        figure.draw_without_rendering()
    (ax,) = figure.axes
    count = len(advice.ranked) + sum(bool(c.quality) for c, _ in advice.excluded)
    numbers = [text.get_text() for text in ax.texts]
    assert sorted(map(int, numbers)) == [*range(1, count + 1)]
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(machine, "environment", lambda: {"machine": "l20"})
    return lambda *words: CliRunner().invoke(
        app.app, ["recommend", *words, "--out", str(tmp_path / "plots")]
    )


def test_the_command_prints_json_and_draws(bench, tmp_path):
    result = bench(
        *["code_table1", "--memory", "16GiB", "--batch", "32", "--max-fid", "2.1"],
        *["--device", "cuda", "--format", "json"],
    )
    assert result.exit_code == 0, result.output
    rows = {row["method"]: row for row in json.loads(result.stdout)}
    assert rows["CoDe N=8 (d30+d16)"]["fid_from"] == "CoDe, Table 1"
    assert all(row.get("fid", 0) <= 2.1 for row in rows.values())
    assert "latency_s" not in rows["CoDe N=8 (d30+d16)"]
    assert (tmp_path / "plots" / "recommend.pdf").is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--memory potato", "a size must be like 48GiB, 80GB or 500MiB, not 'potato'"),
        ("d16_cpu --memory 1GiB", "nothing fits 1,024 MiB at batch 1"),
        ("--batch 0", "'--batch'"),
        ("--max-fid nan", "'--max-fid'"),
        ("--max-fid inf", "'--max-fid': inf is not a finite number"),
        ("--max-fid -1", "'--max-fid'"),
        ("--max-latency nan", "'--max-latency'"),
        ("--max-latency inf", "'--max-latency': inf is not a finite number"),
        ("--precision fp64", "precision must be"),
        ("--stack old", "stack must be"),
        ("--device tpu", "device must be auto, cpu, cuda or cuda:N"),
        ("nope", "nope: no such folder or experiment"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(bench, tmp_path, words, line):
    result = bench(*words.split())
    assert result.exit_code == 2
    assert line in result.stderr.splitlines()[-1]
    assert "--memory 1GiB" in words or result.stderr.count("\n") == 1  # before what takes long
    assert not (tmp_path / "plots").exists()
