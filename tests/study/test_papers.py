"""The papers' tables as values by keys: every one is reached, each by what it is of."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.predict.prediction import predict
from bench.report import content
from bench.study import experiment, folders, papers
from bench.study.cases import make_case
from bench.study.errors import UsageError
from bench.tables import frames, tables
from bench.tables.frames import Run
from tests.synthetic import fake_run

NO_CASES = {"variant_table6", "variant_table7"}  # training recipes
OF_A_TABLE = [
    *(f"code_table{i}" for i in range(1, 7)),
    *(f"variant_table{i}" for i in (1, 2, 3, 4, 5, 8)),
]


def shown(name, **changes):
    """The paper's figures in an experiment's table: (column, figure), as often as they stand."""
    data = frames.frame(Run(experiment.load(name, [f"{k}={v}" for k, v in changes.items()])))
    return Counter(
        (column, value)
        for row in data.to_dict("records")
        for column, value in row.items()
        if column.endswith("_paper") and column != "status_paper" and value == value
    )


@pytest.fixture
def same_prediction(monkeypatch):
    """Where predictions are beside the point: one serves all cases."""
    one = predict(make_case({"method": "var", "depth": 4, "weights": "mini", "sampling": "mini"}))
    monkeypatch.setattr(frames, "predict", lambda case: one)


@pytest.mark.usefixtures("same_prediction")
@pytest.mark.parametrize("name", sorted(set(papers.names()) - NO_CASES))
def test_every_printed_value_stands_in_an_experiments_table(name):
    assert experiment.load(name).experiment.paper == name
    expected = Counter(cell for row in papers.load(name).rows for cell in row.columns.items())
    there = shown(name)
    for (column, value), times in expected.items():
        if column not in ("status_paper", "method_paper", "batch_size_paper"):
            assert there[column, value] == times, (column, value)


def test_only_training_recipes_have_no_cases():
    assert {n for n in papers.names() if papers.load(n).about.cases == "none"} == NO_CASES


@pytest.mark.parametrize("name", OF_A_TABLE)
def test_nearly_every_row_of_a_table_is_a_case(name):
    """Where the paper prints VAR-d30 once for each scale, or depth, one of these rows is a case."""
    more = experiment.load(name).further_paper_rows()
    again = {"code_table4": 8, "variant_table4": 3}
    assert len(more) == again.get(name, 0)


@pytest.mark.usefixtures("same_prediction")
def test_a_value_stands_beside_the_draft_steps_that_it_is_of():
    data = frames.frame(Run(experiment.load("code_table6", ["draft_steps=9,8"])))
    ours = data[data["status"] == "not run"]
    assert list(zip(ours["method"], ours["fid_paper"], strict=True)) == [
        ("CoDe N=9 (d30+d16)", 1.99),
        ("CoDe N=8 (d30+d16)", 2.10),
    ]
    text = tables.measured(fake_run("code_table6", draft_steps=[9, 8])).text
    assert [
        method for method, fid in zip(text["method"], text["FID"], strict=True) if "1.99" in fid
    ] == ["CoDe N=9 (d30+d16), training-free"]


@pytest.mark.usefixtures("same_prediction")
def test_a_swapped_scale_stands_beside_its_own_size_and_scale():
    data = frames.frame(Run(experiment.load("code_table4"))).set_index("method")
    assert data.loc["VAR-d30, scale 7 by d20", "quality_precision_paper"] == 0.5095
    assert data.loc["VAR-d30, scale 2 by d16", "fid_paper"] == 2.23


def test_what_is_printed_where_memory_ran_out_stands_beside_the_prediction():
    text = tables.measured(fake_run("code_table3", batch_size=128, method="var")).text
    row = text[text["method"] == "VAR-d30"].iloc[0]
    assert row["KV cache MiB"] == "- (OOM(57GB))"
    assert row["params MiB"] == "- (OOM(0.80GB))"
    assert (row["KV cache predicted"], row["total predicted"]) == ("57375.0", "70296")


def test_a_table_shows_every_digit_that_the_paper_prints():
    text = tables.measured(fake_run("code_table6", draft_steps=8)).text
    assert text["precision"][0] == "- (0.8155)"
    assert text["IS"][0] == "- (308)"


def test_a_metric_that_nobody_measures_here_is_shown_too():
    (printed,) = [
        table
        for table in tables.measured(Run(experiment.load("code_figure5"))).more
        if table.title.startswith("As printed: CoDe, Figure 5")
    ]
    assert list(printed.text["last three scales share"]).count("0.64") == 1


def test_the_papers_figures_stand_in_our_cells_only_where_they_were_made_alike():
    axes = {"method": "var", "depth": 30}
    alike = tables.measured(fake_run("code_table1", **axes))
    told = "CoDe, Table 1: NVIDIA L20, fp16, batch 64, 256 px"
    assert alike.notes[0] == f"Paper, in brackets: {told}."
    assert alike.text["latency s"][0].endswith(" (3.62)")
    unlike = {"batch_size": 1}, {"precision": "bf16"}, {"measured": False}
    for change in unlike:
        shown = tables.measured(fake_run("code_table1", **axes, **change))
        assert not any("(3.62)" in cell for cell in shown.text.astype(str).values.flat)
        assert shown.more[0].title == f"As printed: {told}"
        assert shown.more[0].text["latency s"].iloc[0] == "3.62"


def test_list_shows_an_experiment_for_each_table():
    result = CliRunner().invoke(app.app, ["list", "--format", "json"])
    titles = {row["name"]: row["what"] for row in json.loads(result.stdout)}
    for name in OF_A_TABLE:
        assert titles[name].startswith(papers.load(name).about.title)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method,fid\na,1\n", "# paper: Field required"),
        ("# paper: P\n# table: T\n# keys: method\n# colour: 1\nmethod,fid\na,1\n", "# colour"),
        (
            "# paper: P\n# table: T\n# keys: depth\nmethod,fid\na,1\n",
            "no column for the keys depth",
        ),
        ("# paper: P\n# table: T\n# keys: method\nmethod,fid\na,1\na,2\n", "two values of fid"),
        ("# paper: P\n# table: T\n# keys: method\nmethod,fid\na\n", "not as many cells"),
    ],
)
def test_a_damaged_table_is_one_line(tmp_path, monkeypatch, text, says):
    monkeypatch.setattr(folders, "PAPERS", tmp_path)
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(UsageError) as e:
        papers.load("mine")
    assert says in str(e.value)
    assert "\n" not in str(e.value)


# A paper that nobody has written


@pytest.fixture
def third_paper(tmp_path, monkeypatch):
    """Three tables and an experiment, and no code."""
    monkeypatch.setattr(folders, "PAPERS", tmp_path)
    monkeypatch.setattr(experiment, "EXPERIMENTS", tmp_path)
    head = "# paper: Third\n# keys: {keys}\n# table: {table}\n# device: TPU v9\n"
    for name, table, keys, text in (
        (
            "speeds",
            "Table 1",
            "net, batch_size",
            "net,batch_size,latency_s,warmth\nfull,8,2.5,hot\n",
        ),
        ("quality", "Table 2", "net", "net,fid,steps\nfull,7.77,10\nhalf,9.5,10\n"),
        ("recipe", "Table 3", "name", "name,value\nlr,0.1\n"),
    ):
        cases = "# cases: none\n" if name == "recipe" else ""
        about = head.format(keys=keys, table=table) + cases
        (tmp_path / f"{name}.csv").write_text(about + text)
    (tmp_path / "speeds_again.toml").write_text(
        'title = "Third, Table 1: speeds"\npaper = "speeds"\n'
        '[defaults]\nbatch_size = 8\nweights = "seeded"\ndepth = 30\n'
        '[[cases]]\nmethod = "var"\npaper_row = { net = "full" }\n'
        '[[cases]]\nmethod = "var"\ndepth = 16\n'
    )


def bench(*words):
    result = CliRunner().invoke(app.app, [*words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_third_paper_needs_no_code_and_is_called_by_its_own_name(third_paper):
    assert [grid.title for grid in content.quoted({"speeds"})] == [
        "Third, Table 2",
        "Third, Table 3",
    ]
    data = json.loads(bench("table", "speeds_again", "--format", "json"))
    assert data[0]["latency_s_paper"] == 2.5
    assert data[0]["warmth_paper"] == "hot"
    told = bench("table", "speeds_again", "--format", "md")
    assert "As printed: Third, Table 1: TPU v9" in told
    assert "2.5" in told
    assert "hot" in told
    run = fake_run("speeds_again")
    page = repr(content.group("g1", [run]))
    experiments = [line for line in bench("list").splitlines() if "experiment" in line]
    assert any("Third, Table 1: speeds" in line for line in experiments)
    for said in (told, bench("predict", "speeds_again"), page, *experiments):
        assert "CoDe" not in said
        assert "VARiant" not in said
