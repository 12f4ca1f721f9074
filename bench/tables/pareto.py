"""The Pareto front: what nothing else beats in both of two figures."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def pareto_front(
    items: Iterable[Item], figures: Callable[[Item], tuple[float, float]]
) -> list[Item]:
    """The items that no other beats, by their first figure; equal ones stay together.

    figures: of an item, less being better in both.  An item beats another if it is no worse in
    both and better in one.
    """
    best: list[Item] = []
    least: tuple[float, float] | None = None
    for item in sorted(items, key=figures):
        found = figures(item)
        if least is None or found[1] < least[1] or found == least:
            best.append(item)
            least = found
    return best
