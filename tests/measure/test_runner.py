"""A sweep goes on, whatever becomes of a case, and nothing that was finished is lost."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from rich.console import Console

from bench.measure import child, machine, runner, validity
from bench.methods.plans.var import Original
from bench.predict.ceilings import Ceilings, Product
from bench.predict.prediction import predict
from bench.study import experiment, records, storage
from bench.study.cases import make_case
from bench.study.errors import UsageError
from bench.study.records import Samples
from bench.tables import case_rows, frames, tables
from codevar.checkpoints import weights_sha256

ROOT = Path(__file__).parents[2]
TINY = """
title = "tiny"
baseline = { method = "var" }
rounds = 1
samples = 1
warmup = 0
max_seconds = 0.1
[defaults]
depth = 2
precision = "float32"
[[cases]]
method = "var"
[[cases]]
method = "variant"
subnet_depth = 2
bridge_scales = [6, 8]
"""
#: The same on the smallest trained models, for what really decodes.
TRAINED = TINY.replace(
    "depth = 2\nprecision", 'weights = "mini"\nsampling = "mini"\ndepth = 4\nprecision'
).replace("subnet_depth = 2", "subnet_depth = 4")
ENV = {
    "machine": "here",
    "commit": "0" * 40,
    "dirty": False,
    "packages": {"torch": "2"},
    "gpus": [],
    "cpu": "a CPU",
}


@pytest.fixture
def tiny(tmp_path):
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return experiment.load(str(file), device="cpu")


@pytest.fixture
def children(monkeypatch):
    """Stands in for the cases' processes: a list of what they were asked, and what they say."""

    class Children(list):
        def says(self, job):
            return {"status": "ok", **fake_result(make_case(job["case"]))}

    asked = Children()

    def in_process(job, timeout_s, log):
        asked.append(job["case"])
        return asked.says(job)

    monkeypatch.setattr(runner, "run_in_process", in_process)
    monkeypatch.setattr(machine, "find_disturbances", lambda *devices: [])
    return asked


def fake_result(case):
    predicted = predict(case).figures()
    parts = {key: getattr(predicted, key) for key in ("params_mib", "kv_cache_mib")}
    total = sum(parts.values()) + 10
    memory = {**parts, "running_mib": 10.0, "total_mib": total, "process_mib": total}
    memory["kv_cache_by_scale_mib"] = predicted.kv_cache_by_scale_mib
    samples = Samples(
        warmup_latency_s=[],
        latency_s=[1.0, 3.0, 2.0],
        scale_latency_s=[[0.1] * 10] * 3,
        vqvae_latency_s=[0.5],
    )
    return {"memory": memory, "samples": samples.model_dump()}


def quiet():
    return Console(file=open(os.devnull, "w"))


def run(sweep, folder, **options):
    return runner.run(sweep, folder, ENV, quiet(), **options)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_records_hold_what_a_reader_needs(tiny, children, tmp_path):
    run(tiny, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").open()]
    assert [line["method"] for line in lines] == [case.label for case in tiny.cases]
    for line, case in zip(lines, tiny.cases, strict=True):
        assert line["case"] == case.model_dump()
        assert (line["batch_size"], line["stack"], line["status"]) == (1, "published", "ok")
        assert line["samples"]["latency_s"] == [1.0, 3.0, 2.0]
        assert line["predicted"]["kv_cache_mib"] == line["memory"]["kv_cache_mib"]


def test_a_record_has_the_hashes_of_its_weights_the_vqvaes_too(children, tmp_path):
    tiny = TINY.replace("depth = 2", "weights = ['mini', 'seeded']\ndepth = 12")
    (tmp_path / "tiny.toml").write_text(tiny)
    sweep = experiment.load(str(tmp_path / "tiny.toml"), ["method=var"], device="cpu")
    mini, seeded = run(sweep, tmp_path / "run")
    names = ("mini_large", "mini_vqvae")
    assert mini.weights_sha256 == {name: weights_sha256(name) for name in names}
    assert seeded.weights_sha256 == {}
    assert records.read(tmp_path / "run") == ([mini, seeded], [])


def test_a_record_is_on_disk_before_the_next_case_starts(tiny, children, tmp_path):
    seen = []

    def says(job):
        file = tmp_path / "run" / "records.jsonl"
        seen.append(len(file.read_text().splitlines()) if file.exists() else 0)
        return {"status": "error", "reason": "no"}

    children.says = says
    run(tiny, tmp_path / "run")
    assert seen == [0, 1, 2]


def test_resume_skips_exactly_what_is_finished(tiny, children, tmp_path):
    run(tiny, tmp_path / "run")
    file = tmp_path / "run" / "records.jsonl"
    first, second, third = file.read_text().splitlines(keepends=True)
    file.write_text(first + third + second[:40])  # a power cut in the middle of a line
    del children[:]
    run(tiny, tmp_path / "run", resume=True)
    assert children == [tiny.cases[1].model_dump()]
    lines, complaints = records.read(tmp_path / "run")
    assert sorted(line.key for line in lines) == sorted(case.key for case in tiny.cases)
    assert complaints == []


@pytest.mark.parametrize("kind", ["utf-16", "junk", "again"])
def test_resume_keeps_aside_what_it_cannot_read_and_counts_a_record_once(
    kind, tiny, children, tmp_path, capsys
):
    done = len(run(tiny, tmp_path / "run"))
    file = tmp_path / "run" / "records.jsonl"
    text = file.read_text()
    data = {"utf-16": text.encode("utf-16"), "junk": b"{}\n" + text.encode()}
    file.write_bytes(data.get(kind, 3 * text.encode()))
    damaged = file.read_bytes()
    assert len(records.read(tmp_path / "run")[0]) == (0 if kind == "utf-16" else done)
    assert len(run(tiny, tmp_path / "run", resume=True)) == done
    assert file.with_name("records.jsonl.1.bak").read_bytes() == damaged
    assert "records.jsonl.1.bak" in capsys.readouterr().err
    assert records.read(tmp_path / "run")[1] == []


def test_a_run_that_began_says_on_which_machine(tiny, children, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "write_json", full_disk_for("env.json"))
    with pytest.raises(UsageError, match="full"):
        run(tiny, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def full_disk_for(name):
    def write(file, values):
        if file.name == name:
            raise UsageError("disk full")
        storage.write_json(file, values)

    return write


def test_rounds_run_all_cases_again_in_turn_and_resume_where_they_stopped(tiny, children, tmp_path):
    tiny.experiment.rounds = 3
    keys = [case.key for case in tiny.cases]
    done = run(tiny, tmp_path / "run")
    assert [r.key for r in done] == [*keys, *reversed(keys), *keys]
    assert [r.round for r in done] == [1] * 3 + [2] * 3 + [3] * 3
    file = tmp_path / "run" / "records.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]))
    again = run(tiny, tmp_path / "run", resume=True)
    assert [(r.key, r.round) for r in again] == [(r.key, r.round) for r in done]


def test_what_failed_once_is_not_tried_in_further_rounds(tiny, children, tmp_path):
    tiny.experiment.rounds = 2
    good = children.says

    def says(job):
        lost = job["case"]["method"] == "var"
        return {"status": "oom", "reason": "no"} if lost else good(job)

    children.says = says
    done = run(tiny, tmp_path / "run")
    assert [r.method for r in done].count("VAR-d2") == 1
    assert len(done) == 5
    assert len(run(tiny, tmp_path / "run", resume=True)) == 5


def test_resume_measures_again_what_failed_but_not_what_ran_out_of_memory(tiny, children, tmp_path):
    ends = iter(["oom", "error", "timeout"])
    good = children.says
    children.says = lambda job: {"status": next(ends), "reason": "no"}
    run(tiny, tmp_path / "run")
    del children[:]
    children.says = good
    again = run(tiny, tmp_path / "run", resume=True)
    assert children == [case.model_dump() for case in tiny.cases[1:]]
    assert [r.status for r in again] == ["oom", "ok", "ok"]
    assert records.read(tmp_path / "run")[0] == again
    assert list(frames.frame(frames.load(tmp_path / "run"))["status"]) == ["oom", "ok", "ok"]


def test_each_case_is_paired_with_its_baseline_but_not_with_itself(tiny, children, tmp_path):
    asked = []
    good = children.says

    def says(job):
        asked.append(job["paired_with"])
        return good(job)

    children.says = says
    tiny.experiment.paired = True
    run(tiny, tmp_path / "run")
    assert asked == [None, tiny.cases[0].model_dump(), tiny.cases[0].model_dump()]


def test_a_second_run_into_a_folder_needs_resume(tiny, children, tmp_path):
    run(tiny, tmp_path / "run")
    with pytest.raises(UsageError) as e:
        run(tiny, tmp_path / "run")
    assert "--resume" in one_line(e)
    assert len(records.read(tmp_path / "run")[0]) == 3


@pytest.mark.parametrize("resume", [False, True])
def test_records_without_their_run_json_are_not_added_to(tiny, children, tmp_path, resume):
    run(tiny, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    with pytest.raises(UsageError) as e:
        run(tiny, tmp_path / "run", resume=resume)
    assert one_line(e).endswith("run: holds records.jsonl but no run.json; choose another --out")
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before
    assert not (tmp_path / "run" / "run.json").exists()


def test_an_edited_experiment_is_not_mixed_into_a_run(tiny, children, tmp_path):
    run(tiny, tmp_path / "run")
    (tmp_path / "tiny.toml").write_text(TINY.replace("[6, 8]", "[6, 9]"))
    edited = experiment.load(str(tmp_path / "tiny.toml"), device="cpu")
    with pytest.raises(UsageError) as e:
        run(edited, tmp_path / "run", resume=True)
    assert "edited" in one_line(e)
    assert len(records.read(tmp_path / "run")[0]) == 3


def test_a_run_json_of_another_kind_is_one_line(tiny, children, tmp_path):
    run(tiny, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(UsageError) as e:
        run(tiny, tmp_path / "run", resume=True)
    assert "damaged" in one_line(e)


def test_another_machine_is_not_mixed_into_a_run(tiny, children, tmp_path):
    run(tiny, tmp_path / "run")
    with pytest.raises(UsageError) as e:
        runner.run(tiny, tmp_path / "run", ENV | {"machine": "other"}, quiet(), resume=True)
    assert "begun on" in one_line(e)


def test_hardware_says_whether_it_is_the_same_machine_and_a_name_does_not():
    here = {"machine": "epyc", "hardware": {"cpu": "EPYC", "cpu_flags": "a", "host": "1"}}
    assert records.other_machine(here, here | {"machine": "renamed", "packages": "new"}) == ""
    other = {"machine": "epyc", "hardware": {"cpu": "EPYC", "cpu_flags": "a", "host": "2"}}
    assert records.other_machine(here, other) == "host 1, this is 2"
    assert records.other_machine({"machine": "epyc"}, here) == ""


def test_a_table_tells_what_was_measured_on_other_software(tiny, children, tmp_path):
    tiny.experiment.rounds = 2
    run(tiny, tmp_path / "run")
    notes = tables.measured(frames.load(tmp_path / "run")).notes
    (told,) = [note for note in notes if note.startswith("Measured on")]
    assert "of 6" not in told
    lines = records.read(tmp_path / "run")[0]
    storage.write_lines(tmp_path / "run" / records.FILE, lines[:4])
    later = ENV | {"commit": "f" * 40, "packages": {"torch": "2.99"}}
    runner.run(tiny, tmp_path / "run", later, quiet(), resume=True)
    notes = tables.measured(frames.load(tmp_path / "run")).notes
    (told,) = [note for note in notes if note.startswith("Measured on")]
    assert "; of 6 measurements 2 on torch 2.99, commit fffffffff" in told
    resumed = frames.load(tmp_path / "run")
    assert "2 on torch 2.99, commit fffffffff" in case_rows.footer(
        resumed, case_rows.rows_of(resumed)
    )


def test_resume_asks_for_the_same_cases_however_they_were_asked_for(tiny, children, tmp_path):
    run(tiny, tmp_path / "run")
    file = str(tmp_path / "tiny.toml")
    (tmp_path / "tiny.toml").write_text(TINY.replace('"tiny"', '"another title" # and a comment'))
    asked = experiment.load(file, ["device=cpu"], device="cpu")
    del children[:]
    assert len(run(asked, tmp_path / "run", resume=True)) == 3
    assert children == []
    more = experiment.load(file, ["samples=9"], device="cpu")
    with pytest.raises(UsageError, match=r"began with another experiment \(samples\)"):
        run(more, tmp_path / "run", resume=True)
    (tmp_path / "tiny.toml").write_text(TINY.replace('{ method = "var" }', "{ depth = 2 }"))
    other = experiment.load(file, [], device="cpu")
    with pytest.raises(UsageError, match=r"began with another experiment \(baseline\)"):
        run(other, tmp_path / "run", resume=True)


def test_resume_keeps_the_lines_of_a_newer_program(tiny, children, tmp_path):
    run(tiny, tmp_path / "run")
    file = tmp_path / "run" / records.FILE
    file.write_text(file.read_text().replace('"schema": 3', '"schema": 4', 1))
    before = file.read_text()
    with pytest.raises(UsageError) as e:
        run(tiny, tmp_path / "run", resume=True)
    assert "newer than this program; update it" in one_line(e)
    assert file.read_text() == before


def test_a_new_key_with_its_default_leaves_old_records_theirs():
    class Newer(Original):
        colour: str = "none"

    assert Newer(method="var").key == Original(method="var").key != Newer(colour="red").key


def test_two_runs_cannot_share_a_folder(tiny, children, tmp_path):
    script = (
        "import sys, time; from filelock import FileLock;"
        "held = FileLock(sys.argv[1]); held.acquire(); print('held', flush=True); time.sleep(60)"
    )
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UsageError) as e:
            run(tiny, tmp_path / "run")
        other.kill()
    assert "another run is writing here" in one_line(e)
    run(tiny, tmp_path / "run")


def test_a_folder_that_cannot_be_written_is_one_line(tiny, children):
    with pytest.raises(UsageError) as e:
        run(tiny, Path("/proc/nowhere"))
    assert "/proc/nowhere: cannot be written" in one_line(e)
    assert children == []


def test_a_full_disk_leaves_the_earlier_records(tiny, children, tmp_path, monkeypatch):
    real = os.fsync

    def says(job):
        if len(children) == 2:

            def full(descriptor):
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)
        return {"status": "ok", **fake_result(make_case(job["case"]))}

    children.says = says
    with pytest.raises(UsageError) as e:
        run(tiny, tmp_path / "run")
    assert "No space left on device" in one_line(e)
    monkeypatch.setattr(os, "fsync", real)
    lines, complaints = records.read(tmp_path / "run")
    assert (len(lines), complaints) == (1, [])


def test_a_damaged_line_is_told_and_the_rest_is_used(tiny, children, tmp_path):
    run(tiny, tmp_path / "run")
    file = tmp_path / "run" / "records.jsonl"
    first, _, third = file.read_text().splitlines(keepends=True)
    file.write_text(first + "{oops\n" + third.replace('"schema": 3', '"schema": 99'))
    loaded = frames.load(tmp_path / "run")
    assert len(loaded.records) == 1
    assert [c.partition(": ")[0] for c in loaded.complaints] == [f"{file}:2", f"{file}:3"]


def test_a_busy_machine_marks_the_row(tiny, children, tmp_path, monkeypatch):
    loads = iter([0.0, 0.9, 0.8, 0.01])
    monkeypatch.setattr("bench.measure.machine.OtherLoad.cores", lambda self: next(loads))
    run(tiny, tmp_path / "run")
    table = tables.measured(frames.load(tmp_path / "run"))
    assert "Invalid, measured beside other work: VARiant-d2 N=6 (d2)." in table.notes
    assert [status.startswith("ok, invalid") for status in table.text["status"]].count(True) == 1


def test_what_was_measured_beside_other_work_is_measured_again(
    tiny, children, tmp_path, monkeypatch
):
    """Once; and no more where that was in vain."""
    loads = iter([0.9, 0.0, 0.9, 0.8, 0.7])
    monkeypatch.setattr("bench.measure.machine.OtherLoad.cores", lambda self: next(loads))
    assert [r.other_load_cores for r in run(tiny, tmp_path / "run")] == [0.0, 0.8, 0.7]


def test_a_decode_faster_than_the_machine_can_be_is_invalid(tiny, children, tmp_path):
    hardware = {"hardware": {"cpu": "a CPU"}}
    run(tiny, tmp_path / "run")
    (tmp_path / "profile").mkdir()
    storage.write_json(tmp_path / "profile" / "env.json", hardware)
    top = Ceilings(
        device="cpu", threads=1, copy_bytes_per_s=1e30, read_bytes_per_s=1e30, launch_s=0,
        products=[Product(precision="float32", M=1, K=1, N=1, flop_per_s=1e-3)],
    )  # fmt: skip
    storage.write_json(tmp_path / "profile" / "ceilings.json", top.model_dump())
    record = frames.load(tmp_path / "run").records[0]
    assert validity.known_ceilings(tmp_path / "run", {"hardware": {"cpu": "other"}}) is None
    found = validity.known_ceilings(tmp_path / "run", hardware)
    assert validity.why_invalid(record) == ""
    assert validity.why_invalid(record, found).startswith("faster than the machine can be")


def test_what_would_spoil_a_run_is_said_before_it_and_not_when_nothing_is_left(
    tiny, children, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        machine, "find_disturbances", lambda *devices: asked.append(devices) or ["too [hot]"]
    )
    console = Console(file=io.StringIO())
    runner.run(tiny, tmp_path / "run", ENV, console)
    assert console.file.getvalue().splitlines()[0] == "warning: too [hot]"
    assert asked == [(torch.device("cpu"),)]
    run(tiny, tmp_path / "run", resume=True)
    assert len(asked) == 1


def test_the_load_of_others_is_not_our_childrens(monkeypatch, cores_others_keep_busy):
    """In 10 s our children and a stranger kept CPUs busy, for 15 and for 5 CPU seconds."""
    times, ours = psutil.cpu_times(), SimpleNamespace(ru_utime=3.0, ru_stime=1.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    monkeypatch.setattr("resource.getrusage", lambda who: ours)
    clock = [100.0]
    monkeypatch.setattr(machine.time, "monotonic", lambda: clock[0])
    others = machine.OtherLoad()
    clock[0] += 10
    times = times._replace(user=times.user + 18, system=times.system + 2, idle=times.idle + 40)
    ours = SimpleNamespace(ru_utime=16.0, ru_stime=3.0)
    assert cores_others_keep_busy(others) == pytest.approx(0.5)


def test_what_cannot_fit_is_not_started_and_says_how_that_is_known(tiny, children, tmp_path):
    """Weights and KV cache alone, or a smaller batch of the same case that ran out."""
    text = (
        'title = "sweep"\n[[cases]]\nmethod = "var"\ndepth = 2\nprecision = "float32"\n'
        "batch_size = [1, 2, 4]\nmemory_limit_gib = [0.1, 20]\n"
    )
    (tmp_path / "sweep.toml").write_text(text)
    sweep = experiment.load(str(tmp_path / "sweep.toml"), device="cpu")
    sweep.experiment.rounds = 2
    good = children.says

    def says(job):
        lost = job["case"]["batch_size"] == 2
        return {"status": "oom", "reason": "held 21 GiB"} if lost else good(job)

    children.says = says
    done = run(sweep, tmp_path / "run")
    ends = {(r.batch_size, r.case["memory_limit_gib"]): r.status for r in done}
    assert ends == {
        (1, 0.1): "oom_predicted",
        (2, 0.1): "oom_predicted",
        (4, 0.1): "oom_predicted",
        (1, 20.0): "ok",
        (2, 20.0): "oom",
        (4, 20.0): "oom_implied",
    }
    assert [case["batch_size"] for case in children] == [1, 2, 1]  # the third: the second round
    table = tables.measured(frames.load(tmp_path / "run")).text
    shown = {status.partition(";")[0] for status in table["status"]}
    assert shown == {"OOM", "OOM, implied", "OOM, predicted", "ok"}
    again = run(sweep, tmp_path / "run", resume=True)  # results, not failures to try again
    assert len(again) == len(done)


def test_the_reason_of_a_failure_is_in_its_row(tiny, children, tmp_path):
    outcomes = iter(
        [
            {"status": "oom", "reason": "can't allocate memory"},
            {"status": "timeout", "reason": "took longer than 1 s"},
            {"status": "error", "reason": "crashed: SIGSEGV"},
        ]
    )
    children.says = lambda job: next(outcomes)
    done = run(tiny, tmp_path / "run")
    assert [r.status for r in done] == ["oom", "timeout", "error"]
    assert "needs at least 0.4 GiB" in done[0].reason
    data = frames.frame(frames.load(tmp_path / "run"))
    assert list(data["status"]) == ["oom", "timeout", "error"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("precision=fp16", "fp16 needs a GPU"),
        ("attention=efficient", "efficient needs a GPU"),
        ("device=cuda", "no CUDA device here"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_before_anything_runs(
    tiny, children, tmp_path, change, line, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sweep = experiment.load(str(tmp_path / "tiny.toml"), [change], device="cpu")
    with pytest.raises(UsageError) as e:
        run(sweep, tmp_path / "run")
    assert line in one_line(e)
    assert not (tmp_path / "run").exists()


def test_a_gpu_without_bf16_is_told_before_anything_runs(tiny, children, tmp_path, monkeypatch):
    old = SimpleNamespace(name="Tesla V100", major=7)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: old)
    sweep = experiment.load(str(tmp_path / "tiny.toml"), ["precision=bf16"], device="cuda")
    with pytest.raises(UsageError) as e:
        run(sweep, tmp_path / "run")
    assert one_line(e) == "precision bf16: Tesla V100 has none; --set precision=fp16"
    assert not (tmp_path / "run").exists()


# Real processes


def job(**case):
    effort = {"warmup": 0, "samples": 1, "target": 0.01, "max_seconds": 0.1}
    nothing = {"stream_seconds": 0, "paired_with": None, "download": False, "keep": {}}
    values = {"method": "var", "depth": 1, "device": "cpu", "precision": "float32"} | case
    return {"case": make_case(values).model_dump(), "effort": effort, **nothing}


def test_a_case_that_takes_more_than_its_limit_is_ended_and_out_of_memory(tmp_path):
    """VAR-d1 alone has 0.4 GiB of weights with its VQVAE."""
    result = runner.run_in_process(job(memory_limit_gib=0.2), 120, tmp_path / "log")
    assert result["status"] == "oom"
    assert result["reason"].endswith("may take 0.2 GiB")


def test_a_limit_that_the_shell_has_set_is_no_obstacle(tmp_path):
    """`ulimit -d` of a batch system: what fits runs, what does not is out of memory, whichever
    allocation fails and with whatever words."""
    code = (
        "import json, resource, sys; from pathlib import Path; from bench.measure import runner\n"
        "limit = int(sys.argv[2]) * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))\n"
        "print(runner.run_in_process(json.loads(sys.argv[1]), 600, Path(sys.argv[3]))['status'])"
    )
    for images, mib, status in ((1, 6000, "ok"), (8, 1500, "oom")):
        words = [json.dumps(job(batch_size=images)), str(mib), str(tmp_path / "log")]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT
        )
        assert done.stdout.strip() == status, (done.stderr, (tmp_path / "log").read_text())


def test_a_case_takes_turns_with_its_baseline_and_streams(tmp_path):
    mini = {"depth": 4, "weights": "mini", "sampling": "mini"}
    base = job(**mini)["case"]
    asked = job(method="variant", subnet_depth=2, **mini) | {"paired_with": base}
    result = runner.run_in_process(asked | {"stream_seconds": 0.2}, 120, tmp_path / "log")
    assert result["status"] == "ok"
    pairs = result["paired"]
    assert pairs["baseline"] == make_case(base).key
    assert len(pairs["latency_s"]) == len(pairs["baseline_latency_s"]) >= 1
    assert all(seconds > 0 for seconds in result["stream"]["batch_s"])


def test_a_case_that_takes_too_long_is_ended(tmp_path):
    began = time.monotonic()
    result = runner.run_in_process(job(), 0.5, tmp_path / "log")
    assert result == {"status": "timeout", "reason": "took longer than 0.5 s"}
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("seconds", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_a_case_does_not_outlive_its_runner(tmp_path, seconds):
    """A runner that is killed leaves nothing that would disturb the next measurement, be the case
    running or still loading torch."""
    (tmp_path / "tiny.toml").write_text(TRAINED.replace("max_seconds = 0.1", "max_seconds = 30"))
    process = start(tmp_path)
    runner_itself, children = psutil.Process(process.pid), []
    while not children:
        with suppress(psutil.NoSuchProcess):  # git's, which told the commit
            children = [p for p in runner_itself.children() if "bench.measure.child" in p.cmdline()]
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_weights_that_are_nowhere_are_told_before_anything_runs(tiny, children, tmp_path):
    sweep = experiment.load(str(tmp_path / "tiny.toml"), ["weights=/nope.pth"], device="cpu")
    with pytest.raises(UsageError) as e:
        run(sweep, tmp_path / "run")
    assert one_line(e).startswith("weights /nope.pth: no such file; write seeded, published")
    assert children == []
    assert not (tmp_path / "run").exists()


def test_a_run_joins_the_samples_and_evaluations_in_its_folder(tiny, children, tmp_path):
    """As `reproduce` leaves them before it measures speed."""
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "evaluations.jsonl").touch()
    assert len(run(tiny, tmp_path / "run")) == 3


def test_a_case_without_its_weights_is_an_error_with_one_line(tmp_path):
    result = runner.run_in_process(job(weights=str(tmp_path)), 120, tmp_path / "log")
    assert result["status"] == "error"
    assert str(tmp_path / "var_d1.pth") in result["reason"]
    assert "\n" not in result["reason"]


def test_a_file_of_weights_larger_than_the_limit_is_mapped_and_not_read_whole(tmp_path):
    shape = {"dtype": "F32", "shape": [2**32], "data_offsets": [0, 2**34]}
    header = json.dumps({"pos_start": shape}).encode()
    with open(tmp_path / "var_d1.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**34)  # takes no room on the disk
    asked = job(weights=str(tmp_path), memory_limit_gib=4)
    result = runner.run_in_process(asked, 120, tmp_path / "log")
    assert result["reason"].endswith("tensor word_embed.weight is missing")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "crashed: SIGABRT"),
        ("import sys; sys.exit('no luck')", "crashed: exit 1, no luck"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_a_crash_is_told_with_its_reason(tmp_path, monkeypatch, code, reason):
    class Crashing(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__([sys.executable, "-c", code], **options)

    monkeypatch.setattr(subprocess, "Popen", Crashing)
    assert runner.run_in_process(job(), 60, tmp_path / "log")["reason"] == reason


def test_out_of_memory_is_told_from_other_errors():
    assert child.is_oom(MemoryError())
    assert child.is_oom(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not child.is_oom(RuntimeError("No available kernel"))


def start(folder, *more):
    command = [sys.executable, "bench.py", "run", str(folder / "tiny.toml"), "--device", "cpu"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # A shell that put the tests into the background ignores Ctrl-C, and so would this.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([*command, "--out", str(folder / "run"), *more], cwd=ROOT, **options)


def wait_for_records(file, n, process):
    while process.poll() is None and (not file.exists() or file.read_text().count("\n") < n):
        time.sleep(0.05)


def test_killed_stopped_and_resumed(tmp_path):
    """The whole of it: `kill -9` in the first case, Ctrl-C in the next, then to the end."""
    (tmp_path / "tiny.toml").write_text(TRAINED)
    file = tmp_path / "run" / "records.jsonl"
    process = start(tmp_path)
    wait_for_records(file, 1, process)
    process.kill()
    process.communicate()
    before = file.read_text()
    assert before.count("\n") == 1

    process = start(tmp_path, "--resume")
    wait_for_records(file, 2, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in output
    assert "Traceback" not in output
    assert file.read_text().startswith(before)

    process = start(tmp_path, "--resume")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    lines, complaints = records.read(tmp_path / "run")
    assert sorted(r.method for r in lines) == [
        "VAR-d4",
        "VARiant-d4 N=6 (d4)",
        "VARiant-d4 N=8 (d4)",
    ]
    assert complaints == []
    for record in lines:
        memory, samples = record.memory, record.samples
        parts = sum(getattr(memory, f"{name}_mib") for name in ("params", "kv_cache", "running"))
        assert record.status == "ok"
        assert memory.total_mib == pytest.approx(parts)
        assert memory.kv_cache_mib == record.predicted.kv_cache_mib
        assert memory.params_mib == record.predicted.params_mib
        assert (
            len(samples.latency_s) == len(samples.scale_latency_s) >= 1
        )  # as many as its time holds
        assert all(len(scales) == 10 for scales in samples.scale_latency_s)
        assert len(record.tokens_sha256) == 64
        once = record.start_up
        names = ("import_s", "load_s", "prepare_s", "first_latency_s", "first_vqvae_latency_s")
        assert all(getattr(once, name) >= 0 for name in names)
        assert sum(getattr(once, name) for name in names) <= once.first_image_s
    assert len({record.tokens_sha256 for record in lines}) == 1  # four of four layers
