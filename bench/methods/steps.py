"""One loop that generates with any of the baselines, as `codevar.decode` has one for any plan.

A method is a transformer and three questions: what a decode begins with, what a step does, what
came out.  Shapes: B images, 2B rows (classes, then "no class").
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import nn

from codevar import graphs
from codevar.outputs import OnScale
from codevar.sampling import ScaleSampling, draw
from codevar.stacks import Stack
from codevar.transfer import send


@dataclass(frozen=True)
class Made:
    """What a method made, before the image decoder.

    tokens: (B, L) tokens, or the latents (B, Z, h, w) in float32.
    kv_cache_bytes: for each step that ran, the cache or recurrent state held during it.
    """

    tokens: torch.Tensor
    kv_cache_bytes: tuple[int, ...]


class State(Protocol):
    """What one decode holds between steps."""

    nbytes: int  # of the cache or the recurrent state

    def result(self) -> torch.Tensor:
        """`Made.tokens`."""
        ...


class Method(ABC):
    """A baseline.

    model: its transformer.  classes: how many it knows; the next label is "no class".
    steps: of a decode.  in_graph: whether its step is `one_graph`.
    """

    model: nn.Module
    classes: int
    steps: int
    in_graph: bool = False

    @abstractmethod
    def start(
        self, labels_2B: torch.Tensor, generator: torch.Generator, dtype: torch.dtype
    ) -> State:
        """The state before step 0; dtype: of its cache."""

    @abstractmethod
    def step(self, state: Any, i: int) -> None:
        """Step i, from 0.  What it does depends on i alone, not on which steps ran before, so
        that a few steps can stand for all (`spread`)."""

    @abstractmethod
    def compile(self) -> None:
        """Has what a step repeats compiled from now on, for the stack of that name."""

    @abstractmethod
    def flops(self, batch_size: int) -> tuple[int, ...]:
        """By step, of matrix products and convolutions; a multiply-add is two."""

    @torch.no_grad()
    def cache_bytes(self, batch_size: int, run: Stack) -> int:
        """Of the cache or recurrent state, which is there from the first step to the last; the
        model in the stack's precision, on the meta device too."""
        device = next(self.model.parameters()).device
        labels_2B = torch.zeros(2 * batch_size, dtype=torch.long, device=device)
        return self.start(labels_2B, torch.Generator(), run.precision).nbytes


class ClassEmbedder(nn.Module):
    """A row for each class; the last is "no class"."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, labels_B: torch.Tensor) -> torch.Tensor:
        """(B, C)."""
        return self.embedding_table(labels_B)


@dataclass
class Written:
    """Tokens so far."""

    tokens_BL: torch.Tensor
    generator: torch.Generator
    nbytes: int

    def result(self) -> torch.Tensor:
        """The tokens."""
        return self.tokens_BL


class TokenByToken(Method):
    """A decode whose position 0 reads the class, each further one the token before it.

    cfg: uncond + cfg (cond - uncond); 1.75 in the published evaluations of LlamaGen-XXL at 384 px
    and AiM-XL.  top_k: 0 keeps all, as there.
    """

    def __init__(self, model: Any, cfg: float = 1.75, top_k: int = 0) -> None:
        self.model, self.classes, self.steps = model, model.config.classes, model.config.tokens
        self.sampling = ScaleSampling(cfg - 1, top_k, top_p=0, temperature=1.0, ratio=0.0)
        self.compiled: Callable[..., torch.Tensor] | None = None

    @abstractmethod
    def input(self, state: Any, i: int) -> torch.Tensor:
        """(2B, 1, C) what position i reads."""

    @abstractmethod
    def logits(self, x_2B1C: torch.Tensor, state: Any, i: int) -> torch.Tensor:
        """(2B, 1, V) float32; the state's cache is updated."""

    def no_tokens(self, labels_2B: torch.Tensor, generator: torch.Generator) -> dict[str, Any]:
        """The part of a `Written` that all such decodes begin with."""
        shape = len(labels_2B) // 2, self.steps
        tokens_BL = torch.zeros(shape, dtype=torch.long, device=labels_2B.device)
        return {"tokens_BL": tokens_BL, "generator": generator}

    def step(self, state: Any, i: int) -> None:
        """Draw token i of every image and write it down."""
        x_2B1C = self.input(state, i)
        logits_2B1V = self.logits(x_2B1C, state, i)
        logits_B1V = self.sampling.filtered(logits_2B1V)
        state.tokens_BL[:, i : i + 1] = draw(logits_B1V, 1.0, state.generator)


def one_graph(step: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The step compiled whole; on a GPU launched as one CUDA graph, whose output is good until the
    next step.  What it writes in place must be `static`.  As it stands under `graphs.launched`."""
    fast = torch.compile(step, mode="reduce-overhead", fullgraph=True, dynamic=False)

    def run(*args: Any) -> torch.Tensor:
        if graphs.LAUNCHED.get():
            return step(*args)
        torch.compiler.cudagraph_mark_step_begin()
        return fast(*args)

    return run


def static(written: Iterable[torch.Tensor]) -> None:
    """Says that the tensors stay where they are for all steps of a decode."""
    for tensor in written:
        torch._dynamo.mark_static_address(tensor, guard=False)


@torch.no_grad()
def generate(
    method: Method,
    labels: Sequence[int],
    seed: int,
    run: Stack,
    on_step: OnScale = lambda i: None,
    chosen: Sequence[int] | None = None,
) -> Made:
    """The decode without the image decoder.

    on_step: called with 0 before the first step and with 1, 2, ... after each that ran.
    chosen: the steps to run, all by default; with less than all no image comes out.
    """
    device = next(method.model.parameters()).device
    labels_B = torch.tensor(labels)
    labels_2B = torch.cat((labels_B, torch.full_like(labels_B, method.classes)))
    generator = torch.Generator(device).manual_seed(seed)
    held = []
    on_step(0)
    with run.running(device):
        state = method.start(send(labels_2B, device), generator, run.precision)
        for done, i in enumerate(range(method.steps) if chosen is None else chosen, 1):
            method.step(state, i)
            held.append(state.nbytes)
            on_step(done)
    return Made(state.result(), tuple(held))


def spread(steps: int, most: int | None) -> tuple[int, ...]:
    """At most `most` of the steps, evenly from the first to the last (of one: the middle)."""
    if most is None or most >= steps:
        return tuple(range(steps))
    if most == 1:
        return (steps // 2,)
    return tuple(round(j * (steps - 1) / (most - 1)) for j in range(most))


def stand_for(chosen: Sequence[int], steps: int) -> tuple[int, ...]:
    """How many steps each of the chosen ones stands for: those nearest to it.

    Their weighted sum is exact, but for rounding, for a cost that grows evenly from step to step.
    """
    ends = [0, *(-(-(a + b) // 2) for a, b in pairwise(chosen)), steps]
    return tuple(b - a for a, b in pairwise(ends))
