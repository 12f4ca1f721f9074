"""While what a stranger sent is read, nothing that it names on this machine is opened or imported:
no weights, no plugin of an installed package, and of settings only the project's and its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Of the block: it reads what a stranger sent, in this folder."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def folder() -> Path | None:
    """The folder of what is being read, or None where it is the user's own."""
    return _folder.get()
