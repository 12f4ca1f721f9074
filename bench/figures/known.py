"""The names of all figures, from the text of the modules: no figure's imports are needed."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path

from bench.study.errors import UsageError, nearest


@functools.cache
def figure_names(decorator: str = "figure") -> tuple[str, ...]:
    """What modules of this package register by a decorator: `figure` for those of runs,
    `training_figure` for those of trainings."""
    registered = re.compile(rf'^@{decorator}\(\s*"(\w+)"', re.MULTILINE)
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple(name for file in files for name in registered.findall(file.read_text()))


def check(names: Iterable[str], known: Iterable[str] = ()) -> None:
    """Raises UsageError for a name that is not among the known ones, by default any figure's."""
    known = [*(known or (*figure_names(), *figure_names("training_figure")))]
    for name in names:
        if name not in known:
            raise UsageError(f"figure {name}: no such figure{nearest(name, known)}")
