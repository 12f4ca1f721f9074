"""What is said of an argument that is of the wrong kind: one line that names it."""

from __future__ import annotations

import operator
import reprlib


def whole(name: str, value: object) -> int:
    """The number, of whatever type whole numbers come in.  Raises ValueError for what is none."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {shown(value)}") from None


def shown(value: object) -> str:
    """Its repr, cut to fit into a line: that of a model or a tensor has many."""
    return " ".join(reprlib.repr(value).split())
