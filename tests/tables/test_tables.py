"""What a table shows: ours, the paper's and the prediction, in every format."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from bench.cli import targets
from bench.predict import prediction
from bench.predict.prediction import predict
from bench.report import page
from bench.study import papers, printing
from bench.study.cases import make_case
from bench.study.errors import UsageError
from bench.study.records import Predicted
from bench.tables import case_rows, frames, tables
from tests.synthetic import fake_run

SHIPPED = Path(__file__).parents[2] / "results" / "shipped"
FORMATS = ("rich", "md", "csv", "latex", "json")


def rows(run):
    return {row["method"]: row for row in frames.frame(run).to_dict("records")}


def printed(run, format, capsys):
    printing.show(tables.measured(run), format)
    return capsys.readouterr().out


def test_every_row_of_the_paper_is_there_measured_or_not():
    told = {row.label for row in papers.load("code_table1").rows}
    table = frames.frame(fake_run("code_table1"))
    assert set(table["status"]) == {"ok"}
    assert set(table["method_paper"]) == told
    table = frames.frame(fake_run("code_table1", method=["var", "code"]))
    measured = table[table["status"] == "ok"]
    assert sorted(measured["method_paper"]) == sorted(
        ["VAR-d30", "VAR-d24", "VAR-d20", *(f"VAR-CoDe N={n}" for n in (6, 7, 8, 9))]
    )
    quoted = table[table["status"] == "not measured"]
    assert list(quoted["method"]) == ["DiT-XL/2", "MAR-B", "AiM-XL", "LlamaGen-XXL"]
    assert quoted["latency_s"].isna().all()
    assert list(quoted["latency_s_paper"]) == [19.20, 29.80, 9.32, 73.97]


def test_a_case_stands_beside_the_papers_row_of_its_batch_size():
    table = frames.frame(fake_run("code_table3"))
    ours = table[(table["method"] == "VAR-d30") & (table["batch_size"] == 32)].iloc[0]
    assert ours["kv_cache_mib_paper"] == 14345
    assert ours["running_mib_paper"] == 1216
    assert ours["kv_cache_mib_predicted"] == 14343.75


def test_out_of_memory_is_a_row_as_in_the_paper(capsys):
    run = fake_run("code_table3")
    table = frames.frame(run)
    lost = table[table["status"] == "oom_predicted"]
    assert list(lost["method"]) == ["VAR-d30"]
    assert list(lost["status_paper"]) == ["oom"]
    assert "OOM, predicted (OOM)" in printed(run, "md", capsys)


def test_latency_is_the_median_and_speed_up_is_over_the_baseline_of_the_same_axes():
    run = fake_run("code_figure5", batch_size=[1, 64])
    run.records[0].samples.latency_s = [1.0, 9.0, 2.0]
    table = frames.frame(run)
    assert table["latency_s"][0] == 2.0
    base = table[table["method"] == "VAR-d30"].set_index(["batch_size", "stack"])["latency_s"]
    for row in table.to_dict("records"):
        expected = base[row["batch_size"], row["stack"]] / row["latency_s"]
        assert row["speedup"] == pytest.approx(expected)


def test_quality_is_the_papers_and_marked_as_not_measured(capsys):
    text = printed(fake_run("code_table1"), "md", capsys)
    assert "- (1.95)" in text
    assert "quality is not measured" in text


def test_an_experiment_that_was_never_run_shows_predictions_and_the_paper(capsys):
    run = fake_run("variant_table2", measured=False, method=["var", "variant"])
    table = rows(run)
    assert {row["status"] for row in table.values()} == {"not run", "not measured"}
    assert table["VARiant-d2 N=6 (d30)"]["kv_cache_mib_predicted"] == pytest.approx(5495.6, abs=0.1)
    text = printed(run, "md", capsys)
    ours, theirs = text.split(
        "### As printed: VARiant, Table 2: NVIDIA L20, fp16, batch 64, 256 px"
    )
    assert "3.62" in theirs
    assert "3.62" not in ours


def test_json_has_the_documented_names(capsys):
    first = json.loads(printed(fake_run("code_table1"), "json", capsys))[0]
    assert {"method", "batch_size", "stack", "status", "latency_s", "params_mib"} <= first.keys()
    assert first["kv_cache_mib"] == pytest.approx(28687.5)
    assert len(first["scale_latency_s"]) == 10


def test_csv_can_be_read_back(capsys):
    table = list(csv.DictReader(io.StringIO(printed(fake_run("code_table1"), "csv", capsys))))
    assert len(table) == 11
    assert float(table[0]["kv_cache_mib"]) == pytest.approx(28687.5)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_prints_every_method(format, capsys):
    run = fake_run("variant_table3")
    text = printed(run, format, capsys)
    for case in run.sweep.cases:
        assert case.label in text


def test_a_hostile_text_stays_text(capsys):
    run = fake_run("variant_table3", batch_size=64)
    run.records[0].status, run.records[0].reason = "error", "[red]| a & b_c % </table>[/red]"
    assert "[red]| a & b_c % </table>[/red]" in printed(run, "rich", capsys)
    run.records[0].status = "a & b_c %"
    assert r"a \& b\_c \%" in printed(run, "latex", capsys)


def test_predictions_carry_the_same_names(capsys):
    sweep = fake_run("code_table3", measured=False).sweep
    printing.show(tables.predictions(sweep), "json")
    first = json.loads(capsys.readouterr().out)[0]
    told = predict(make_case({"method": "var", "batch_size": 8}))
    assert first["kv_cache_mib"] == max(told.kv_cache_bytes) / 2**20
    assert first["params_mib"] == told.params_bytes / 2**20
    assert first["running_mib"] == told.running_bytes / 2**20
    assert len(first["gflops_by_scale"]) == len(first["kv_cache_by_scale_mib"]) == 10


def test_no_speed_up_over_a_baseline_that_ran_out_of_memory():
    table = frames.frame(fake_run("code_figure5", batch_size=[64, 128], stack="published"))
    lost = table[(table["method"] == "VAR-d30") & (table["batch_size"] == 128)].iloc[0]
    assert lost["status"] == "oom_predicted"
    assert table[table["batch_size"] == 128]["speedup"].isna().all()
    assert table[table["batch_size"] == 64]["speedup"].notna().all()


@pytest.mark.parametrize("text", ["{oops", "{}", '{"name": 1}', "[]", '{"experiment": {}}'])
def test_a_damaged_run_is_one_line_and_does_not_hide_the_others(tmp_path, text, monkeypatch):
    for name in ("machine/good", "machine/bad"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "machine" / "bad" / "run.json").write_text(text)
    sweep = fake_run("d16_cpu", measured=False).sweep
    what = {"name": "d16_cpu", "device": "cpu", "experiment": sweep.experiment.model_dump()}
    (tmp_path / "machine" / "good" / "run.json").write_text(json.dumps(what))
    with pytest.raises(UsageError) as e:
        frames.load(tmp_path / "machine" / "bad")
    assert str(e.value).count("\n") == 0
    monkeypatch.setattr(targets, "RESULTS", tmp_path)
    assert targets.find(["d16_cpu"])[0].folder == tmp_path / "machine" / "good"


def test_a_row_says_where_memory_is_not_as_predicted(capsys):
    run = fake_run("variant_table3", batch_size=64)
    assert "; running" not in printed(run, "md", capsys)
    run.records[1].memory.running_mib *= 1.25
    run.records[2].memory.accounted, run.records[2].memory.unaccounted_mib = False, 7.0
    text = printed(run, "md", capsys)
    thinned = [line for line in text.splitlines() if line.startswith("| VARiant-d16")]
    assert "ok; running +25%" in thinned[0]
    assert "ok; 7.0 MiB unaccounted" in text
    assert "Status says where memory is not as predicted" in text


def test_what_was_predicted_with_a_measurement_stands_beside_it():
    """Not what today's code predicts, or the reader's machine."""
    run = fake_run("code_table3", batch_size=64)
    predicted = run.records[0].predicted
    predicted.kv_cache_mib, predicted.flops = 1234.0, 5 * 10**12
    row = frames.frame(run).iloc[0]
    assert (row["kv_cache_mib_predicted"], row["tflops_predicted"]) == (1234.0, 5.0)
    oldest = {name: value for name, value in predicted.to_json().items() if name != "running_mib"}
    run.records[0].predicted = Predicted.model_validate(oldest)
    assert frames.frame(run).iloc[0]["running_mib_predicted"] > 100


def test_a_table_and_a_page_of_a_finished_run_predict_nothing_anew(monkeypatch):
    """Its records hold their own predictions."""
    run = frames.load(SHIPPED / "intel-xeon-2-threads" / "variant_table2_published")
    monkeypatch.setattr(prediction, "prediction", lambda case, **_: pytest.fail(case.label))
    prediction.predict.cache_clear()
    assert len(tables.measured(run).data) >= len(run.records)
    assert page.of_runs([run])


@pytest.mark.parametrize(
    ("device", "name"),
    [("cuda", "NVIDIA L20"), ("cuda:1", "NVIDIA H200"), ("cpu", "AMD EPYC")],
)
def test_a_run_is_of_the_device_that_its_cases_were_on(device, name):
    run = fake_run("code_table1", device=device, precision="float32")
    run.env = run.env | {"gpus": [*run.env["gpus"], {"name": "NVIDIA H200"}], "cpu": "AMD EPYC"}
    assert f"Measured on {name}, torch" in " ".join(tables.measured(run).notes)
    assert f"easured on {name}, torch" in case_rows.footer(run, case_rows.rows_of(run))


def test_by_scale_shows_what_is_left_after_each(capsys):
    run = fake_run("code_table3", batch_size=64)
    scales = next(t.data for t in tables.measured(run).more if t.title == "By scale")
    left = scales[(scales["method"] == "CoDe N=6 (d30+d16)") & (scales["by scale"] == "live MiB")]
    made = run.records[1].memory.live_by_scale_mib
    assert left[[str(k) for k in range(1, 11)]].iloc[0].tolist() == [f"{b:.0f}" for b in made]


def test_several_runs_are_one_json(capsys):
    runs = [fake_run("variant_table3", batch_size=64), fake_run("code_table3", batch_size=8)]
    printing.show(tables.together(runs), "json")
    rows = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert {row["experiment"] for row in rows} == {"variant_table3", "code_table3"}


@pytest.mark.parametrize("width", [80, 120, 320])
def test_a_narrow_terminal_gets_several_tables(width):
    shown = tables.measured(fake_run("code_table3"))
    parts = printing.blocks(shown.text, shown.names, width)
    assert {name for part in parts for name in part} == set(shown.text.columns)
    assert all([*part][:2] == ["method", "batch"] for part in parts)
    assert (len(parts) > 1) == (width < 320)
    assert all(sum(part.values()) + printing.GAP * (len(part) - 1) <= width for part in parts)


def test_a_view_has_the_columns_rows_and_sections_that_were_asked_for():
    run = fake_run("code_table1", method=["var", "code"], depth=30, draft_steps=6)
    brief = tables.measured(run, view=tables.IN_BRIEF)
    assert [*brief.text][:3] == ["method", "steps", "speed-up"]
    assert [*brief.text][-1] == "status"
    assert brief.more == []
    own = tables.measured(run, view=tables.View(["latency_s", "status"], sort="latency_s"))
    assert [*own.text] == ["method", "latency s", "status"]
    assert [*own.text["method"]][:2] == ["CoDe N=6 (d30+d16)", "VAR-d30"]
    worst = tables.measured(run, view=tables.View(sort="-latency_s"))
    assert worst.text["method"].iloc[0] == "VAR-d30"
    how = tables.measured(run, view=tables.View(sections=["how"]))
    assert (how.title, how.more) == ("How it was measured", [])
    for wrong in (tables.View(["latency"]), tables.View(sort="x"), tables.View(sections=["x"])):
        with pytest.raises(UsageError):
            tables.measured(run, view=wrong)


def test_a_shipped_record_says_so_in_the_heading_and_is_no_ones_default():
    assert targets.find(["mini_table1"])[0].records == []
    (run,) = targets.find(["mini_table1"], shipped=True)
    shown = tables.measured(run, view=tables.IN_BRIEF)
    assert shown.title.endswith("; shipped records, measured on AMD EPYC")
    assert all("n=500 @2304b14a3" in cell for cell in shown.text["FID"])
    assert "CoDe N=6 (d12+d4), training-free" in set(shown.text["method"])


def test_without_the_extras_the_papers_rows_stand_without_a_prediction(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "bench.methods.baselines.dit.network", raising=False)
    prediction.predict.cache_clear()
    run = fake_run("code_table1", measured=False, method=["var", "dit"], depth=30)
    shown = tables.measured(run)
    row = shown.data.set_index("method").loc["DiT-XL/2"]
    assert row["latency_s_paper"] == 19.20
    assert any("dit needs diffusers" in note for note in shown.notes)


@pytest.mark.parametrize("width", [80, 100])
def test_piped_output_heeds_columns_and_breaks_no_word(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = tables.measured(fake_run("code_table3", batch_size=[8, 64], method=["var", "code"]))
    printing.show(shown, "rich")
    out = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= width
    words = {word for cell in shown.text.astype(str).values.flat for word in cell.split()}
    assert words <= {*out.split()}
