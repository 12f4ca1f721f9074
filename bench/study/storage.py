"""Files written whole or not at all, and JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bench.study.errors import UsageError
from codevar.files import atomic_write

Record = dict[str, Any]  # what `Line` describes
Parsed = TypeVar("Parsed")


def prepare(folder: Path) -> None:
    """A folder that records can be written to, before any work.  Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write").touch()
        (folder / ".write").unlink()
    except OSError as e:
        raise UsageError(f"{folder}: cannot be written ({e.strerror}); choose --out") from None


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Adds a JSON line, on disk when it returns.  Raises OSError with the file as it was."""
    line = (json.dumps(values, allow_nan=False) + "\n").encode()
    with open(path, "ab+", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        if before:  # a line that a crash cut short must not take this one with it
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            if file.write(line) != len(line):
                raise OSError(0, "disk full")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def append_record(file: Path, values: Mapping[str, Any]) -> None:
    """Adds a JSON line to a file that need not be there.  Raises UsageError, with the file as it
    was."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        append_line(file, values)
    except OSError as e:
        raise UsageError(f"{file}: cannot be written ({e.strerror}); choose --out") from None


def parsed_lines(file: Path, parse: Callable[[str], Parsed]) -> tuple[list[Parsed], list[str]]:
    """The lines that can be read, and a complaint for each that cannot; none of no file.

    parse: raises ValueError, saying in a few words what is wrong.
    """
    found, complaints = [], []
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse(line))
        except ValueError as e:
            complaints.append(f"{file}:{number}: left out ({e})")
    return found, complaints


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object, or None if the file is not there."""
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise UsageError(f"{file}: damaged ({e})") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file}: damaged (no JSON object)")
    return found


def write_json(file: Path, values: dict[str, Any]) -> None:
    write_text(file, json.dumps(values, indent=1, allow_nan=False) + "\n")


def write_lines(file: Path, records: list[Record]) -> None:
    write_text(file, "".join(json.dumps(record) + "\n" for record in records))


def write_text(file: Path, text: str) -> None:
    """Writes whole or not at all, into a folder that it makes if need be.  Raises UsageError."""
    try:
        with atomic_write(file) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as e:
        raise UsageError(f"{file}: cannot be written ({e.strerror})") from None
