"""The project's archive: files with a manifest of their hashes, in one zip or in several.

    NAME-1-of-2.zip
        manifest.json    `Manifest`: of each file its bytes and SHA-256
        ...              the files, under their paths

Whatever the project packs to be sent somewhere (`bench.py pack`, `make gpu-kit`) has this form.
An archive comes from a stranger: `Archive` checks all of it before anything is written.
"""

import hashlib
import itertools
import json
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.study.cases import explain
from bench.study.errors import UsageError
from bench.study.units import MIB

MANIFEST = "manifest.json"
#: What an archive may hold: no more files, and no more bytes than ALWAYS plus RATIO to one of the
#: zip's.  Deflate reaches 1000 to one, records 10.
MOST_FILES, ALWAYS_BYTES, RATIO = 20_000, 16 * MIB, 100
MANIFEST_BYTES = 16 * MIB
#: Of a zip, beside what its files are compressed to: for each file and for the whole.
ENTRY_BYTES, END_BYTES = 400, 2048


class Held(BaseModel):
    """A file of the archive."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a part says of itself.  set: SHA-256 over all files of all parts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    part: int = Field(ge=1)
    parts: int = Field(ge=1, le=1000)
    set: str
    files: dict[str, Held] = Field(max_length=MOST_FILES)


# Packing


def files_of(folder: Path) -> dict[str, Path]:
    """Every regular file below a folder by its path, but for hidden ones and links."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {
        name: path
        for name, path in found.items()
        if path.is_file() and not path.is_symlink() and not is_hidden(name)
    }


def is_hidden(name: str) -> bool:
    """Whether a part of the path starts with a dot."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def to_send(path: str, data: bytes) -> bytes:
    """A file's bytes, but for the host's id in a machine's description, which stays where it is."""
    with suppress(ValueError, KeyError, TypeError):
        if PurePosixPath(path).name == "env.json":
            env = json.loads(data)
            env["hardware"]["host"] = None
            return json.dumps(env, indent=1).encode()
    return data


def pack(
    files: Mapping[str, Path],
    name: str,
    to: Path,
    max_mib: float | None = None,
    max_files: int | None = None,
) -> list[Path]:
    """Writes the files, by their paths in the archive, as zips into a folder.

    max_mib: the most that a zip may have.  max_files: the most zips.
    Raises UsageError where that is too little, or for what `Archive` would refuse; then nothing is
    left behind.
    """
    for path in files:
        check_path(path)
    contents = {path: to_send(path, file.read_bytes()) for path, file in files.items()}
    held = {
        path: Held(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in contents.items()
    }
    most = float("inf") if max_mib is None else max_mib * MIB
    groups = grouped({path: packed_size(path, data) for path, data in contents.items()}, most)
    if max_files is not None and len(groups) > max_files:
        raise UsageError(
            f"{name} takes {len(groups)} archives of {max_mib:g} MiB: give --max-files "
            f"{len(groups)}, or a larger --max-mib"
        )
    written = []
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to, prefix=".pack") as aside:
        for part, group in enumerate(groups, 1):
            some = {path: held[path] for path in group}
            manifest = Manifest(
                format=1, name=name, part=part, parts=len(groups), set=set_of(held), files=some
            )
            file = Path(aside) / f"{name}-{part}-of-{len(groups)}.zip"
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(MANIFEST, manifest.model_dump_json(indent=1))
                for path in group:
                    archive.writestr(path, contents[path])
            check(file)
            written.append(file)
        return [file.replace(to / file.name) for file in written]


def packed_size(path: str, data: bytes) -> int:
    """Bytes that a file takes of a zip and of its manifest, at most."""
    return len(zlib.compress(data)) + 3 * len(path.encode()) + ENTRY_BYTES


def grouped(sizes: Mapping[str, int], most: float) -> list[list[str]]:
    """The files in their order, in as few groups as that leaves.  Raises UsageError."""
    groups: list[list[str]] = [[]]
    left = most - END_BYTES
    for path, size in sizes.items():
        if size > most - END_BYTES:
            raise UsageError(f"{path} alone takes {size / MIB:.1f} MiB: give a larger --max-mib")
        if size > left:
            groups.append([])
            left = most - END_BYTES
        groups[-1].append(path)
        left -= size
    return groups


def set_of(files: Mapping[str, Held]) -> str:
    """SHA-256 over all names and their hashes: the same for the same set of files."""
    lines = (f"{path} {file.sha256}\n" for path, file in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# Unpacking


class Archive:
    """All parts of one archive, checked.

    Raises UsageError for what is no such archive, is not whole, or is not to be trusted.
    """

    def __init__(self, files: list[Path]) -> None:
        self.parts = {file: check(file) for file in files}
        self.name = check_whole(self.parts)

    def read(self, path: str) -> bytes | None:
        """One file of it; None if it is not there."""
        for file, manifest in self.parts.items():
            if held := manifest.files.get(path):
                with zipfile.ZipFile(file) as archive:
                    return b"".join(read(archive, path, held.bytes))
        return None

    def unpack(self, to: Path) -> None:
        """Writes all files into a new folder, or nothing.  Raises UsageError."""
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise UsageError(f"{to}: is there already; choose another folder, or remove it")
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=to.parent, prefix=".import") as aside:
                whole = Path(aside) / "whole"
                for path in itertools.chain.from_iterable(m.files for m in self.parts.values()):
                    target = whole / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(self.read(path) or b"")
                whole.replace(to)
        except OSError as e:
            raise UsageError(f"{to}: cannot be written ({e.strerror})") from None


def read_manifest(file: Path) -> Manifest:
    """What an archive says of itself, unchecked.  Raises UsageError."""
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.getinfo(MANIFEST).file_size > MANIFEST_BYTES:
                raise UsageError(f"{file}: its manifest is too large")
            text = b"".join(read(archive, MANIFEST, MANIFEST_BYTES))
        return Manifest.model_validate_json(text)
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError) as e:
        raise UsageError(f"{file}: no archive of this project ({e})") from None
    except ValidationError as e:
        raise UsageError(f"{file}: {MANIFEST}: {explain(e, Manifest)}") from None
    except NotImplementedError as e:
        raise UsageError(f"{file}: {e}") from None


def check(file: Path) -> Manifest:
    """Reads one part through.  Raises UsageError for whatever is wrong with it."""
    manifest = read_manifest(file)
    check_size(str(file), manifest, file.stat().st_size)
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename != MANIFEST]
        names = [entry.filename for entry in entries]
        if sorted(names) != sorted(manifest.files) or len(archive.infolist()) != len(names) + 1:
            raise UsageError(f"{file}: holds other files than its manifest says")
        for entry in entries:
            held = manifest.files[entry.filename]
            where = f"{file}: {entry.filename!r}"
            check_path(entry.filename, where)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG) or entry.is_dir() or entry.flag_bits & 1:
                raise UsageError(f"{where} is no plain file")
            if entry.file_size != held.bytes:
                raise UsageError(f"{where} has {entry.file_size} bytes, not {held.bytes}")
            digest = hashlib.sha256()
            try:
                for block in read(archive, entry.filename, held.bytes):
                    digest.update(block)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as e:
                raise UsageError(f"{where} is damaged ({e})") from None
            if digest.hexdigest() != held.sha256:
                raise UsageError(f"{where} is not what its manifest says: another SHA-256")
    return manifest


def check_size(where: str, manifest: Manifest, zip_bytes: int) -> None:
    """Refuses what unpacks to far more than there is."""
    total = sum(held.bytes for held in manifest.files.values())
    if total > ALWAYS_BYTES + RATIO * zip_bytes:
        raise UsageError(f"{where}: {zip_bytes} bytes would unpack to {total}, as of a zip bomb")


def check_path(path: str, where: str = "") -> None:
    """Refuses whatever could lie outside the folder, on any system."""
    parts = path.split("/")
    odd = any(part in ("", ".", "..") or part.endswith((" ", ".")) for part in parts)
    if odd or any(c in '\\:*?"<>|' or not c.isprintable() for c in path) or len(path) > 500:
        raise UsageError(f"{where or repr(path)} is no path that an archive may hold")


def check_whole(parts: Mapping[Path, Manifest]) -> str:
    """Refuses parts that are missing, double, or of two archives, and paths in each other's way.
    Returns the archive's name."""
    one, first = next(iter(parts.items()))
    for file, other in parts.items():
        if (other.name, other.set, other.parts) != (first.name, first.set, first.parts):
            raise UsageError(f"{file}: is of another archive than {one}; import one alone")
    numbers = sorted(manifest.part for manifest in parts.values())
    if numbers != list(range(1, first.parts + 1)):
        there = ", ".join(map(str, numbers))
        raise UsageError(f"{first.name}: of {first.parts} parts there is {there}; bring them all")
    files = [item for manifest in parts.values() for item in manifest.files.items()]
    if set_of(dict(files)) != first.set:
        raise UsageError(f"{first.name}: its parts are not those that were packed together")
    folded = [path.casefold() for path, _ in files]
    folders = {str(folder) for path in folded for folder in PurePosixPath(path).parents}
    if len(set(folded)) < len(folded) or folders & set(folded):
        raise UsageError(f"{first.name}: two of its files have one place")
    return first.name


def read(archive: zipfile.ZipFile, path: str, most: int) -> Iterator[bytes]:
    """A file's blocks.  Raises zipfile.BadZipFile for more than `most` bytes."""
    with archive.open(path) as stream:
        for block in iter(lambda: stream.read(MIB), b""):
            most -= len(block)
            if most < 0:
                raise zipfile.BadZipFile("longer than it says")
            yield block
