"""A bundle as it was packed passes; whatever is changed in it fails by name, and runs nothing."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import zipfile

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.study import archive
from bench.tables import bundle
from codevar import files
from tests.bundles import bundled, of_a_plugin
from tests.report.pages import HOSTILE
from tests.study.test_archive import forged

RECORDS, EVALUATIONS = "records.jsonl", "evaluations.jsonl"
FIGURES, QUALITY = "figures follow from raw samples", "quality and speed of one model"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return bundled(tmp_path_factory.mktemp("made"))


def run(*words):
    return CliRunner().invoke(app.app, list(map(str, words)))


@pytest.fixture
def tampered(made, tmp_path):
    """The bundle with lines of one of its files changed, and hashes that fit."""

    def change(name, edit):
        folder = tmp_path / "bundle"
        archive.Archive([made]).unpack(folder)
        file = folder / name
        values = [json.loads(line) for line in file.read_text().splitlines()] if (
            name.endswith("jsonl")
        ) else [json.loads(file.read_text())]  # fmt: skip
        kept = [value for value in values if edit(value) is not False]
        file.write_text("\n".join(map(json.dumps, kept)) + "\n")
        (packed,) = archive.pack(archive.files_of(folder), "mine", tmp_path / "out")
        return packed

    return change


def test_a_bundle_passes_and_says_what_counts(made):
    done = run("verify", made)
    assert done.exit_code == 0, done.output
    assert {check.verdict for check in bundle.verify(made).checks} == {"passed"}
    rows = {row["name"]: row for row in bundle.verify(made).rows}
    gates = [row["gates"] for row in rows.values()]
    assert gates == [[], [], [], ["FID within 5 %", "FID within 20 %"], ["FID within 20 %"]]
    assert rows["VAR-d12, seed 1"]["why_not"].startswith("no speed-up is shown: 0.9")
    assert rows["VAR-d12, without scale 10"]["why_not"].startswith("loses more")
    assert rows["VAR-d12, seed 0"]["division"] == "baseline"


def faster(record):
    record["samples"]["latency_s"] = [s / 2 for s in record["samples"]["latency_s"]]


def of(label, edit):
    """The edit, of lines with that label alone."""
    return lambda line: edit(line) if label in (line.get("method") or line.get("label")) else None


def put(value, *keys):
    """An edit: a value at a place."""

    def edit(line):
        for key in keys[:-1]:
            line = line[key]
        line[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("name", "edit", "check", "words"),
    [
        (RECORDS, faster, FIGURES, "latency_s"),
        ("statement.json", put(9.0, "rows", 3, "speedup"), FIGURES, "9.0"),
        ("statement.json", put([], "rows"), FIGURES, "damaged"),
        (RECORDS, put(1.0, "memory", "params_mib"), "memory and FLOPs as", "params -"),
        (RECORDS, put(1, "predicted", "flops"), "memory and FLOPs as", "1 FLOPs, not 278"),
        (RECORDS, put(None, "paired"), "speed-ups are paired", "a round without turns"),
        (RECORDS, put(4.0, "other_load_cores"), "measured undisturbed", "beside other work"),
        (RECORDS, put("m2", "machine"), "schema", "of another machine"),
        (RECORDS, put("x" * 12, "key"), "schema", "of no case"),
        (RECORDS, put("?", "samples"), "schema", "left out"),
        (RECORDS, of("N=9", put(6, "case", "draft_steps")), "schema", "of no case"),
        ("run.json", put([["a"]] * 9, "experiment", "cases"), "schema", "ValidationError"),
        ("run.json", put([""] * 9999, "experiment", "defaults", "weights"), "schema", "2,000"),
        (
            RECORDS,
            lambda record: record["case"]["seed"] == 0,
            "controls are there",
            "lacks its control VAR-d12",
        ),
        (
            EVALUATIONS,
            of("N=9", put([-0.1, 0.0], "against", "difference_intervals", "fid")),
            FIGURES,
            "FID's difference is another",
        ),
        (
            EVALUATIONS,
            lambda line: line["against"] or put(9.0, "metrics", "fid")(line),
            FIGURES,
            "its baseline's FID is another",
        ),
        ("env.json", put(5, "gpus"), "rules", "TypeError"),
        (
            EVALUATIONS,
            of("CoDe", put(4, "against", "case", "depth")),
            QUALITY,
            "another baseline's",
        ),
        (
            EVALUATIONS,
            of("CoDe", put("bf16", "case", "precision")),
            QUALITY,
            "precision bf16, speed with float32",
        ),
    ],
)  # fmt: skip
def test_what_was_changed_fails_by_name(tampered, name, edit, check, words):
    found = bundle.verify(tampered(name, edit))
    (failed,) = [line for line in found.failed if line.name.startswith(check)]
    assert words in failed.why
    assert found.rows == []


def test_a_bundle_that_fails_is_exit_code_1(made, tmp_path):
    damaged = tmp_path / "damaged.zip"
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(damaged, "w") as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry) + b" " * (entry == "env.json"))
    done = run("verify", damaged)
    assert done.exit_code == 1
    assert "hashes" in done.output
    assert "'env.json' has" in done.output


def test_a_path_that_leads_elsewhere_writes_nothing(tmp_path):
    file = forged(tmp_path, {"statement.json": b"{}", "../a": b"x"})
    done = run("verify", file)
    assert (done.exit_code, "no path that an archive may hold" in done.output) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("what", ["text", "archive", "nothing"])
def test_what_is_no_bundle_is_one_line_and_exit_code_2(what, made, tmp_path):
    file = tmp_path / "file.zip"
    if what == "text":
        file.write_text("PK?")
    elif what == "archive":
        shutil.move(archive.pack({"run.json": made}, "a", tmp_path)[0], file)
    done = run("verify", file)
    assert done.exit_code == 2
    assert str(file) in done.output
    assert done.output.count("\n") == 1


def test_nothing_that_it_names_is_imported_or_opened(tampered, monkeypatch, tmp_path):
    """A method of an installed package, and files of weights and settings on this machine."""
    asked = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **k: asked.append(k) or [])
    monkeypatch.setattr(files, "var_config", lambda name: asked.append(name))
    (tmp_path / "mine.json").write_text("{}")
    mine = [
        {"method": "evil"},
        {"method": "var", "weights": "mini:/dev/zero"},
        {"method": "var", "weights": "/mine.safetensors"},
        {"method": "var", "prune": f"sparsevar {tmp_path}/mine.json"},
    ]
    for i, case in enumerate(mine):
        (tmp_path / str(i)).mkdir()
        edit = lambda run, case=case: run["experiment"].update(cases=[case])  # noqa: E731
        found = bundle.verify(tampered("run.json", edit))
        assert found.failed
        shutil.rmtree(tmp_path / "bundle")
    assert asked == []


def test_rows_of_a_plugin_are_marked_and_carry_no_prediction(tmp_path):
    found = bundle.verify(of_a_plugin(tmp_path, "Theirs", "NVIDIA L20"))
    assert found.failed == []
    (row,) = [row for row in found.rows if row["plugin"]]
    assert (row["method"], row["total_mib"] > 0) == ("Theirs", True)
    assert [key for key in row if key.endswith("_predicted")] == []
    assert "Theirs (plugin)" in [*bundle.printed(found).more[0].text["case"]]


def test_hostile_text_is_text_in_a_terminal(tampered):
    done = run("verify", tampered(RECORDS, put(f"\x1b]0;{HOSTILE}[red]", "machine")))
    assert done.exit_code == 1
    assert "\x1b" not in done.output
