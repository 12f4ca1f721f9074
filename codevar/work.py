"""What a plan makes its models do: pass after pass and, in each, layer after layer.

The one walk over a plan.  The decode runs what it says; FLOPs, bytes, caches and memory are counted
from it.  Counts follow from shapes alone, never from data, so they hold for every image.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from codevar.plan import Plan, reads
from codevar.stacks import Stack
from codevar.steps import RECENT, Eviction, Rule, Step, Tokens, head_groups
from codevar.var import VAR, Spans

#: What a cache holds: (scale from 0, tokens of it), in order; -1 stands for what an eviction left.
Held = tuple[tuple[int, int], ...]
#: (layer, number of a group of its heads).
Slot = tuple[int, int]


@dataclass(frozen=True)
class Heads:
    """What heads of a layer that keep the same do in one pass.

    spans: which heads.
    past: tokens of earlier passes that they attend to besides those of the pass.
    kept: tokens in the cache afterwards.
    cut: how they are chosen among all; None if all stay or, of what nobody reads, none is added.
    """

    spans: Spans
    past: int
    kept: int
    cut: Spans | Eviction | None = None

    @property
    def count(self) -> int:
        """Of the layer."""
        return sum(b - a for a, b in self.spans)

    @property
    def written(self) -> int:
        """Tokens that the cache of each gains."""
        return max(0, self.kept - self.past)

    @property
    def observers(self) -> int:
        """Tokens of a map whose attention says what stays in the cache, at most."""
        return self.cut.observers if isinstance(self.cut, Eviction) else 0


@dataclass(frozen=True)
class Visit:
    """What one layer does in one pass.

    rows: of the batch.
    queries: tokens of a row that go through the layer: all that the pass reads, or, of the map
        that it predicts, those that `prune` leaves.
    heads: groups of them that keep the same; most layers have one.
    conditions: rows whose AdaLN is computed, and not known from an earlier pass.
    saves: scales (from 0) whose branches' outputs a later visit restores from.
    """

    layer: int
    rows: int
    queries: int
    heads: tuple[Heads, ...]
    conditions: int
    prune: Tokens | None = None
    saves: tuple[int, ...] = ()

    @property
    def past(self) -> int:
        """Tokens of earlier passes that a query attends to, by the heads that keep most."""
        return max(heads.past for heads in self.heads)

    @property
    def slots(self) -> Iterator[tuple[Slot, Heads]]:
        """Where a cache has what each group of heads keeps."""
        for group, heads in enumerate(self.heads):
            yield (self.layer, group), heads


@dataclass(frozen=True)
class Pass:
    """One run of a model: it reads scales and predicts the last of them (from 0).

    halves: of the batch that run: 0 has the classes, 1 none.
    model_rows: that ever run of its model.
    logit_rows, logit_tokens: rows of the batch, and tokens of a row, that get logits.
    is_first, is_last: among the passes of its model.
    is_last_unguided: the model goes on without half 1, which gives its cache back.
    bits: of what its cache keeps.
    """

    model: VAR
    scales: tuple[int, ...]
    halves: tuple[int, ...]
    visits: tuple[Visit, ...]
    model_rows: int
    logit_rows: int
    logit_tokens: int
    is_first: bool
    is_last: bool
    is_last_unguided: bool
    bits: int

    @property
    def scale(self) -> int:
        """The one that it predicts."""
        return self.scales[-1]

    @property
    def rows(self) -> int:
        """Of the batch."""
        return self.visits[0].rows

    @property
    def slots(self) -> Iterator[tuple[Slot, Heads]]:
        """Where a cache has what each group of heads of each layer keeps."""
        return itertools.chain.from_iterable(visit.slots for visit in self.visits)

    @property
    def maps(self) -> tuple[int, ...]:
        """Tokens of each scale that it reads."""
        return tuple(self.model.scales.tokens[k] for k in self.scales)

    @property
    def logit_maps(self) -> tuple[int, ...]:
        """Tokens of each scale that gets logits."""
        return self.maps if self.logit_tokens == sum(self.maps) else self.maps[-1:]

    @property
    def row_slice(self) -> slice:
        """Its rows among those of both halves."""
        images = self.rows // len(self.halves)
        return slice(self.halves[0] * images, (self.halves[-1] + 1) * images)


def work(plan: Plan, batch_size: int, stack: Stack) -> list[Pass]:
    """The passes of a decode of so many images, in the order in which they run.

    A pass reads all scales that its half of the model has not read yet, up to the one it predicts.
    A layer that is left out caches nothing of it and never catches up.  Two halves that have read
    the same and hold the same run as one pass.  Of a plan that branches, the images go on by its
    first.
    """
    if plan.branch:
        before, after = Plan(plan.steps), plan.branch.plans[0]
        passes = [p for p in work(before, batch_size, stack) if p.scale < plan.branch.at]
        later = work(after, batch_size, stack)
        return passes + [p for p in later if p.scale >= plan.branch.at]
    walk, passes = _Walk(plan, batch_size, stack), []
    for k, found in groupby(reads(plan), key=lambda read: read[0]):
        scales = {half: scales for _, half, scales in found}
        together = len(scales) > 1 and scales[0] == scales[1] and walk.halves_agree(plan.steps[k])
        for halves in [(0, 1)] if together else [(half,) for half in scales]:
            passes.append(walk.run(plan.steps[k], scales[halves[0]], halves))
    return passes


class _Walk:
    """What models have read and layers hold while a plan is walked."""

    def __init__(self, plan: Plan, batch_size: int, stack: Stack) -> None:
        self.plan, self.batch_size, self.stack = plan, batch_size, stack
        self.held: dict[tuple[VAR, int, Slot], Held] = defaultdict(tuple)
        self.groups: dict[tuple[VAR, int], tuple[Spans, ...]] = {}
        self.conditioned: set[tuple[VAR, int]] = set()
        self.begun: set[VAR] = set()
        self.last_pass: dict[tuple[VAR, int], int] = {}
        self.last_visit: dict[tuple[VAR, int, int], int] = {}
        self.sources: dict[tuple[VAR, int, int], set[int]] = defaultdict(set)
        for k, half, _ in reads(plan):
            step = plan.steps[k]
            self.last_pass[step.model, half] = k
            for layer in step.layers:
                here = step.model, half, layer
                self.last_visit[here] = k
            if step.tokens and step.tokens.restore_from:
                for layer in step.sources:
                    self.sources[step.model, half, layer].add(step.tokens.restore_from - 1)

    def halves_agree(self, step: Step) -> bool:
        """Whether both halves hold the same in all layers of the step."""
        slots = [(i, g) for i in step.layers for g in range(len(self.groups_of(step.model, i)))]
        held = [[self.held[step.model, half, slot] for slot in slots] for half in (0, 1)]
        return held[0] == held[1]

    def groups_of(self, model: VAR, layer: int) -> tuple[Spans, ...]:
        """Heads of the layer that have the same rules at every scale."""
        if (model, layer) not in self.groups:
            self.groups[model, layer] = head_groups(self.plan.steps, model, layer)
        return self.groups[model, layer]

    def run(self, step: Step, scales: tuple[int, ...], halves: tuple[int, ...]) -> Pass:
        """The pass; what is held afterwards is noted."""
        model, k, B = step.model, scales[-1], self.batch_size
        is_first = model not in self.begun
        self.begun.add(model)
        ends = [self.last_pass.get((model, half), -1) for half in (0, 1)]
        if self.stack.as_published:
            # Also of all that a refiner reads at the hand-over; guidance comes behind the head.
            rows = len(halves) * B
            tokens = sum(model.scales.tokens[s] for s in scales)
        else:
            rows, tokens = B * (halves[0] == 0), model.scales.tokens[k]
        return Pass(
            model,
            scales,
            halves,
            tuple(self.visit(step, layer, scales, halves) for layer in step.layers),
            model_rows=B * (1 + (ends[1] >= 0)),
            logit_rows=rows,
            logit_tokens=tokens if len(halves) == 1 + step.guided else model.scales.tokens[k],
            is_first=is_first,
            is_last=k == max(ends) and (halves[-1] == 1 or ends[1] < k),
            is_last_unguided=halves[-1] == 1 and ends[1] == k < ends[0],
            bits=step.cache.bits,
        )

    def visit(
        self, step: Step, layer: int, scales: tuple[int, ...], halves: tuple[int, ...]
    ) -> Visit:
        model, (*prefix, k) = step.model, scales
        tokens, here = model.scales.tokens, [(model, half, layer) for half in halves]
        kept = tokens[k]
        if step.prunes(layer) and step.tokens:
            kept = step.tokens.kept(kept)
        added = (*((s, tokens[s]) for s in prefix), (k, kept))
        is_last = all(self.last_visit[h] <= k for h in here)
        heads = []
        for group, spans in enumerate(self.groups_of(model, layer)):
            own = [(model, half, (layer, group)) for half in halves]
            held = self.held[own[0]]
            cut, after = None, held + added
            if not is_last:
                cut, after = _cut(step.cache.of(layer, spans[0][0]), after, k)
            elif self.stack.cache.in_place:  # which has no room for what nobody reads
                after = held
            self.held.update(dict.fromkeys(own, after))
            heads.append(Heads(spans, _tokens(held), _tokens(after), cut))
        conditions = len(halves)
        if self.stack.condition_once:
            guided = (model, 1) in self.last_pass
            conditions = 0 if (model, layer) in self.conditioned else 1 + guided
            self.conditioned.add((model, layer))
        wanted = set.union(*(self.sources[h] for h in here))
        return Visit(
            layer,
            rows=len(halves) * self.batch_size,
            queries=_tokens(added),
            heads=tuple(heads),
            conditions=conditions * self.batch_size,
            prune=step.tokens if kept < tokens[k] else None,
            saves=tuple(s for s, n in added if s in wanted and n == tokens[s]),
        )


def _cut(rule: Rule | None, held: Held, k: int) -> tuple[Spans | Eviction | None, Held]:
    """What a rule leaves of all that is held after scale k, and how."""
    if rule is None:
        return None, held
    if isinstance(rule, Eviction):
        if _tokens(held) <= rule.budget:
            return None, held
        if rule.score != RECENT:
            return rule, ((-1, rule.budget),)
        surplus = _tokens(held) - rule.budget
        return ((surplus, surplus + rule.budget),), _without_first(held, surplus)
    spans, left, start = [(0, 0)], [], 0
    for scale, tokens in held:
        if rule.keeps(scale + 1, k + 1):
            spans.append((start, start + tokens))
            left.append((scale, tokens))
        start += tokens
    return (tuple(spans), tuple(left)) if len(left) < len(held) else (None, held)


def _without_first(held: Held, tokens: int) -> Held:
    left = []
    for scale, count in held:
        gone = min(tokens, count)
        tokens -= gone
        left.append((scale, count - gone))
    return tuple((scale, count) for scale, count in left if count)


def _tokens(held: Held) -> int:
    return sum(tokens for _, tokens in held)


def room(passes: Iterable[Pass], model: VAR) -> dict[Slot, tuple[int, int]]:
    """How many heads, and the most tokens that each of them keeps after a pass.  Of VAR's 680, 424
    in a cache without room for what no later pass reads: two fifths are the last scale's."""
    most: dict[Slot, tuple[int, int]] = {}
    for slot, heads in (found for p in passes if p.model is model for found in p.slots):
        _, tokens = most.get(slot, (0, 0))
        most[slot] = heads.count, max(tokens, heads.kept)
    return most


@dataclass(frozen=True)
class Room:
    """What a cache that is allocated once needs.

    slots: heads, and tokens of each.
    """

    rows: int
    slots: Mapping[Slot, tuple[int, int]]

    @property
    def tokens(self) -> int:
        """Of all rows, layers and heads."""
        return self.rows * sum(heads * tokens for heads, tokens in self.slots.values())


def rooms(passes: Iterable[Pass], model: VAR) -> Iterator[Room]:
    """Of the model's cache; a second one where its unguided half stops before the other."""
    own = [p for p in passes if p.model is model]
    end = next((i for i, p in enumerate(own, 1) if p.is_last_unguided), len(own))
    empty = {slot: (heads, 0) for slot, (heads, _) in room(own, model).items()}
    for part in filter(None, (own[:end], own[end:])):
        yield Room(max(p.row_slice.stop for p in part), empty | room(part, model))
