"""Whatever file a command is given, its user gets a line that says what is wrong."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bench.cli import app
from tests.cli.bad_input import COMMANDS, VALUES, as_no_root, bad_files, complaint_of, words_of

SECONDS = 15  # of CPU, so that a busy machine tries no fewer


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return {**bad_files(tmp_path_factory.mktemp("bad")), **{value: value for value in VALUES}}


def test_no_bad_file_ends_in_a_traceback(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ends = time.process_time() + SECONDS
    kinds = sorted(files)

    @settings(
        max_examples=250, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(COMMANDS), st.sampled_from(kinds), st.sampled_from(kinds))
    def answered(command, first, second):
        if time.process_time() > ends:
            return
        words = words_of(
            command, [str(files[first]), str(files[second])], tmp_path / "out", files["good"]
        )
        result = CliRunner().invoke(app.app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError(f"{words} ended in a traceback") from result.exception
        assert complaint_of(result.exit_code, result.stderr) == "", (words, result.stderr[-500:])

    with as_no_root():
        answered()
