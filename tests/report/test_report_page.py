"""What the report says, what is in the file, and what it refuses."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.cli import app, targets
from bench.report import content, marks, page, pictures, sections
from bench.study.errors import UsageError
from bench.study.records import CardState
from bench.tables import compare, frames
from tests.report.pages import HOSTILE, changed, on_disk, quiet_run, sample_set


@pytest.fixture(scope="module")
def quick():
    return quiet_run()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "RESULTS", tmp_path / "results")
    return lambda *words: CliRunner().invoke(app.app, ["report", *map(str, words)])


def copied(run):
    return frames.Run(run.sweep, copy.deepcopy(run.records), [], {**run.env}, run.folder)


def cell(table, method, name):
    row = next(row for row in table.rows if row[0] == method)
    return row[[column.name for column in table.columns].index(name)]


# The file


def test_the_file_asks_for_nothing_and_allows_only_its_own_scripts(bench, quick, tmp_path):
    out = tmp_path / "new" / "folder" / "report.html"
    result = bench(on_disk(quick, tmp_path / "run"), "-o", out)
    assert result.exit_code == 0, result.stderr
    html = out.read_text("utf-8")
    markup = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="(?!#|data:)', markup)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'")
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    ids = re.findall(r' id="([^"]+)"', markup)
    assert len(ids) == len(set(ids))
    for script in [*scripts, *re.findall(r"<style>(.*?)</style>", html, re.DOTALL)]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


@pytest.mark.parametrize("name", ["table1_cpu", "variant_table2"])
def test_runs_with_baselines_some_in_part_have_their_page(name):
    """As they ship."""
    run = frames.load(targets.SHIPPED / "amd-epyc-2-threads" / name)
    html = page.of_runs([run])
    assert all(case.label in html for case in run.sweep.cases)


@pytest.mark.slow
def test_a_page_of_200_cases_is_under_5_mb():
    run = quiet_run(batch_size=[*range(1, 26)], samples=60)
    assert len(run.sweep.cases) == 200
    html = page.of_runs([run])
    assert len(html.encode()) < 5e6


def test_hostile_text_never_leaves_its_place(quick, tmp_path):
    run = copied(quick)
    run.env["gpus"] = [{"name": HOSTILE}]
    run.records[0].status, run.records[0].reason = "error", HOSTILE + " \udc80"
    run.records[1].method = HOSTILE
    run.sweep.experiment.title = HOSTILE
    html = page.of_runs([frames.load(on_disk(run, tmp_path / "run"))])
    assert "<img src=x" not in html
    assert html.count("</script>") == 1


# What it says


def test_the_headline_is_the_most_that_is_sure(quick):
    head = content.groups([quick])[0].headline
    data = frames.frame(quick)
    best = data.loc[data["speedup"].idxmax()]
    times = f"{best['method']} decodes {best['speedup']:.2f} times as fast as VAR-d4"
    assert head.text == f"{times}, its loss of quality not measured"
    assert head.where == f"NVIDIA L20, batch 1, float32, {best['stack']} stack"
    assert head.sure == "firm"
    assert "from 3 rounds, interleaved. Nothing was marked." in head.why


def test_the_headline_says_what_it_rests_on(quick):
    busy = copied(quick)
    for record in busy.records:
        record.other_load_cores = 1.5
    head = content.groups([busy])[0].headline
    assert head.sure == "marked"
    assert "measured beside other work (1.5 cores): its times are not to be judged" in head.why
    once = copied(quick)
    once.records = [record for record in once.records if record.round == 1]
    head = content.groups([once])[0].headline
    assert head.sure == "rough"
    assert "a look, not a measurement" in head.why


def test_the_headline_keeps_its_quality_or_says_what_it_loses(quick):
    rows = content.rows_of(quick)
    unknown = max(content.headlines(quick, rows), key=lambda head: head.rank)
    fastest = unknown.text.split()[0]

    def best(fids):
        for row in rows:
            row["fid"] = fids.get(row["method"].split()[0].split("-")[0], 5.4)
        return max(content.headlines(quick, rows), key=lambda head: head.rank).text

    kept = best({"VAR": 5.0, fastest: 10.0})
    assert not kept.startswith(fastest)
    assert kept.endswith(", at FID 5.40 against 5.00 (+8%)")
    assert best({"VAR": 2.7}).endswith(", at FID 5.40 against 2.70 (+100%)")


def test_training_free_rows_say_so():
    run = quiet_run("quick", rounds=1, method="code", draft_steps=6)
    table = content.groups([run])[0].table
    assert table.rows[-1][0].endswith(", training-free")
    row = content.rows_of(run)[-1] | {"speedup": 2.0, "speedup_by": "paired"}
    head = content.headline(run, row, row, "VAR")
    assert head.where.endswith("modern stack, training-free")


def test_fid_stands_before_what_a_reader_scrolls_to():
    run = quiet_run("code_table1", rounds=1, method="var", depth=20)
    columns = [column.name for column in content.groups([run])[0].table.columns]
    assert columns.index("FID, paper") < columns.index("parameters (M), predicted")


def test_nothing_faster_is_said_so(quick):
    run = copied(quick)
    for record in run.records:
        if not record.method.startswith("VAR-"):
            record.samples.latency_s = [9 * s for s in record.samples.latency_s]
    assert content.groups([run])[0].headline.text.startswith("Nothing was faster than VAR-d4")


def test_a_baseline_that_failed_later_makes_no_headline(quick):
    run = copied(quick)
    for record in run.records:
        if record.method == "VAR-d4" and record.round == 2:
            record.status, record.reason = "timeout", "took longer than 1 s"
    assert content.groups([run])[0].headline is None


def test_a_smaller_var_is_no_headline():
    run = quiet_run(method=["var", "code"], depth=[4, 5], stack="modern", draft_steps=6)
    run.sweep.experiment.baseline = {"method": "var", "depth": 5}
    assert content.groups([run])[0].headline.text.startswith("CoDe")


def test_the_table_has_measured_paper_and_predicted_apart():
    run = quiet_run("code_table1", rounds=1, method="var", depth=20)
    table = content.groups([run])[0].table
    assert cell(table, "VAR-d20", "latency (s), paper") == "1.29"
    measured = cell(table, "VAR-d20", "total (MiB), measured")
    assert measured == cell(table, "VAR-d20", "total (MiB), predicted")
    assert cell(table, "LlamaGen-XXL", "speed-up, paper") == "<0.1"
    assert cell(table, "DiT-XL/2", "status") == "not measured"


@pytest.mark.parametrize(
    ("text", "sorts_by"),
    [
        ("~2.53x", 2.53),
        ("<0.1", 0.1),
        ("30.1 (28)", 30.1),
        ("-4.2%", -4.2),
        ("310M", 310),
        ("2,010", 2010),
        ("", None),
        ("6+4", 6),
        ("2026-11-21", None),
        ("4 GPUs", 4),
        ("ok", None),
    ],
)
def test_what_a_cell_sorts_by(text, sorts_by):
    assert sections.number(text) == sorts_by


def test_steps_that_did_not_run_are_marked():
    (mark,) = marks.marks({"status": "ok", "extrapolated": True})
    assert (mark.kind, mark.short) == ("not comparable", "extrapolated")


def test_everything_doubtful_is_listed(quick):
    run = copied(quick)
    keys = [case.key for case in run.sweep.cases]
    by_key = run.by_key
    by_key[keys[0]][0].other_load_cores = 0.9
    throttled = by_key[keys[1]][0].samples
    count = sum(len(record.samples.latency_s) for record in by_key[keys[1]])
    throttled.discarded_latency_s, throttled.discarded_for = [1.0], ["sw_thermal_slowdown"]
    by_key[keys[2]][0].samples.stopped_by = "noise"
    by_key[keys[3]][0].status, by_key[keys[3]][0].reason = "oom", "out of memory"
    by_key[keys[4]][0].memory.kv_cache_mib += 7
    by_key[keys[5]][0].gpu = CardState(others=[{"pid": 1, "name": "blender", "mib": 9}])
    for record in by_key[keys[6]]:
        record.shared_with = ["VAR-d20"]
    run.complaints.append("records.jsonl:9: left out (no JSON)")
    run.env["dirty"] = True
    told = [" ".join(row) for row in content.groups([run])[0].cautions.rows]
    for expected in (
        "invalid measured beside other work (0.9 cores): its times are not to be judged",
        f"throttled 1 of {count + 1} samples were discarded: sw_thermal_slowdown",
        "noisy sampling ended before its target was met (noise",
        "failed oom: out of memory",
        "not as predicted memory: KV cache +7.0 MiB",
        "noisy other processes were on the GPU: blender",
        "noisy on the same host at the time: VAR-d20",
        "unreadable records.jsonl:9",
        "not comparable the tree had changes",
    ):
        assert any(line.startswith(expected) for line in told), (expected, told)


def test_a_run_speaks_to_other_tables_of_the_papers():
    run = quiet_run("code_figure5", rounds=1, method="var", depth=30, batch_size=64)
    titles = [table.title for table in content.spoken_to([run]).values()]
    tables_of_papers = [title.partition(":")[0] for title in titles]
    assert tables_of_papers == [
        *("CoDe, Table 1", "CoDe, Table 3", "CoDe, Table 5"),
        *("VARiant, Table 2", "VARiant, Table 3"),
    ]


def test_every_table_of_the_papers_is_on_the_page(quick):
    quoted = content.quoted(set())
    assert len(quoted) == 16
    assert quoted[0].title == "CoDe, Figure 5"
    table = next(table for table in quoted if table.title == "VARiant, Table 8")
    assert table.rows[1] == ("2", "7", "2.89")


def test_two_runs_of_one_machine_are_told_apart(quick, tmp_path):
    folders = [on_disk(quick, tmp_path / name) for name in ("monday", "tuesday")]
    (group,) = content.groups([frames.load(folder) for folder in folders])
    for panel in group.figures.panels:
        assert [picture.label for picture in panel.pictures] == ["l20 monday", "l20 tuesday"]


# Images


def images_of(picture):
    """Alternative text and picture of each image."""
    found = re.findall(r'src="data:image/webp;base64,([^"]*)" alt="([^"]*)"', picture.markup)
    return [(alt, Image.open(io.BytesIO(base64.b64decode(data)))) for data, alt in found]


def test_sample_sets_show_the_same_images(tmp_path):
    png, npz = sample_set(tmp_path / "a"), sample_set(tmp_path / "b", "npz", "CoDe")
    note, figures = pictures.section([png, npz]).parts
    assert note == pictures.ALIKE
    shown = figures.panels[0].pictures
    for row, label in zip(shown, ["VAR-d4", "CoDe"], strict=True):
        assert row.label == f"{label}, seed 0, 48 x 48 px"
        alt, image = images_of(row)[3]
        assert alt == f"{label}, image 3, class 3"
        assert image.getpixel((24, 24)) == pytest.approx((60, 90, 200), abs=6)
    other = sample_set(tmp_path / "c", seed=1)
    assert pictures.section([png, other]).parts[0] == pictures.UNLIKE


def test_a_runs_own_samples_are_found_in_the_order_of_its_cases(quick, tmp_path):
    run = frames.load(on_disk(quick, tmp_path / "run"))
    labels = list(dict.fromkeys(case.label for case in run.sweep.cases))[:2]
    for name, label in zip("ba", labels, strict=True):
        sample_set(run.folder / "samples" / name, label=label)
    damaged = sample_set(run.folder / "samples" / "c")
    (damaged / "samples.json").write_text("{")
    assert [path.name for path in content.own_samples(run)] == ["b", "a"]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda s: (s / "samples.json").write_text("{"), "samples.json"),
        (lambda s: (s / "samples.json").write_text("{}"), "damaged"),
        (lambda s: (s / "shard-00000" / "00000003.png").unlink(), "missing"),
        (lambda s: (s / "shard-00000" / "00000003.png").write_text("x"), "no readable image"),
    ],
)
def test_a_damaged_sample_set_is_one_line(bench, quick, tmp_path, spoil, line):
    folder, out = sample_set(tmp_path / "samples"), tmp_path / "report.html"
    spoil(folder)
    result = bench(on_disk(quick, tmp_path / "run"), "--samples", folder, "-o", out)
    refused(result, line, out)


def test_a_picture_can_be_shown_whole(tmp_path):
    Image.new("RGB", (2000, 100), "red").save(tmp_path / "grid.png")
    (figures,) = pictures.section([tmp_path / "grid.png"]).parts
    ((_, image),) = images_of(figures.panels[0].pictures[0])
    assert image.size == (1200, 60)
    (tmp_path / "no.png").write_text("x")
    with pytest.raises(UsageError, match="no readable image"):
        pictures.section([tmp_path / "no.png"])


# Two results


@pytest.fixture(scope="module")
def five(quick):
    return quiet_run(rounds=5)


def test_a_comparison_says_what_changed(five):
    comparison = compare.compare(five, changed(five, 1.2))
    html = page.of_comparison(comparison)
    heading = re.search(r"<h1>(.*?)</h1>", html)[1]
    assert re.match(r"4 of 8 cases became slower, by up to 2\d\.\d%: CoDe", heading)
    assert "a regression" in html


def test_a_comparison_of_the_same_says_so(five):
    html = page.of_comparison(compare.compare(five, changed(five, 1)))
    assert "<h1>Nothing changed: all 8 latencies are the same within 3 %</h1>" in html


def test_benchmarks_are_compared_on_a_page_too(bench, tmp_path):
    for side, seconds in (("base", 1.0), ("new", 1.3)):
        (tmp_path / side).mkdir()
        for round_ in range(5):
            data = [seconds * (1 + 0.001 * ((7 * i + round_) % 5)) for i in range(12)]
            told = {
                "machine_info": {"cpu": {"brand_raw": "Invented CPU", "count": 2}},
                "commit_info": {"id": side},
                "benchmarks": [{"fullname": "test_decode[code]", "stats": {"data": data}}],
            }
            (tmp_path / side / f"{round_}.json").write_text(json.dumps(told))
    out = tmp_path / "report.html"
    result = bench("--compare", tmp_path / "base", tmp_path / "new", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert "<h1>1 of 1 cases became slower, by up to 30.0%" in out.read_text("utf-8")


# Bad input


def refused(result, line, out=None):
    assert result.exit_code == 2
    assert result.stdout == ""
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    if out is not None:
        assert not out.exists()
        assert not [path for path in out.parent.iterdir() if path.name.startswith("tmp")]


def test_a_run_without_records_is_one_line(bench, quick, tmp_path):
    folder, out = on_disk(quick, tmp_path / "run"), tmp_path / "report.html"
    (folder / "records.jsonl").write_text("")
    refused(bench(folder, "-o", out), "nothing measured; `bench.py run d16_cpu`", out)
    (folder / "records.jsonl").write_text('{"half": \n')
    refused(bench(folder, "-o", out), "no record can be read", out)
    (folder / "run.json").write_text("{")
    refused(bench(folder, "-o", out), "damaged", out)
    refused(bench("code_table3", "-o", out), "nothing measured", out)


def test_a_record_that_lacks_its_memory_is_left_out_and_told(bench, quick, tmp_path):
    run, out = copied(quick), tmp_path / "report.html"
    run.records[0].memory = None
    assert bench(on_disk(run, tmp_path / "run"), "-o", out).exit_code == 0
    assert "records.jsonl:1: left out" in out.read_text()


def test_a_page_that_cannot_be_written_leaves_the_old_one(bench, quick, tmp_path):
    folder = on_disk(quick, tmp_path / "run")
    refused(bench(folder, "-o", "/proc/nowhere/report.html"), "cannot be written")
    refused(bench(folder, "-o", tmp_path), "is a folder; name a file")


def test_other_mistakes_are_one_line(bench, quick, tmp_path):
    folder, out = on_disk(quick, tmp_path / "run"), tmp_path / "report.html"
    refused(bench(folder, "--compare", folder, folder, "-o", out), "leave out RUN", out)
    refused(bench(folder, "--threshold", "5%", "-o", out), "goes with --compare", out)
    other = copied(quick)
    for record in other.records:
        record.machine = "another"
    elsewhere = on_disk(other, tmp_path / "other")
    refused(bench("--compare", folder, elsewhere, "-o", out), "other machine", out)
