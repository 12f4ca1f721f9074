"""JSON files, and files of JSON lines that are models: read, checked and written here."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.study.errors import UsageError
from codevar.files import atomic_write

SCHEMA = 3  #: of every line that is written; all older ones are read
NEWER = "newer than this program; update it"


class Part(BaseModel):
    """A part of a record.  Keys that this version does not know are kept, so that they make no
    record unreadable and a file that is written again loses nothing."""

    model_config = ConfigDict(
        extra="allow", allow_inf_nan=False, validate_by_name=True, serialize_by_alias=True
    )

    def to_json(self) -> dict[str, Any]:
        """What was given or read, as JSON has it."""
        return self.model_dump(mode="json", exclude_unset=True)


class Line(Part):
    """A record, which is a line of a file."""

    schema_version: Annotated[int, Field(alias="schema", ge=1)] = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The same, with the schema that it has now."""
        return {**super().to_json(), "schema": SCHEMA}


Read = TypeVar("Read", bound=Line)


def prepare(folder: Path) -> None:
    """A folder that records can be written to, before any work.  Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write").touch()
        (folder / ".write").unlink()
    except OSError as e:
        raise UsageError(f"{folder}: cannot be written ({e.strerror}); choose --out") from None


def check_writable(folder: Path) -> None:
    """As `prepare`, and leaves nothing behind.  Raises UsageError."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        prepare(folder)
    finally:
        for path in absent:
            with suppress(OSError):
                path.rmdir()


def append_line(path: Path, values: Line | Mapping[str, Any]) -> None:
    """Adds a JSON line, on disk when it returns.  Raises OSError with the file as it was."""
    line = text_of(values).encode()
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


def append_record(file: Path, values: Line | Mapping[str, Any]) -> None:
    """Adds a JSON line to a file that need not be there.  Raises UsageError, with the file as it
    was."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        append_line(file, values)
    except OSError as e:
        raise UsageError(f"{file}: cannot be written ({e.strerror}); choose --out") from None


def text_of(values: Line | Mapping[str, Any]) -> str:
    """The line of a record.  Raises ValueError for numbers that JSON has not."""
    found = values.to_json() if isinstance(values, Line) else values
    return json.dumps(found, allow_nan=False) + "\n"


def read_lines(file: Path, model: type[Read]) -> tuple[list[Read], list[str]]:
    """The lines that can be read, and a complaint for each that cannot; none of no file."""
    found, complaints = [], []
    lines = file.read_text("utf-8-sig", errors="replace").splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse(line, model))
        except ValueError as e:
            complaints.append(f"{file}:{number}: left out ({e})")
    return found, complaints


def parse(line: str, model: type[Read]) -> Read:
    """A line as a record.  Raises ValueError, saying in a few words what is wrong."""
    try:
        values = parse_json(line)
        if r"\ud" in line.lower():  # may be half a surrogate pair, which no file or table can hold
            values = json.loads(json.dumps(values, ensure_ascii=False).encode(errors="replace"))
    except ValueError as e:
        raise ValueError(f"no JSON: {e}") from None
    if not isinstance(values, dict):
        raise ValueError("no record")
    version = values.get("schema")
    if not isinstance(version, int) or version > SCHEMA:
        raise ValueError(f"schema {version}" + f": {NEWER}" * isinstance(version, int))
    try:
        return model.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}") from None


def parse_json(text: str) -> Any:
    """What JSON stands for.  Raises ValueError, for a text that is nested too deeply too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object, or None if the file is not there."""
    try:
        found = parse_json(file.read_text("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as e:
        raise UsageError(f"{file}: damaged ({e})") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file}: damaged (no JSON object)")
    return found


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    write_text(file, json.dumps(values, indent=1, allow_nan=False) + "\n")


def write_lines(file: Path, records: Iterable[Line]) -> None:
    """Write all records, one JSON line each, whole or not at all."""
    write_text(file, "".join(map(text_of, records)))


def write_text(file: Path, text: str) -> None:
    """Writes whole or not at all, into a folder that it makes if need be.  Raises UsageError."""
    try:
        with atomic_write(file) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as e:
        raise UsageError(f"{file}: cannot be written ({e.strerror})") from None
