"""What a user's machine does to a command: signals, full disks, readers that go away."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app, catalogue

ROOT = Path(__file__).parents[2]


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


def test_control_characters_of_a_name_are_shown_as_text():
    result = CliRunner().invoke(app.app, ["table", "\x1b[31mred"])
    assert result.exit_code == 2
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


def test_a_reader_that_goes_away_leaves_no_traceback():
    ran = subprocess.run(
        f"{sys.executable} {ROOT / 'bench.py'} list | head -1",
        shell=True, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stderr == ""
    assert ran.stdout.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_batch_system_ends_a_run_as_ctrl_c_does(number, tmp_path):
    """With one line that says how to go on, and nothing of the run lost."""
    words = ["run", "d16_cpu", "--set", "method=var", "--set", "depth=1", "--device", "cpu"]
    child = subprocess.Popen(
        [sys.executable, ROOT / "bench.py", *words, "--out", tmp_path / "run"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not [*(tmp_path / "run" / "logs").glob("*")]:
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert err.endswith(f"bench.py: stopped by {number.name}\n")
    assert "Traceback" not in err
    assert (out + err).count("--resume goes on from there") == 1
