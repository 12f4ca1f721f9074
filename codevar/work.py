"""What a plan makes its models do: pass after pass and, in each, layer after layer.

The one walk over a plan.  The decode runs what it says; FLOPs, bytes, caches and memory are counted
from it.  Counts follow from shapes alone, never from data, so they hold for every image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from codevar.plan import Plan
from codevar.stacks import Stack
from codevar.var import VAR


@dataclass(frozen=True)
class Visit:
    """What one layer does in one pass.

    rows: of the batch; twice the images, for guidance.
    queries: tokens of a row that go through the layer.
    past: tokens of earlier passes that they attend to besides each other.
    written: of the queries, those whose keys and values the cache keeps.
    conditions: whether the layer's AdaLN is computed, and not known from an earlier pass.
    """

    layer: int
    rows: int
    queries: int
    past: int
    written: int
    conditions: bool


@dataclass(frozen=True)
class Pass:
    """One run of a model: it reads scales first..scale and predicts the last of them (0-based).

    logit_rows, logit_tokens: rows of the batch, and tokens of a row, that get logits.
    is_first, is_last: among the passes of its model.
    """

    model: VAR
    first: int
    scale: int
    visits: tuple[Visit, ...]
    logit_rows: int
    logit_tokens: int
    is_first: bool
    is_last: bool

    @property
    def rows(self) -> int:
        """Of the batch."""
        return self.visits[0].rows

    @property
    def maps(self) -> tuple[int, ...]:
        """Tokens of each scale that it reads."""
        return self.model.scales.tokens[self.first : self.scale + 1]


def work(plan: Plan, batch_size: int, stack: Stack) -> list[Pass]:
    """The passes of a decode of so many images, in the order in which they run.

    A pass reads all scales that its model has not read yet, up to the one it predicts.  A layer
    that is left out caches nothing of it and never catches up.
    """
    rows = 2 * batch_size
    last_pass = {step.model: k for k, step in enumerate(plan.steps)}
    last_visit = {(s.model, layer): k for k, s in enumerate(plan.steps) for layer in s.layers}
    scales_read: Counter[VAR] = Counter()
    cached: Counter[tuple[VAR, int]] = Counter()
    passes = []
    for k, step in enumerate(plan.steps):
        model, first = step.model, scales_read[step.model]
        tokens = sum(plan.scales.tokens[first : k + 1])
        # A cache that is allocated once has no room for what nobody reads.
        unread = [i for i in step.layers if stack.cache.in_place and last_visit[model, i] == k]
        known = [i for i in step.layers if stack.condition_once and cached[model, i]]
        visits = tuple(
            Visit(i, rows, tokens, cached[model, i], tokens * (i not in unread), i not in known)
            for i in step.layers
        )
        cached.update({(model, i): tokens for i in step.layers})
        passes.append(
            Pass(
                model,
                first,
                k,
                visits,
                # Guidance comes before the head, but in the published code, which also makes logits
                # of all that a refiner reads at the hand-over.
                logit_rows=rows if stack.as_published else batch_size,
                logit_tokens=tokens if stack.as_published else plan.scales.tokens[k],
                is_first=first == 0,
                is_last=last_pass[model] == k,
            )
        )
        scales_read[model] = k + 1
    return passes


def room(passes: Iterable[Pass], model: VAR) -> list[int]:
    """Tokens that each layer of the model caches.  Of VAR's 680, 424 where it is what a later pass
    reads: two fifths are the last scale's."""
    written: Counter[int] = Counter()
    for visit in (visit for p in passes if p.model is model for visit in p.visits):
        written[visit.layer] += visit.written
    return [written[layer] for layer in range(model.config.depth)]
