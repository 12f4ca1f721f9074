"""A user's mistake, and sizes as people write them."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pydantic import ByteSize, TypeAdapter, ValidationError


class UsageError(ValueError):
    """A mistake of the user's; the message is one line that says what to do."""


class NoPredictionError(UsageError):
    """Shapes say nothing of a case; the message says why."""


class NotInstalledError(NoPredictionError):
    """A library that is an extra is not there; the message says how to get it."""


def nearest(name: object, known: Iterable[str]) -> str:
    """What was meant, or what there is, as the end of a sentence."""
    known = [*known]
    if meant := difflib.get_close_matches(str(name), known, 1):
        return f"; did you mean {meant[0]}?"
    return f"; there are {textwrap.shorten(', '.join(known), 160, placeholder=' and more')}"


@contextmanager
def as_usage_error(*kinds: type[ValueError]) -> Iterator[None]:
    """Makes a UsageError of these kinds, which are the mistakes that `codevar` knows of."""
    try:
        yield
    except kinds as e:
        raise UsageError(str(e)) from None


def bytes_of(text: str) -> int:
    """Bytes of a size as people write it: "16GiB", "500 MB".  Raises UsageError."""
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except (ValidationError, OverflowError):
        size = 0
    if size < 2**20:  # 48 is 48 bytes, and not what anybody means
        raise UsageError(f"a size must be like 48GiB, 80GB or 500MiB, not {text!r}")
    return size
