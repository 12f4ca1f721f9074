"""Plugins: files of the user's that register methods, and whatever else is registered by name.

    python bench.py run my_experiment.toml --plugin my_method.py

A plugin is a Python file, imported once in each process.  It registers by the same means as the
project's own: methods and baselines by `bench.study.cases.register`, metrics as
`bench.metrics.Metric`, selectors, restorers and scores of caches by the registries of
`codevar.pruning` and `codevar.eviction`.  It is the user's own code and runs as such; so one that
an experiment names (`plugins = ["my_method.py"]`) is imported only where that is allowed.
An installed package offers methods by the entry-point group `codevar.methods`, loaded only when a
name is asked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from bench.study import strangers
from bench.study.errors import UsageError
from codevar.files import first_line, is_oom

#: Files that this process and those it starts import, one to a line.
FILES = "CODEVAR_PLUGINS"
GROUP = "codevar.methods"
#: Installed packages that this process has loaded: name and version, by what they are called.
loaded: dict[str, str] = {}
#: Whether an experiment's own plugins are imported: `--allow-plugins`.
allowed = False


def files() -> list[Path]:
    """Those that this process has added, or the one that started it."""
    return [*map(Path, os.environ.get(FILES, "").splitlines())]


def add(paths: Iterable[Path]) -> None:
    """Imports plugins, here and in every process that is started later.

    Raises UsageError, which names the file, for one that cannot be read or whose import fails.
    """
    for path in (path.resolve() for path in paths):
        _import(path)
        if path not in (known := files()):
            os.environ[FILES] = "\n".join(map(str, [*known, path]))


def asked_by(experiment: Path, names: Iterable[str]) -> list[Path]:
    """The files that an experiment names, from its folder.  Raises UsageError for one that nobody
    has allowed."""
    paths = [(experiment.parent / name).resolve() for name in names]
    for path in paths:
        if not (allowed or path in files()):
            raise UsageError(
                f"{experiment}: asks for plugin {path}, which runs as your own code; "
                "--allow-plugins lets it"
            )
    return paths


def load_inherited() -> None:
    """Imports what the process that started this one had added."""
    for path in files():
        _import(path)


def offered() -> dict[str, EntryPoint]:
    """What installed packages offer, by the method's name; nothing is loaded."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load_installed(method: str) -> None:
    """Imports the package that offers a method of this name, if one is installed; not for what a
    stranger sent."""
    point = offered().get(method)
    if strangers.folder() or point is None or point.value in loaded:
        return
    loaded[point.value] = f"{point.dist.name} {point.dist.version}" if point.dist else ""
    try:
        point.load()
    except Exception as e:
        raise UsageError(f"plugin {point.value}: {type(e).__name__}: {first_line(e)}") from e


def hashes() -> dict[str, str]:
    """SHA-256 of each plugin that this process has added, by the file's name; of a package its
    version."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files()} | loaded


@contextmanager
def one_line(of: object) -> Iterator[None]:
    """Around what a plugin's object does: what it raises is a UsageError that names the file."""
    module = sys.modules[type(of).__module__]
    try:
        yield
    except Exception as e:
        if module.__name__.startswith("bench.") or is_oom(e):
            raise
        raise UsageError(f"plugin {module.__file__}: {type(e).__name__}: {first_line(e)}") from e


def _import(path: Path) -> None:
    name = "codevar_plugin_" + hashlib.sha256(str(path).encode()).hexdigest()[:12]
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
