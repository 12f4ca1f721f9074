"""Lines of every version are read, and what cannot be is told with its place."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from bench.study import evaluations, records, storage
from bench.study.errors import UsageError
from bench.study.evaluations import Evaluation
from bench.study.records import Record
from bench.tables.history import history
from tests.synthetic import fake_run

RESULTS = Path(__file__).parents[2] / "results"
KEPT = [*RESULTS.rglob(records.FILE), *RESULTS.rglob(evaluations.FILE)]
NAMES = [str(file.relative_to(RESULTS)) for file in KEPT]


@pytest.fixture(scope="module")
def record():
    return fake_run("d16_cpu", batch_size=1, depth=2, method="var", stack="modern").records[0]


@pytest.fixture(scope="module")
def first_version():
    """A line as the first version wrote it."""
    text = (Path(__file__).parents[1] / "data" / "schema_1.jsonl").read_text()
    return json.loads(text)


def test_a_record_is_what_the_schema_says(record):
    assert storage.parse(storage.text_of(record), Record) == record


@pytest.mark.parametrize("file", sorted(KEPT), ids=sorted(NAMES))
def test_every_committed_record_can_be_read_and_written_again(file):
    model = Record if file.name == records.FILE else Evaluation
    lines, complaints = storage.read_lines(file, model)
    assert complaints == []
    assert lines
    for line, text in zip(lines, file.read_text().splitlines(), strict=True):
        kept = json.loads(text) | {"schema": storage.SCHEMA}
        assert kept.items() <= (line.to_json() | {"schema": storage.SCHEMA}).items()


def test_keys_of_a_later_version_make_no_record_unreadable_and_are_kept(record):
    line = json.loads(storage.text_of(record))
    line["new_key"] = line["samples"]["new_key"] = line["predicted"]["new_key"] = [{"a": None}]
    read = storage.parse(json.dumps(line), Record)
    assert json.loads(storage.text_of(read)) == line


def test_the_first_version_is_brought_up_to_date(first_version):
    line = storage.parse(json.dumps(first_version), Record)
    old = first_version["samples"]
    assert line.round == 1
    assert line.samples.latency_s == old["latency_s"]
    assert line.start_up.first_latency_s == old["first_latency_s"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r.update(schema=99), "schema 99: newer than this program; update it"),
        (lambda r: r.update(schema=None), "schema None"),
        (lambda r: r.pop("machine"), "machine: Field required"),
        (lambda r: r["samples"].update(latency_s=[]), "samples.latency_s: "),
        (lambda r: r["samples"].update(latency_s=[1.0, float("nan")]), "samples.latency_s.1: "),
        (lambda r: r["samples"].update(latency_s=[-1.0]), "samples.latency_s.0: "),
        (lambda r: r.update(status="fine"), "status: "),
    ],
)
def test_a_line_that_is_no_record_says_what_is_wrong_with_it(record, tmp_path, change, told):
    bad = json.loads(storage.text_of(record))
    change(bad)
    file = tmp_path / records.FILE
    file.write_text(storage.text_of(record) + json.dumps(bad) + "\n")
    lines, (complaint,) = records.read(tmp_path)
    assert lines == [record]
    assert complaint.startswith(f"{file}:2: left out ({told}")
    assert "\n" not in complaint


def keep(folder, run, commit, started_at, factor=1.0, machine="l20"):
    """A run's folder with its records changed as if measured then and there."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"name": run.sweep.name}))
    lines = copy.deepcopy(run.records)
    for line in lines:
        line.samples.latency_s = [factor * s for s in line.samples.latency_s]
        line.commit, line.started_at, line.machine = commit, started_at, machine
    storage.write_lines(folder / records.FILE, lines)


def test_a_line_after_one_that_was_cut_short_stands_alone(tmp_path):
    file = tmp_path / "lines.jsonl"
    for n in (1, 2):
        storage.append_line(file, {"n": n})
    file.write_bytes(file.read_bytes()[:-4])
    storage.append_line(file, {"n": 3})
    assert file.read_text().splitlines() == ['{"n": 1}', '{"n":', '{"n": 3}']


def test_history_shows_a_case_over_commits_and_machines(tmp_path):
    run = fake_run("d16_cpu", stack="modern", rounds=2)
    keep(tmp_path / "l20" / "new", run, "b" * 40, "2026-02-01T00:00:00+00:00", 1.1)
    keep(tmp_path / "l20" / "old", run, "a" * 40, "2026-01-01T00:00:00+00:00")
    keep(tmp_path / "h200" / "one", run, "b" * 40, "2026-02-01T00:00:00+00:00", 0.5, "h200")
    table = history(tmp_path, "var-d16")
    assert set(table.data["method"]) == {"VAR-d16"}
    assert list(table.data["machine"]) == ["h200", "l20", "l20"]
    assert list(table.text["commit"]) == ["bbbbbbbbb", "aaaaaaaaa", "bbbbbbbbb"]
    assert list(table.text["change"]) == ["", "", "+10.0%"]
    with pytest.raises(UsageError, match="no measured case of code_table1"):
        history(tmp_path, experiments=("code_table1",))


def test_history_holds_an_experiment_against_itself_and_says_what_is_extrapolated(tmp_path):
    run = fake_run("d16_cpu", stack="modern", method="var")
    run.records[0].stands_for = [5, 5]
    for month, name in enumerate(("d16_cpu", "quick", "d16_cpu"), 1):
        run.records[0].experiment = name
        keep(
            tmp_path / "l20" / str(month), run, "a" * 40, f"2026-0{month}-01T00:00:00+00:00", month
        )
    text = history(tmp_path).text
    assert list(text["experiment"]) == ["d16_cpu", "d16_cpu", "quick"]
    assert list(text["change"]) == ["", "+200.0%", ""]
    assert set(text["status"]) == {"ok, extrapolated"}


def test_history_leaves_out_a_run_that_was_stopped_before_its_first_record(tmp_path):
    run = fake_run("d16_cpu", stack="modern")
    keep(tmp_path / "l20" / "one", run, "a" * 40, "2026-01-01T00:00:00+00:00")
    stopped = tmp_path / "l20" / "stopped"
    stopped.mkdir()
    (stopped / "run.json").write_text(json.dumps({"name": "d16_cpu", "started_at": "2026-02-01"}))
    assert len(history(tmp_path).data) == len(run.records)


def test_history_tells_apart_what_differs_in_weights_alone(tmp_path):
    for weights in ("mini", "mini-finetuned"):
        run = fake_run("quick", method="variant", weights=weights)
        keep(tmp_path / "l20" / weights, run, "a" * 40, "2026-01-01T00:00:00+00:00")
    text = history(tmp_path).text
    assert set(text["weights"]) == {"mini", "mini-finetuned"}
    assert not text.drop(columns="measured").duplicated().any()


def test_history_tells_of_damaged_lines(tmp_path):
    run = fake_run("d16_cpu", stack="modern")
    keep(tmp_path / "l20" / "one", run, "a" * 40, "2026-01-01T00:00:00+00:00")
    file = tmp_path / "l20" / "one" / records.FILE
    file.write_text(file.read_text() + '{"key": ')
    told = history(tmp_path).notes[-1]
    assert told.startswith(f"{file}:{1 + len(run.records)}: left out (no JSON")


def test_the_newest_run_is_the_one_that_began_last_not_the_file_that_was_touched_last(tmp_path):
    for name, began in (("new", "2026-02-01"), ("old", "2026-01-01"), ("ancient", None)):
        folder = tmp_path / "l20" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"name": "d16_cpu", "started_at": began}))
    assert [folder.name for folder, _ in records.runs(tmp_path)][:2] == ["new", "old"]
