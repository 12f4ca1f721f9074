"""A run's folder: one JSON line for each finished case, on disk before the next one starts.

    records.jsonl     a line per case: what it was, raw samples, memory, prediction, status
    run.json          the experiment as it was run
    env.json          the machine
    logs/KEY.log      what each case's process had to say

A record has `schema`, `key`, `method`, `batch_size`, `stack`, `precision`, `device`, `status`
(ok, oom, error, timeout), `reason`, `case`, `paper_row`, `samples`, `memory`, `predicted`,
`machine`, `commit`, `other_load_cores` (what else the machine did), `started_at`, `duration_s`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.cases import UsageError

SCHEMA = 1
FILE = "records.jsonl"
Record = dict[str, Any]


class RunFolder:
    """A run's folder, held by one process at a time.

    Raises UsageError where it cannot be written, is in use, or holds another run.
    """

    def __init__(self, path: Path, run: dict[str, Any], env: dict[str, Any], resume: bool) -> None:
        self.path = path
        self.file = path / FILE
        held = FileLock(path / ".lock")
        try:
            (path / "logs").mkdir(parents=True, exist_ok=True)
            held.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"{path}: another run is writing here; choose another --out") from None
        except OSError as e:
            raise UsageError(f"{path}: cannot be written ({e.strerror}); choose --out") from None
        self._held = held
        try:
            self.records = self._prepare(run, env, resume)
        except BaseException:
            self.close()
            raise

    def _prepare(self, run: dict[str, Any], env: dict[str, Any], resume: bool) -> list[Record]:
        before = read_json(self.path / "run.json")
        if before is None:
            write_json(self.path / "run.json", run)
            write_json(self.path / "env.json", env)
            return []
        if not resume:
            raise UsageError(f"{self.path}: holds a run already; --resume it or choose --out")
        if edited := what_differs(before, run):
            raise UsageError(
                f"{self.path}: the experiment was edited since this run began "
                f"({edited}); undo that or choose another --out"
            )
        records, complaints = read_lines(self.file)
        if complaints:  # a line cut short by a crash: the rest is kept
            lines = "".join(json.dumps(record) + "\n" for record in records)
            write_text(self.file, lines)
        return records

    def append(self, record: Record) -> None:
        """Adds a line and waits until it is on disk; a line that does not fit leaves no part."""
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        try:
            with open(self.file, "ab", buffering=0) as file:
                before = file.tell()
                try:
                    if file.write(line) != len(line):
                        raise OSError(0, "disk full")
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(before)
                    raise
        except OSError as e:
            raise UsageError(
                f"{self.file}: cannot be written ({e.strerror}); "
                f"{len(self.records)} earlier records are safe, --resume goes on from there"
            ) from None
        self.records.append(record)

    def close(self) -> None:
        self._held.release()


def what_differs(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What makes two runs different ones: their experiment, its cases or its effort."""
    names = ("warmup", "samples", "target", "max_seconds")
    old, new = before.get("experiment", {}), now["experiment"]
    found = [key for key in ("name", "cases") if before.get(key) != now[key]]
    return ", ".join(found + [key for key in names if old.get(key) != new[key]])


def read(path: Path) -> tuple[list[Record], list[str]]:
    """A run's records, and a complaint for each damaged line.

    Raises UsageError if there is no run.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{path}: no records.jsonl here; `bench.py run` makes one")
    return read_lines(file)


def read_lines(file: Path) -> tuple[list[Record], list[str]]:
    """The lines that can be read, and a complaint for each that cannot."""
    records, complaints = [], []
    if not file.exists():
        return [], []
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not {"key", "status", "case"} <= record.keys():
                raise ValueError("no record")
            if record.get("schema") != SCHEMA:
                raise ValueError(f"schema {record.get('schema')}, not {SCHEMA}")
        except ValueError as e:
            complaints.append(f"{file}:{number}: left out ({e})")
        else:
            records.append(record)
    return records, complaints


def runs(results: Path) -> list[tuple[Path, str]]:
    """Every run under `results`, newest first: its folder and its experiment's name.  What is
    damaged is left out; asked for by its folder, it says why."""
    found = []
    for file in results.glob("*/*/run.json"):
        try:
            found.append((file.stat().st_mtime, file.parent, json.loads(file.read_text())["name"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [(folder, name) for _, folder, name in sorted(found, reverse=True)]


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object, or None if the file is not there."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise UsageError(f"{file}: damaged ({e})") from None


def write_json(file: Path, values: dict[str, Any]) -> None:
    write_text(file, json.dumps(values, indent=1, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Writes whole or not at all.  Raises UsageError."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as temporary:
            temporary.write(text)
            temporary.flush()
            os.fsync(temporary.fileno())
        os.chmod(temporary.name, 0o644)
        os.replace(temporary.name, file)
    except OSError as e:
        if temporary is not None:
            Path(temporary.name).unlink(missing_ok=True)
        raise UsageError(f"{file}: cannot be written ({e.strerror})") from None
