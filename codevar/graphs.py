"""CUDA graphs: a decode captured once, a graph for each scale, and replayed.

Python launches some fifteen kernels a layer, one by one, and at few tokens a GPU waits for each; a
replay launches a scale at once.  The same loop is captured that runs without, so it computes the
same.  In the graphs is all that makes a kind of decode: plan, batch size, sampling, stack.  What
changes from one to the next, labels and seeds, lies at addresses that stay.

The first decode of a kind runs as it is, which also compiles and loads what capture needs; the
second is captured, so that a batch size which comes once costs nothing more.
"""

import gc
import logging
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from packaging.version import Version
from torch import nn

from codevar.noise import Noise, alike, reseed
from codevar.outputs import Generated, OnScale
from codevar.plan import Plan, Step

#: (labels (2B,), noise, on_scale) -> what the loop makes of them.
Decode = Callable[[torch.Tensor, Noise, OnScale], Generated]

REGISTERS = Version(torch.__version__) < Version("2.15")  # generators with graphs, by hand
KINDS = 32  # of decodes remembered for a model, the oldest forgotten first
LOG = logging.getLogger(__name__)


class Captured:
    """One kind of decode as graphs; called with labels (2B,), noise and on_scale, it replays them.

    One at a time, from one thread and on one stream: all graphs of a device share a pool of memory.
    seconds: that the capture took.
    """

    def __init__(
        self,
        decode: Decode,
        networks: Iterable[nn.Module],
        scales: int,
        labels_2B: torch.Tensor,
        noise: Noise,
    ) -> None:
        """Raises RuntimeError, torch's of being out of memory too, if it cannot be captured."""
        began = time.perf_counter()
        # Graphs read addresses, which must not be given to anything else.
        self.places = [place for network in networks for place in places_of(network)]
        self.parts = [frozen(parts[name]) for parts, name in self.places]
        self.labels_2B, self.noise = labels_2B.clone(), alike(noise)
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.pool, self.stream = memory_of(labels_2B.device)
        with undisturbed(labels_2B.device, self.stream), ExitStack() as capturing:

            def on_scale(k: int) -> None:
                capturing.close()
                if k < scales:
                    self.graphs.append(graph := torch.cuda.CUDAGraph())
                    if isinstance(self.noise, torch.Generator):
                        register(graph, self.noise)
                    capturing.enter_context(
                        torch.cuda.graph(
                            graph,
                            pool=self.pool,
                            stream=self.stream,
                            capture_error_mode="thread_local",  # others may go on writing images
                        )
                    )

            self.made = decode(self.labels_2B, self.noise, on_scale)
        self.seconds = time.perf_counter() - began
        ALIVE.add(self)

    def __call__(self, labels_2B: torch.Tensor, noise: Noise, on_scale: OnScale) -> Generated:
        """Replay the captured decode with these labels [2B] and noise; the result is a copy."""
        self.labels_2B.copy_(labels_2B)
        reseed(self.noise, noise)
        on_scale(0)
        for k, graph in enumerate(self.graphs, 1):
            graph.replay()
            on_scale(k)
        # The next replay writes over its own.
        tokens, f_hat = self.made.tokens.clone(), self.made.f_hat.clone()
        return replace(self.made, tokens=tokens, f_hat=f_hat)

    def is_current(self) -> bool:
        """Whether the models still have the modules and weights that the graphs read."""
        return all(
            is_same(now.get(name), then)
            for (now, name), then in zip(self.places, self.parts, strict=True)
        )

    @property
    def pool_bytes(self) -> int:
        """Taken from the device for the pool, whoever uses it; graphs are the driver's."""
        segments = torch.cuda.memory_snapshot()
        return sum(s["total_size"] for s in segments if tuple(s["segment_pool_id"]) == self.pool)


@dataclass(frozen=True)
class Known:
    """What became of a kind of decode: neither after its first, then graphs or a reason.

    reason: why it cannot be captured.
    """

    graphs: Captured | None = None
    reason: str = ""


#: What a module holds under a name; None where it could have something.
Held = nn.Module | torch.Tensor | None
#: Kinds of decode by the first model of their plan, with which their graphs go.
KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[Hashable, ...], Known]] = WeakKeyDictionary()
ALIVE: WeakSet[Captured] = WeakSet()
LAUNCHED = ContextVar("LAUNCHED", default=False)


def can_capture(device: torch.device) -> bool:
    """Whether the device has graphs, and nobody asks for none."""
    return device.type == "cuda" and not LAUNCHED.get()


@contextmanager
def launched() -> Iterator[None]:
    """Decodes kernel by kernel, for who watches the allocator: replays take nothing from it."""
    token = LAUNCHED.set(True)
    try:
        yield
    finally:
        LAUNCHED.reset(token)


def replayed(
    decode: Decode,
    plan: Plan,
    quantizer: nn.Module,
    how: Hashable,
    labels_2B: torch.Tensor,
    noise: Noise,
    on_scale: OnScale,
) -> Generated:
    """What the decode makes, by graphs from the second of its kind on; kernel by kernel, after a
    warning, if it cannot be captured.

    how: what else makes a kind of decode, but for device and batch size.
    """
    known = KNOWN.setdefault(plan.models[0], {})
    batch = labels_2B.device, len(labels_2B), type(noise), torch.is_inference_mode_enabled()
    kind = (steps_of(plan), ref(quantizer), batch, how)
    found = known.pop(kind, None)
    if found is None or (found.graphs and not found.graphs.is_current()):
        found = Known()
    elif found == Known():
        try:
            networks = (*plan.models, quantizer)
            found = Known(Captured(decode, networks, plan.scales.K, labels_2B, noise))
        except RuntimeError as e:
            found = Known(reason=next(iter(str(e).strip().splitlines()), type(e).__name__))
            LOG.warning("kernels are launched one by one, as no graph was made: %s", found.reason)
        if found.reason:  # by now the exception lets go of what it had in hand
            give_back(labels_2B.device)
    known[kind] = found
    for other in {*[*known][:-KINDS], *filter(is_gone, known)}:
        del known[other]
    return (found.graphs or decode)(labels_2B, noise, on_scale)


def steps_of(plan: Plan) -> tuple[tuple[Hashable, ...], ...]:
    """All that the steps say, without keeping their models alive."""
    names = [field.name for field in fields(Step) if field.name != "model"]
    return tuple((ref(s.model), *(getattr(s, name) for name in names)) for s in plan.steps)


def is_gone(kind: tuple[Any, ...]) -> bool:
    """Whether one of its models is."""
    steps, quantizer, *_ = kind
    return None in (quantizer(), *(model() for model, *_ in steps))


def known_of(plan: Plan) -> list[Known]:
    """Of the plan's kinds of decode, those that have graphs, or a reason why not."""
    known = KNOWN.get(plan.models[0], {}).items()
    return [found for kind, found in known if found != Known() and kind[0] == steps_of(plan)]


def give_back(device: torch.device) -> None:
    """Forgets all graphs on the device, so that their pool is free for launched kernels; decodes
    that come again make theirs again."""
    for known in KNOWN.values():
        for kind, found in [*known.items()]:
            if found.graphs and found.graphs.labels_2B.device == device:
                del known[kind]
    torch.cuda.empty_cache()


def memory_of(device: torch.device) -> tuple[Any, torch.cuda.Stream]:
    """The pool of the graphs on the device, and the one stream whose captures can share it."""
    for other in ALIVE:
        if other.labels_2B.device == device:
            return other.pool, other.stream
    return torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)


@contextmanager
def undisturbed(device: torch.device, stream: torch.cuda.Stream) -> Iterator[None]:
    """The device is the current one and its stream comes back whatever happens; no garbage is
    collected, as a graph that dies would end the capture; cuBLAS keeps no workspace."""
    before = torch.cuda.current_stream(device)
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with torch.cuda.device(device), torch.cuda.stream(before):
            torch._C._cuda_clearCublasWorkspaces()
            yield
            torch._C._cuda_clearCublasWorkspaces()
            before.wait_stream(stream)
    finally:
        if collects:
            gc.enable()


def register(graph: torch.cuda.CUDAGraph, generator: torch.Generator) -> None:
    """Lets the graph draw; where torch sees to it, asking prints a warning at every call."""
    if REGISTERS:
        graph.register_generator_state(generator)


def places_of(network: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Where the network's modules and weights are looked up, without the network itself."""
    for module in network.modules():
        for parts in (module._modules, module._parameters, module._buffers):
            yield from ((parts, name) for name in parts)


def frozen(part: Held) -> Held:
    """A module; of a weight its memory, whatever memory the weight is given later."""
    return part.detach() if isinstance(part, torch.Tensor) else part


def is_same(now: Held, then: Held) -> bool:
    """Whether a graph that was captured with `then` may be replayed with `now`: same storage, or
    same object."""
    if isinstance(now, torch.Tensor) and isinstance(then, torch.Tensor):
        return now.data_ptr() == then.data_ptr()
    return now is then
