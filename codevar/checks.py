"""What is said of an argument that is of the wrong kind: one line that names it."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def whole(name: str, value: object) -> int:
    """The number, of whatever type whole numbers come in.  Raises ValueError for what is none."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {shown(value)}") from None


def number(name: str, value: object) -> float:
    """The number.  Raises ValueError for what is none."""
    if not isinstance(value, Real):
        raise ValueError(f"{name} must be a number, not {shown(value)}")
    return float(value)


def kind_of(name: str, value: object, kind: type) -> None:
    """Raises ValueError for what is none of the kind."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, not {shown(value)}")


def one_of(name: str, value: object, known: Iterable[object]) -> None:
    """Raises ValueError for what is not among them."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, not {shown(value)}")


def array_of(name: str, value: object) -> torch.Tensor:
    """The numbers as a tensor.  Raises ValueError for what are none."""
    import torch

    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{name} must be an array of numbers, not {shown(value)}") from None


def labels_of(labels: object, classes: int) -> torch.Tensor:
    """(B,) int64 of a list of classes.  Raises ValueError for what is none."""
    import torch

    try:
        labels_B = torch.as_tensor(labels.tolist() if hasattr(labels, "tolist") else labels)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        labels_B = torch.empty(0)
    kind = labels_B.dtype
    whole_numbers = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
    if labels_B.ndim != 1 or len(labels_B) == 0 or not whole_numbers:
        raise ValueError(f"labels must be a list of classes 0..{classes - 1}, not {shown(labels)}")
    labels_B = labels_B.long()
    if labels_B.min() < 0 or labels_B.max() >= classes:
        raise ValueError(f"labels must be 0..{classes - 1}, not {labels_B.tolist()}")
    return labels_B


def shown(value: object) -> str:
    """Its repr, cut to fit into a line: that of a model or a tensor has many."""
    return " ".join(reprlib.repr(value).split())
