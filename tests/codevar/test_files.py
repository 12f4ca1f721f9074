"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

import pytest

from codevar.files import atomic_write


def test_what_is_raised_leaves_the_file_that_was_there(tmp_path):
    file = tmp_path / "new" / "a.txt"
    with atomic_write(file) as part:
        part.write_text("before")

    def half() -> None:
        with atomic_write(file) as part:
            part.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        half()
    assert file.read_text() == "before"
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Only that: another process, or one of another machine, may be writing still; not one that
    has written nothing for over an hour."""
    script = (
        "import os, sys; from pathlib import Path; from codevar.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as part: part.write_text('half'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=False)
    (left,) = tmp_path.iterdir()
    writing = [f".b.{platform.node()}.{os.getppid()}.part", ".b.elsewhere.1.part"]
    for name in writing:
        (tmp_path / name).touch()
    (tmp_path / ".b.old-container.1.part").touch()
    (tmp_path / ".mine.part").touch()
    for path in tmp_path.glob(".[bm]*"):
        if path.name not in writing:
            os.utime(path, (0, time.time() - 3700))
    with atomic_write(tmp_path / "a") as part:
        part.write_text("whole")
    assert not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".mine.part", *writing}
