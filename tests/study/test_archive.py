"""The archive: what goes in comes out, and whatever is wrong with it leaves nothing behind."""

from __future__ import annotations

import json
import stat
import zipfile

import numpy as np
import pytest

from bench.study import archive
from bench.study.archive import MANIFEST, Archive, Held, Manifest, files_of, pack, set_of
from tests.tiny import refused


@pytest.fixture
def folder(tmp_path):
    """Half a MiB that does not compress, some text, a hidden file and a link."""
    source = tmp_path / "source"
    (source / "logs").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for i in range(8):
        (source / f"{i}.bin").write_bytes(noise.bytes(2**16))
    (source / "logs" / "a.log").write_text("line\n" * 1000)
    (source / ".lock").touch()
    (source / "link").symlink_to("0.bin")
    return source


def contents(folder):
    return {name: path.read_bytes() for name, path in files_of(folder).items()}


def test_what_is_packed_comes_out_again_and_nothing_hidden_or_linked_goes_along(folder, tmp_path):
    (file,) = pack(files_of(folder), "run", tmp_path / "out")
    assert file.name == "run-1-of-1.zip"
    Archive([file]).unpack(tmp_path / "there")
    assert contents(tmp_path / "there") == contents(folder)
    assert set(contents(folder)) == {"logs/a.log", *(f"{i}.bin" for i in range(8))}


def test_the_hosts_id_stays_where_it_is(tmp_path):
    env = {"machine": "epyc", "hardware": {"cpu": "EPYC", "host": "abc"}}
    (tmp_path / "env.json").write_text(json.dumps(env))
    (file,) = pack(files_of(tmp_path), "run", tmp_path / "out")
    assert json.loads(Archive([file]).read("env.json"))["hardware"] == {"cpu": "EPYC", "host": None}


def test_each_part_is_as_large_as_it_may_be_and_all_are_needed(folder, tmp_path):
    parts = pack(files_of(folder), "run", tmp_path / "out", max_mib=0.2)
    assert len(parts) == 3
    assert all(part.stat().st_size <= 0.2 * 2**20 for part in parts)
    with refused("of 3 parts there is 1, 3"):
        Archive([parts[0], parts[2]]).unpack(tmp_path / "there")
    assert not (tmp_path / "there").exists()
    Archive(parts).unpack(tmp_path / "there")
    assert contents(tmp_path / "there") == contents(folder)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_mib": 0.2, "max_files": 2}, "takes 3 archives of 0.2 MiB"),
        ({"max_mib": 0.05}, "0.bin alone takes"),
    ],
)
def test_limits_that_are_too_tight_are_told_and_nothing_is_written(folder, tmp_path, limits, words):
    with refused(words):
        pack(files_of(folder), "run", tmp_path / "out", **limits)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_overwritten(folder, tmp_path):
    (file,) = pack(files_of(folder), "run", tmp_path / "out")
    before = contents(folder)
    with refused("is there already"):
        Archive([file]).unpack(folder)
    assert contents(folder) == before


def forged(tmp_path, files, entries=None, **changes):
    """An archive as a stranger could make it.

    files: path -> bytes that the manifest speaks of.  entries: (name or ZipInfo, bytes) that the
    zip holds; by default those files.
    """
    held = {
        path: Held(bytes=len(data), sha256=archive.hashlib.sha256(data).hexdigest())
        for path, data in files.items()
    }
    manifest = Manifest(format=1, name="run", part=1, parts=1, set=set_of(held), files=held)
    values = manifest.model_dump() | changes
    file = tmp_path / "forged.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(MANIFEST, json.dumps(values))
        for name, data in entries if entries is not None else files.items():
            out.writestr(name, data)
    return file


def linked(name, mode=stat.S_IFLNK | 0o777):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


@pytest.mark.parametrize(
    "path",
    ["../a", "/etc/a", "a/../../b", "C:/a", "a\\..\\b", "a//b", "./a", "a\nb", "a/..", "nul. "],
)
def test_a_path_that_could_lead_elsewhere_is_refused(tmp_path, path):
    with refused("no path that an archive may hold"):
        Archive([forged(tmp_path, {path: b"x"})]).unpack(tmp_path / "there")
    assert [file.name for file in tmp_path.iterdir()] == ["forged.zip"]


ZEROS = b"\0" * (40 * 2**20)
CASES = {
    "a link": ({"a": b"b"}, [(linked("a"), b"b")], {}, "no plain file"),
    "a device": ({"a": b"b"}, [(linked("a", stat.S_IFCHR), b"b")], {}, "no plain file"),
    "another content": ({"a": b"b"}, [("a", b"c")], {}, "another SHA-256"),
    "another length": ({"a": b"b"}, [("a", b"bb")], {}, "has 2 bytes, not 1"),
    "a file too many": ({"a": b"b"}, [("a", b"b"), ("c", b"")], {}, "other files than"),
    "a file too few": ({"a": b"b"}, [], {}, "other files than"),
    "one place twice": ({"a": b"b", "A": b"c"}, None, {}, "have one place"),
    "a file in a file": ({"a": b"b", "a/b": b"c"}, None, {}, "have one place"),
    "a bomb": ({"a": ZEROS}, None, {}, "zip bomb"),
    "a newer format": ({"a": b"b"}, None, {"format": 2}, "format must be"),
    "a name that is a path": ({"a": b"b"}, None, {"name": "../x"}, "name"),
    "another set": ({"a": b"b"}, None, {"set": "0"}, "not those that were packed"),
}


@pytest.mark.parametrize("which", CASES)
def test_whatever_is_wrong_is_one_line_and_nothing_is_written(tmp_path, which):
    files, entries, changes, words = CASES[which]
    with refused(words):
        Archive([forged(tmp_path, files, entries, **changes)]).unpack(tmp_path / "there")
    assert [file.name for file in tmp_path.iterdir()] == ["forged.zip"]


def test_a_bomb_that_hides_its_size_is_found_when_it_is_read(tmp_path):
    """Its manifest and its directory say one byte; what is compressed is a MiB."""
    file = forged(tmp_path, {"a": b"b"}, [("a", b"\0" * 2**20)])
    raw = file.read_bytes().replace((2**20).to_bytes(4, "little"), (1).to_bytes(4, "little"))
    file.write_bytes(raw)
    with refused("'a' is"):
        Archive([file]).unpack(tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_what_is_no_archive_is_told_so(tmp_path):
    file = tmp_path / "a.zip"
    for content in (b"", b"PK\3\4 cut short", b"text"):
        file.write_bytes(content)
        with refused("no archive of this project"):
            Archive([file]).unpack(tmp_path / "there")


def test_a_part_that_was_cut_short_or_altered_is_refused(folder, tmp_path):
    (file,) = pack(files_of(folder), "run", tmp_path / "out")
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:1000] + b"\xff" * 64 + whole[1064:]):
        file.write_bytes(damaged)
        with refused("zip"):
            Archive([file]).unpack(tmp_path / "there")
        assert not (tmp_path / "there").exists()
