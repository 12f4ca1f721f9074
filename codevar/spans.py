"""Whole numbers as people write them: "1,3-5"."""

import re
from collections.abc import Iterable
from itertools import groupby

FORM = r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*"
MOST = 10_000  # numbers that a text may stand for


def read_spans(text: object) -> list[int]:
    """Of "1,3-5": 1, 3, 4, 5.  Raises ValueError for a text of another form."""
    if not isinstance(text, str) or not re.fullmatch(FORM, text):
        raise ValueError(f"must be like 7-10 or 1-3,5, not {text!r}")
    ends = [(int(part.split("-")[0]), int(part.split("-")[-1])) for part in text.split(",")]
    if sum(last - first + 1 for first, last in ends) > MOST:
        raise ValueError(f"{text} is more than {MOST:,} numbers")
    return [number for first, last in ends for number in range(first, last + 1)]


def write_spans(numbers: Iterable[int]) -> str:
    """Of 1, 3, 4, 5: "1,3-5".  The numbers rise."""
    runs = []
    for _, members in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in members]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(runs)
