"""Plugins: files of the user's that register methods.

    python bench.py run my_experiment.toml --plugin my_method.py

A plugin is a Python file, imported once in each process: it registers methods by the same decorator
as the project's own (`bench.study.cases.register`).  It is the user's own code and runs as such.
An installed package offers methods by the entry-point group `codevar.methods`, loaded only when a
name is asked for.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.study import strangers
from bench.study.errors import UsageError
from codevar.files import first_line

#: Files that this process and those it starts import, one to a line.
FILES = "CODEVAR_PLUGINS"
GROUP = "codevar.methods"


def add(files: Iterable[Path]) -> None:
    """Imports plugins, here and in every process that is started later.

    Raises UsageError, which names the file, for one that cannot be read or whose import fails.
    """
    for file in files:
        path = file.resolve()
        _import(path)
        if str(path) not in (known := os.environ.get(FILES, "").splitlines()):
            os.environ[FILES] = "\n".join([*known, str(path)])


def load_inherited() -> None:
    """Imports what the process that started this one had added."""
    for name in os.environ.get(FILES, "").splitlines():
        _import(Path(name))


def load_installed(method: str) -> None:
    """Imports the package that offers a method of this name, if one is installed; not for what a
    stranger sent."""
    if strangers.folder():
        return
    for found in importlib.metadata.entry_points(group=GROUP, name=method):
        try:
            found.load()
        except Exception as e:
            raise UsageError(f"plugin {found.value}: {type(e).__name__}: {first_line(e)}") from e


def hashes() -> dict[str, str]:
    """SHA-256 of each plugin that this process has added, by the file's name."""
    paths = map(Path, os.environ.get(FILES, "").splitlines())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _import(path: Path) -> None:
    name = f"codevar_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(f"plugin {path}: no such Python file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        raise UsageError(f"plugin {path}: {type(e).__name__}: {first_line(e)}") from e
