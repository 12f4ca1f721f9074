"""What a user's machine does to a command: signals, full disks, readers that go away."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app, catalogue
from bench.quality import evaluate, sampling
from bench.study import signals
from codevar.train import loop
from tests.cli.bad_input import as_no_root, complaint_of, good_pictures, words_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return good_pictures(tmp_path_factory.mktemp("good"))


def test_a_fault_of_the_disk_is_one_line(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x.json")

    monkeypatch.setattr(catalogue.printing, "show", full)
    result = CliRunner().invoke(app.app, ["list"])
    assert result.exit_code == 2
    assert result.stderr == "bench.py: /data/x.json: No space left on device\n"


@pytest.mark.parametrize("words", ["train var --config {}", "grid var --set weights=a.pth+{}"])
def test_a_pipe_is_refused_before_it_is_opened(words, tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    result = CliRunner().invoke(app.app, words.format(tmp_path / "pipe.toml").split())
    assert result.exit_code == 2
    assert "pipe.toml: is a pipe or a device; give a file or a folder" in result.stderr


def test_a_deleted_working_folder_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = CliRunner().invoke(app.app, ["predict", "quick"])
    assert result.exit_code == 2
    assert result.stderr == "bench.py: the working folder has been deleted; change to another\n"


def test_a_name_is_shown_as_text_and_cut():
    """Control characters do nothing; its end is what matters of a long path."""
    result = CliRunner().invoke(app.app, ["table", "\x1b[31mred" + "x" * 5000 + "end"])
    assert result.exit_code == 2
    assert len(result.stderr) < 320
    assert "xend: " in result.stderr
    assert "\x1b" not in result.stderr
    assert r"\x1b[31mred" in result.stderr


def test_a_full_standard_output_is_exit_code_2():
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            [sys.executable, ROOT / "bench.py", "list"], stdout=full, stderr=subprocess.PIPE
        )
    assert ran.returncode == 2
    assert b"No space left on device" in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_a_reader_that_goes_away_leaves_no_traceback_and_no_verdict():
    ran = subprocess.run(
        f"{sys.executable} {ROOT / 'bench.py'} list | true; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="bash", capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stderr == ""
    assert ran.returncode == 128 + signal.SIGPIPE  # 1 would be a regression of `compare`


def heed_signals():
    """As a terminal starts a command; a shell that put the tests into the background ignores
    Ctrl-C."""
    for number in signals.STOPS:
        signal.signal(number, signal.SIG_DFL)


TAKE_PATHS = [
    "run {}", "run quick --set weights={}", "predict {}", "table {}", "plot {}", "report {} -o out",
    "compare {} {}", "recommend {} --out out", "history --results {}", "profile {}",
    "pack {} --out out", "import {} --out out", "eval {} --extractor mini",
    "eval GOOD --reference {}", "eval GOOD --against {}",
    "iqa {}", "grid var --run {} -o out/x.png", "spectra var --set weights={} -o out/x.png",
    "sample var --set weights={} --out out", "reproduce {}", "reproduce quick --reference {}",
    "edit {} --class 1 --box 0 0 9 9 --plan var -o out/x.png", "inpaint var --images {}",
    "inpaint var --mask {} --set weights=mini", "train var --config {}",
]  # fmt: skip


@pytest.fixture(scope="module")
def odd_paths(tmp_path_factory):
    """A folder below one without permission, and a name that is too long, by what is said of it."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "locked").mkdir(mode=0)
    yield {
        "Permission denied": folder / "locked" / "run",
        "File name too long": folder / ("n" * 300),
    }
    (folder / "locked").chmod(0o700)


@pytest.mark.parametrize("why", ["Permission denied", "File name too long"])
def test_a_path_that_cannot_be_looked_at_is_one_line_of_every_command(
    why, odd_paths, pictures, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for command in TAKE_PATHS:
        words = words_of(command, [str(odd_paths[why])], tmp_path / "out", pictures)
        with as_no_root():
            result = CliRunner().invoke(app.app, words)
        assert isinstance(result.exception, SystemExit), command
        assert complaint_of(result.exit_code, result.stderr) == "", command
        assert why in result.stderr, command


def test_a_batch_system_ends_a_run_as_ctrl_c_does(tmp_path):
    """With one line that says how to go on, and nothing of the run lost."""
    words = ["run", "d16_cpu", "--set", "method=var", "--set", "depth=1", "--device", "cpu"]
    child = subprocess.Popen(
        [sys.executable, ROOT / "bench.py", *words, "--out", tmp_path / "run"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals,
    )  # fmt: skip
    while not [*(tmp_path / "run" / "logs").glob("*")]:
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert err.endswith("bench.py: stopped by SIGTERM\n")
    assert "Traceback" not in err
    assert (out + err).count("--resume goes on from there") == 1


CONFIG = ROOT / "experiments" / "train" / "mini-cpu" / "2-classifier.toml"
#: Command, where its work is, and what it says of how to go on.
LONG_WORK = {
    "sample var --set weights=mini --out {}": (sampling, "decode", "`sample --resume`"),
    f"train classifier --config {CONFIG} --out {{}}": (loop.Run, "_step", "no checkpoint yet"),
    "reproduce quick --out {}": (sampling, "decode", "the same `reproduce`"),
    "eval GOOD --reference mini:test:200 --out {}": (evaluate, "evaluate", ""),
}


@pytest.mark.parametrize("number", signals.STOPS)
@pytest.mark.parametrize("command", LONG_WORK)
def test_a_signal_ends_long_work_with_a_line(
    command, number, pictures, tmp_path, monkeypatch, capfd
):
    room, work, hint = LONG_WORK[command]
    monkeypatch.setattr(room, work, lambda *_, **__: signal.raise_signal(number))
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    words = command.replace("GOOD", str(pictures)).format(tmp_path).split()
    result = CliRunner().invoke(app.app, [*words, "--device", "cpu"])
    assert result.exit_code == 128 + number, result.output
    assert capfd.readouterr().err.endswith(f"bench.py: stopped by {number.name}\n")
    assert "Traceback" not in result.output
    assert hint in result.output


@pytest.mark.parametrize("number", signals.STOPS)
def test_a_command_is_stopped_in_a_line_while_it_imports(number):
    code = f"""
import signal, sys, types
from bench.cli import start
class App(types.ModuleType):
    def __getattr__(self, name):
        signal.raise_signal({number})
sys.modules["bench.cli.app"] = App("app")
start.main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        preexec_fn=heed_signals,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (128 + number, f"bench.py: stopped by {number.name}\n")


def test_what_nohup_ignores_stays_ignored(monkeypatch):
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(catalogue.printing, "show", lambda *_: signal.raise_signal(signal.SIGHUP))
    try:
        assert CliRunner().invoke(app.app, ["list"]).exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, usual)


def test_a_worker_ends_with_its_torchrun():
    """In the midst of an output that nobody reads, when that is killed."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    torchrun = subprocess.Popen(
        f"{sys.executable} {ROOT / 'bench.py'} list; true", shell=True, stdout=writing,
        env={**os.environ, "TORCHELASTIC_RUN_ID": "x"},
    )  # fmt: skip
    os.close(writing)
    select.select([reading], [], [])
    torchrun.kill()
    torchrun.wait()
    with open(reading, "rb") as said:
        assert len(said.read()) <= 4096
