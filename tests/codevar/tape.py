"""CUDA graphs without a GPU: what is captured is taped, operator by operator, and run again.

As on a GPU, what a captured operator made is good only after a replay (here it is wiped when the
capture ends), values cannot be asked for, and only generators that were registered may draw.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NOT_PERMITTED = "CUDA error: operation not permitted when stream is capturing\nand more lines"


class Graph:
    """Stands for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.generators: list[torch.Generator] = []
        self.replays = 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, made in self.calls:
            again = tensors(func(*args, **kwargs))
            for tensor, new in zip(made, again, strict=True):
                if where(tensor) != where(new):
                    tensor.copy_(new)


class Tape(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph, self.born = graph, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError(NOT_PERMITTED)
        assert kwargs.get("generator") is None or self.graph.generators
        out = func(*args, **kwargs)
        given = {where(tensor) for tensor in tensors((args, kwargs))}
        self.born |= {where(t): t for t in tensors(out) if where(t) not in given}
        self.graph.calls.append((func, args, kwargs, tensors(out)))
        return out


@contextmanager
def capture(graph: Graph, pool, stream, capture_error_mode):
    """Stands for torch.cuda.graph."""
    with Tape(graph) as tape:
        yield
    for tensor in tape.born.values():
        whole = 1 << 30 if tensor.itemsize > 1 else 100
        tensor.fill_(torch.nan if tensor.is_floating_point() else whole)


def tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def where(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
