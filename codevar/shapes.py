"""Reading a model's sizes off the names and shapes of a state dict."""

import re
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]


def size(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there and have so many dimensions.

    Raises KeyError or ValueError naming the tensor.
    """
    shape = shapes[name]
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"tensor {name} is {shape}, expected {dimensions} dimensions")
    return shape


def count(shapes: Shapes, prefix: str, first: str) -> int:
    """How many modules are numbered after the prefix ("blocks.").

    first: a tensor of module 0.  Raises KeyError naming it if there is no module at all.
    """
    numbered = re.compile(re.escape(prefix) + r"(\d+)\.")
    numbers = [int(match[1]) for name in shapes if (match := numbered.match(name))]
    if not numbers:
        raise KeyError(prefix + first)
    return max(numbers) + 1
