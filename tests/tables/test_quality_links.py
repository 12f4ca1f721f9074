"""Evaluations beside speed: which one speaks of which case, in tables and figures."""

from __future__ import annotations

import dataclasses
import itertools
import json

import matplotlib
import pytest
from typer.testing import CliRunner

from bench.cli import app, targets
from bench.figures import looks, registry
from bench.study import evaluations
from bench.study.cases import VARCase, make_case
from bench.tables import case_rows, frames, tables
from bench.tables.links import Pair, link, quality_of
from codevar.files import SHIPPED
from tests.synthetic import fake_evaluation, fake_run

SOURCE = "n=50,000 @unknown"  # `fake_evaluation`'s, which are of no run's own folder


def case(**values):
    return make_case({"method": "var", "weights": "published", "device": "cuda", **values})


def evaluated(
    name: str = "code_table1", like: dict | None = None, of: str | None = "published", **axes
):
    """A run of an experiment, and an evaluation of each of its cases: FID 2.00, 2.01, ...

    of: the weights that were evaluated; None: the cases' own."""
    run = fake_run(name, **axes)
    found = [
        fake_evaluation(
            c.model_copy(update={"weights": of or c.weights, **(like or {})}),
            fid=2 + i / 100,
            inception_score=300.0 - i,
            precision=0.8,
            recall=0.6,
        )
        for i, c in enumerate(c for c in run.sweep.cases if isinstance(c, VARCase))
    ]
    return dataclasses.replace(run, evaluations=found)


def rows(run):
    return {row["method"]: row for row in frames.frame(run).to_dict("records")}


# Tables


def test_table1_has_the_quality_of_the_same_method_and_weights():
    run = evaluated(weights="published")
    found = rows(run)
    assert (found["VAR-d30"]["fid"], found["VAR-d30"]["inception_score"]) == (2.0, 300)
    assert found["CoDe N=6 (d30+d16)"]["quality_precision"] == 0.8
    assert found["CoDe N=6 (d30+d16)"]["recall"] == 0.6
    assert not {"fid_differs", "recall_differs"} & found["VAR-d30"].keys()
    printed = tables.measured(run)
    assert f"2.00 {SOURCE} (1.95)" in set(printed.text["FID"])
    assert not any("Quality and speed are not of the same" in note for note in printed.notes)
    assert any("50,000 samples a row, features of inception" in note for note in printed.notes)


@pytest.mark.parametrize(
    ("axes", "like", "words"),
    [
        ({}, {}, "weights published, speed with seeded"),
        ({"weights": "published"}, {"precision": "float32"}, "precision float32, speed with fp16"),
        ({"weights": "published"}, {"stack": "modern"}, "stack modern, speed with published"),
        (
            {"weights": "published", "sampling": "code"},
            {"sampling": "var"},
            "preset var, speed with code",
        ),
    ],
)
def test_a_cell_whose_quality_and_speed_differ_is_marked_and_says_in_what(axes, like, words):
    run = evaluated(like=like, **axes)
    printed = tables.measured(run)
    row = printed.text[printed.text["method"] == "VAR-d30"].iloc[0]
    assert row["FID"] == f"2.00* {SOURCE} (1.95)"
    assert row["IS"] == f"300* {SOURCE} (301)"
    assert "*" not in row["latency s"]
    (note,) = [note for note in printed.notes if note.startswith("*")]
    assert "VAR-d30" in note
    assert note.endswith(f"quality with {words}.")


def test_how_a_case_is_run_makes_no_other_quality():
    sampled = case(batch_size=50, attention="math", seed=3, device="cpu", memory_limit_gib=8.0)
    found = link([case()], [fake_evaluation(sampled, fid=2.0)]).by_key
    assert found[case().key].differs["fid"] == ""


def test_another_method_or_size_has_another_quality():
    others = [
        case(depth=24),
        case(method="code", draft_steps=6),
        case(method="variant", subnet_depth=4),
    ]
    assert not link([case()], [fake_evaluation(c, fid=2.0) for c in others]).by_key


def test_a_small_world_says_nothing_of_the_sizes_of_the_papers():
    """Its VAR-d12 has 1.9 million parameters, any other 133."""
    mini, random = case(depth=12, weights="mini"), case(depth=12, weights="seeded")
    assert not link([random], [fake_evaluation(mini, fid=5.0)]).by_key
    assert link([mini], [fake_evaluation(mini, fid=5.0)]).by_key


def test_other_trained_weights_have_another_quality():
    """Fine-tuned or not is what CoDe's Table 2 compares; of a VAR there is one kind only."""
    drafted = {"method": "code", "draft_steps": 6}
    free, tuned = (case(**drafted, weights=kind) for kind in ("published", "finetuned"))
    found = link(
        [free, tuned, case(weights="finetuned")],
        [fake_evaluation(tuned, fid=2.27), fake_evaluation(case(), fid=1.95)],
    ).by_key
    assert free.key not in found
    assert found[tuned.key].figures["fid"] == 2.27
    assert found[case(weights="finetuned").key].differs["fid"] == ""


def measured_with(weights: str, **sha256: str):
    """A run of VAR-d12 of those weights, with the hashes that its record has."""
    axes = {"method": "var", "depth": 12, "weights": weights, "stack": "modern"}
    run = fake_run("quick", **axes, batch_size=1, precision="fp16")
    run.records[0].weights_sha256 = sha256
    return run


def test_weights_that_were_trained_on_since_have_another_quality():
    run = measured_with("mini", mini_large="a", mini_vqvae="v")
    line = fake_evaluation(run.sweep.cases[0], fid=5.0)
    for hashes, linked in (
        ({"mini_large": "a", "mini_vqvae": "v"}, True),
        ({"mini_large": "b", "mini_vqvae": "v"}, False),
        ({"mini_large": "a", "mini_vqvae": "w"}, False),
        ({"mini_large": "a"}, True),  # of an older set
        (None, True),
    ):
        found = dataclasses.replace(
            run, evaluations=[line.model_copy(update={"weights_sha256": hashes})]
        )
        assert ("fid" in frames.frame(found)) == linked, hashes


def test_the_same_weights_have_their_quality_under_any_name(tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.symlink_to(SHIPPED["mini_large"])
    run = measured_with(f"mini:{copy}", **{str(copy): "a", "mini_vqvae": "v"})
    sampled = run.sweep.cases[0].model_copy(update={"weights": "mini"})
    line = fake_evaluation(sampled, fid=5.0)
    for hashes, linked in (({"mini_large": "a", "mini_vqvae": "v"}, True), ({}, False)):
        found = dataclasses.replace(
            run, evaluations=[line.model_copy(update={"weights_sha256": hashes})]
        )
        row = frames.frame(found).to_dict("records")[0]
        assert ("fid" in row, "fid_differs" in row) == (linked, False)


def test_of_several_evaluations_the_one_most_like_the_case_counts_then_the_newest():
    wrong = fake_evaluation(case(stack="modern", precision="bf16"), fid=9.0)
    near = fake_evaluation(case(stack="modern"), fid=8.0)
    old, new = (fake_evaluation(case(), images=n, fid=f) for n, f in ((40_000, 3.0), (50_000, 2.0)))
    for several, fid in (([wrong], 9), ([wrong, near], 8), ([wrong, near, new, old], 2)):
        assert link([case()], several).by_key[case().key].figures["fid"] == fid


def test_a_note_counts_the_samples_that_are_shown():
    old, new = (fake_evaluation(case(), images=n, fid=2.0) for n in (40_000, 50_000))
    assert link([case()], [new, old]).how["fid"].startswith("50,000 samples a row")


def test_metrics_of_one_set_of_samples_are_put_together():
    same = [fake_evaluation(case(), **one) for one in ({"recall": 0.6}, {"fid": 2.0})]
    assert link([case()], same).by_key[case().key].figures == {"fid": 2.0, "recall": 0.6}


def test_figures_of_another_reference_or_network_share_no_table():
    cases = [case(), case(depth=24), case(depth=20)]
    lines = [fake_evaluation(c, fid=2.0) for c in cases[:2]]
    other = fake_evaluation(cases[2], fid=0.5)
    other.reference_sha256 = "2" * 64
    newer = fake_evaluation(cases[0], fid=0.4)
    newer.extractor_sha256 = "3" * 64
    found = link(cases, [newer, other, *lines])
    assert {key: q.figures["fid"] for key, q in found.by_key.items()} == {
        cases[0].key: 2.0,
        cases[1].key: 2.0,
    }


def scored(sampled, weights=(), at="2026-01-01T00:00:00+00:00", **metrics):
    """What `bench.py iqa` adds of the same samples; weights: the hash of a metric's, if not the
    usual."""
    hashes = dict.fromkeys(metrics, "0") | dict(weights)
    network = {"extractor": "pyiqa-0.1.14", "extractor_sha256": repr(hashes)}
    without = {"reference": "none", "reference_sha256": None, "reference_images": None}
    intervals = {name: (value, value) for name, value in metrics.items()}
    own = {"metric_weights_sha256": hashes, "intervals": intervals, **network, **without}
    return fake_evaluation(sampled, at=at, **metrics).model_copy(update=own)


def test_table5_has_the_scores_of_the_same_method_and_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "RESULTS", tmp_path)
    drafted = case(method="code", draft_steps=9, weights="finetuned", precision="float32")
    lines = [
        scored(case(), musiq=61.0, clipiqa=0.7, niqe=5.0),
        scored(drafted, musiq=60.5),
        scored(drafted, niqe=5.5),
        fake_evaluation(case(), fid=1.95),
    ]
    for line in lines:
        evaluations.append(tmp_path / "l20", line)
    command = ["table", "code_table5", "--format"]
    result = CliRunner().invoke(app.app, [*command, "json"])
    assert result.exit_code == 0, result.output
    found = {row["method"]: row for row in json.loads(result.stdout)}
    var, code = found["VAR-d30"], found["CoDe N=9 (d30+d16)"]
    assert [var[name] for name in ("musiq", "clipiqa", "niqe", "fid")] == [61.0, 0.7, 5.0, 1.95]
    assert (var["niqe_low"], var["niqe_paper"]) == (5.0, 6.1739)
    assert code["musiq"] == 60.5
    assert code["niqe"] == 5.5
    assert "fid" not in code
    shown = CliRunner().invoke(app.app, [*command, "md"]).stdout
    assert f"| 5.0000* [5.0000-5.0000] {SOURCE} " in shown.replace("\\", "")
    assert "FID: 50,000 samples a row, features of inception" in shown
    assert "MUSIQ, CLIPIQA, NIQE: 50,000 samples a row, by pyiqa-0.1.14." in shown


def test_each_score_has_a_protocol_of_its_own():
    """Scores by other weights share no column; what else was computed beside them is no matter."""
    cases = [case(), case(depth=24), case(depth=20)]
    lines = [scored(c, niqe=5.0) for c in cases[:2]]
    lines.append(scored(cases[2], niqe=6.0, musiq=60.0))
    lines.insert(0, scored(cases[0], {"niqe": "1"}, niqe=1.0, clipiqa=0.5))
    found = link(cases, [*lines, fake_evaluation(cases[0], fid=2.0)]).by_key
    assert [found[c.key].figures["niqe"] for c in cases] == [5.0, 5.0, 6.0]
    assert found[cases[0].key].figures == {"niqe": 5.0, "clipiqa": 0.5, "fid": 2.0}


def test_a_mark_is_on_the_figures_that_it_is_of():
    run = evaluated(weights="published")
    var = next(c for c in run.sweep.cases if c.label == "VAR-d30")
    run.evaluations.append(scored(var.model_copy(update={"precision": "float32"}), niqe=5.0))
    printed = tables.measured(run)
    row = printed.text[printed.text["method"] == "VAR-d30"].iloc[0]
    assert (row["FID"], row["NIQE"]) == (
        f"2.00 {SOURCE} (1.95)",
        f"5.0000* [5.0000-5.0000] {SOURCE}",
    )


def test_random_weights_and_images_of_unknown_origin_say_nothing():
    seeded = fake_evaluation(case(weights="seeded"), fid=300.0)
    unknown = fake_evaluation(case(), fid=2.0)
    unknown.case = None
    later = fake_evaluation(case(), fid=2.0)
    later.case["a_key_of_tomorrow"] = 1
    assert not link([case(), case(weights="seeded")], [seeded, unknown, later]).by_key


def test_intervals_of_is_that_earlier_versions_got_wrong_are_not_shown():
    """Halves of 10,000 and 50,000 images, whose last split of IS was of one to three."""
    spans = {"fid": (1.9, 2.1), "inception_score": (5.1, 6.6)}
    old = fake_evaluation(case(), images=50_000, fid=2.0, inception_score=5.9)
    old = old.model_copy(update={"intervals": spans, "bootstrap": 100})
    new = old.model_copy(update={"bootstrap": 0, "groups": 25})
    few = old.model_copy(update={"images": 5000})
    shown = [quality_of([Pair(case(), {}, case(), e)], {*spans}).intervals for e in (old, new, few)]
    assert shown == [{"fid": spans["fid"]}, spans, spans]


def test_figures_of_other_counts_never_stand_in_one_table():
    many, few = case(), case(method="code", draft_steps=6)
    lines = [fake_evaluation(many, images=50_000, fid=2.0)]
    lines += [fake_evaluation(few, images=5_000, fid=4.0)]
    assert link([many, few], lines).by_key.keys() == {many.key}


def test_what_figures_rest_on_has_the_floor_and_a_warning_below_ten_thousand():
    line = fake_evaluation(case(), images=5_000, fid=4.0)
    line = line.model_copy(update={"floor": {"fid": 1.2}})
    (how,) = set(link([case()], [line]).how.values())
    assert "as many real images: FID 1.20" in how
    assert "fewer than 10,000" in how


def test_the_difference_to_the_baseline_has_a_column_with_its_interval():
    run = evaluated(weights="published")
    against = {"label": "VAR-d30", "differences": {"fid": 0.12}}
    against["difference_intervals"] = {"fid": [0.05, 0.19]}
    run.evaluations[0].against = against
    printed = tables.measured(run)
    assert printed.text["FID - baseline's"].iloc[0] == f"+0.12 [+0.05 to +0.19] {SOURCE}"
    assert any("differences to VAR-d30, paired" in note for note in printed.notes)


def test_intervals_stand_in_the_cell():
    run = evaluated(weights="published")
    run.evaluations[0].intervals = {"fid": (1.97, 2.03)}
    printed = tables.measured(run)
    assert printed.text["FID"].iloc[0] == f"2.00 [1.97-2.03] {SOURCE} (1.95)"
    assert printed.data["fid_low"][0] == 1.97


def test_a_table_without_evaluations_is_what_it_was():
    printed = tables.measured(fake_run("code_table1"))
    assert any("quality is not measured" in note for note in printed.notes)
    assert "fid" not in printed.data


def test_evaluations_anywhere_under_results_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "RESULTS", tmp_path)
    line = fake_evaluation(make_case({"method": "var", "weights": "published"}), fid=2.2)
    evaluations.append(tmp_path / "h200" / "evaluations", line)
    file = evaluations.append(
        tmp_path / "l20" / "a-run", line.model_copy(update={"evaluated_at": "2020"})
    )
    with open(file, "a") as f:
        f.write('{"schema": 1}\n{"schema": 9}\nno json\n')
    result = CliRunner().invoke(app.app, ["table", "code_table1", "--format", "json"])
    assert result.exit_code == 0, result.output
    (row,) = [row for row in json.loads(result.stdout) if row["method"] == "VAR-d30"]
    assert row["fid"] == 2.2
    said = result.stderr.splitlines()
    assert [line.partition("left out")[0].rpartition(":")[0][-2:] for line in said] == [
        ":2",
        ":3",
        ":4",
    ]
    assert "schema 9: newer than this program" in said[1]


# Figures


def page(figure: str, run):
    with matplotlib.rc_context(looks.STYLE):
        drawn = registry.figures()[figure].draw(run, case_rows.rows_of(run))
        drawn.draw_without_rendering()
        return drawn


def footer(figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text)).replace(
        "\n", " "
    )


def test_figure5a_draws_what_was_measured_with_its_front():
    run = evaluated()
    figure = page("code_figure5a", run)
    ax = figure.axes[1]
    dots = {tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() != "None"}
    expected = {(row["latency_s"], row["fid"]) for row in rows(run).values() if row.get("fid", 0)}
    assert {(x, y) for x, y in expected if y == y} == dots
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latency (s)", "FID, measured")
    assert "* Quality with weights published, speed with seeded." in footer(figure)
    (front,) = [line for line in ax.lines if line.get_label() == "Pareto front"]
    xs, ys = front.get_xdata(), front.get_ydata()
    assert all(a < b for a, b in itertools.pairwise(xs))
    assert all(a > b for a, b in itertools.pairwise(ys))


def test_figure5a_tells_fine_tuned_from_training_free_by_the_marker():
    run = evaluated("mini_table1", of=None, method=["var", "code"], draft_steps=6)
    figure = page("code_figure5a", run)
    ax = figure.axes[1]
    hollow = {
        tuple(line.get_xydata()[0]): line.get_markerfacecolor() == "white"
        for line in ax.lines
        if line.get_marker() != "None"
    }
    for row in case_rows.rows_of(run):
        free = row["case"].method != "var" and row["case"].weights == "mini"
        assert hollow[row["latency_s"], row["fid"]] == free, row["name"]
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[-2:] == ["fine-tuned", "training-free"]
    assert not any("mini" in text.get_text() for text in ax.texts)


def test_no_label_covers_another_or_a_marker_however_many_there_are():
    run = evaluated("variant_figure5")
    for row in run.evaluations:
        row.metrics["fid"] = 2 + row.metrics["fid"] / 100  # close together
    figure = page("code_figure5a", run)
    ax = figure.axes[1]
    shown = [t for t in ax.texts if t.get_visible()]
    assert len(ax.texts) == len(run.sweep.cases)
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in shown]
    assert len(boxes) > 15
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    spots = [ax.transData.transform(line.get_xydata()[0]) for line in ax.lines]
    assert not any(box.contains(*spot) for box in boxes for spot in spots)


@pytest.mark.parametrize("figure", ["variant_figure5a", "variant_figure5b", "variant_figure5c"])
def test_variants_figure5_draws_measured_fids(figure):
    run = evaluated("variant_figure5", weights="published")
    drawn = page(figure, run)
    by_config = {
        (row["case"].subnet_depth, row["case"].bridge_scales): row["fid"]
        for row in case_rows.rows_of(run)
        if row["case"].method == "variant"
    }
    assert drawn.axes[0].get_ylabel() == "FID, measured"
    values = {float(y) for line in drawn.axes[0].lines for y in line.get_ydata()}
    wanted = {
        "variant_figure5a": {fid for (_, n), fid in by_config.items() if n == 6},
        "variant_figure5b": {fid for (d, _), fid in by_config.items() if d == 16},
        "variant_figure5c": set(by_config.values()),
    }[figure]
    assert wanted <= values
    assert "FID: 50,000 samples a row" in footer(drawn)


def test_variants_figure5_is_of_a_model_of_any_depth():
    """A small world's: depth 12, other subnets, N up to 9."""
    run = evaluated(
        "variant_figure5", depth=12, subnet_depth=[2, 4, 6], bridge_scales=[6, 8], weights="mini"
    )
    for line in run.evaluations:
        line.case["weights"] = "mini"
    depth = page("variant_figure5a", run).axes[0]
    assert list(depth.lines[0].get_xdata()) == [2, 4, 6, 12]
    bridges = page("variant_figure5b", run).axes[0]
    assert list(bridges.lines[0].get_xdata()) == [6, 8]
    assert "VAR-d12" in footer(page("variant_figure5c", run))
