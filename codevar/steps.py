"""What a plan says of one scale: which model predicts it, with which of its layers, and what is
left out to make it cheaper.

Scales count from 1, layers from 0.  Where a rule names no layers it holds for all of them.  All
raise ValueError, in one line, for what cannot be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from codevar.anchored import HEAD, middle
from codevar.checks import number, one_of, shown, whole
from codevar.eviction import SCORES, observing
from codevar.pruning import RESTORERS, SELECTORS
from codevar.var import VAR, Spans

ANCHORED = ("sparsevar", "sparsevar_random")  # choose once for all layers, and copy anchors
RECENT = "recent"  # the score of a cache that keeps its newest tokens, whatever they are
BITS = (16, 8, 4)  # 16: as they are
WEIGHT_BITS = (16, "W8A16", "W8A8")  # of weights and activations; 16: as they are


@dataclass(frozen=True)
class Tokens:
    """Only a share of the map goes through a layer's two branches; the others get what a restorer
    says.

    drop: share of the tokens that is left out.
    selector: which stay: one of `codevar.pruning.SELECTORS`, or of ANCHORED (`codevar.anchored`).
    restore_from: the scale whose output of the same branch, enlarged, the others get; None: zeros.
        Of ANCHORED the scale that says which stay, and which anchor the others copy.
    restorer: what enlarges it: one of `codevar.pruning.RESTORERS`.
    """

    drop: float
    selector: str = "fastvar"
    restore_from: int | None = None
    layers: tuple[int, ...] | None = None
    restorer: str = "area"

    def __post_init__(self) -> None:
        if not 0 <= number("drop", self.drop) < 1:
            raise ValueError(f"drop must be at least 0 and below 1, not {self.drop}")
        one_of("selector", self.selector, (*SELECTORS, *ANCHORED))
        one_of("restorer", self.restorer, RESTORERS)
        if self.anchored and self.restore_from is None:
            raise ValueError(f"{self.selector} looks back at a scale: say which, restore_from")
        if self.anchored and self.layers is not None:
            raise ValueError(f"{self.selector} leaves tokens out of all layers, not of some")

    @property
    def anchored(self) -> bool:
        """Whether one choice holds for all layers, and what is left out copies an anchor."""
        return self.selector in ANCHORED

    def kept(self, tokens: int) -> int:
        """Of a map of so many tokens."""
        return tokens - int(self.drop * tokens)


@dataclass(frozen=True)
class Window:
    """After the scale a layer keeps the pyramid's first scales and the last up to this one."""

    first: int
    last: int
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            if whole(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} must be 0 or more scales, not {getattr(self, name)}")

    def keeps(self, scale: int, now: int) -> bool:
        """Whether a scale stays after scale `now`."""
        return scale <= self.first or scale > now - self.last


@dataclass(frozen=True)
class Eviction:
    """After the scale a layer keeps at most so many tokens a row and head: those of the highest
    score, one of `codevar.eviction.SCORES` or RECENT.

    heads: of the layers; None: all.
    """

    budget: int
    score: str = "observed"
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        one_of("score", self.score, (*SCORES, RECENT))
        least = self.observers + 1 if self.observers_stay else 1
        if whole("budget", self.budget) < least:
            raise ValueError(f"budget must be {least} tokens or more, not {self.budget}")

    @property
    def observers(self) -> int:
        """Tokens of the map whose attention is the score, at most."""
        return observing(self.score)

    @property
    def observers_stay(self) -> bool:
        """Whether these tokens stay in any case."""
        return self.score.startswith("observed")


Rule = Window | Eviction


@dataclass(frozen=True)
class CacheRules:
    """What is kept of keys and values after a scale: all, or what the last of the rules that names
    the layer and the head says, in so many bits a number."""

    rules: tuple[Rule, ...] = ()
    bits: int = 16

    def __post_init__(self) -> None:
        one_of("bits", self.bits, BITS)

    def of(self, layer: int, head: int = 0) -> Rule | None:
        """The rule of a layer's head, if there is one."""
        return next((rule for rule in reversed(self.rules) if holds(rule, layer, head)), None)


@dataclass(frozen=True)
class Step:
    """What predicts one scale, and how.

    guided: whether the half of the batch without a class runs.
    skip: the scale predicts nothing: no token, and nothing is added to the image.
    """

    model: VAR
    layers: tuple[int, ...]
    guided: bool = True
    tokens: Tokens | None = None
    cache: CacheRules = CacheRules()
    skip: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, VAR):
            raise ValueError(f"a step's model must be a VAR, not {shown(self.model)}")
        object.__setattr__(self, "layers", numbers("layers", self.layers))
        known = range(self.model.config.depth)
        rising = list(self.layers) == sorted(set(self.layers))
        if not self.layers or not rising or not set(self.layers) <= set(known):
            raise ValueError(f"layers must rise within 0..{known[-1]}, not {self.layers}")
        for layer in filter(self.prunes, self.layers):
            rules = (self.cache.of(layer, head) for head in range(self.model.config.heads))
            if any(isinstance(rule, Eviction) and rule.observers for rule in rules):
                raise ValueError(f"layer {layer} is pruned, so its cache cannot be observed")

    @property
    def sources(self) -> tuple[int, ...]:
        """Layers whose branches' output at an earlier scale is needed; HEAD stands for what the
        head read."""
        if self.tokens and self.tokens.anchored and self.tokens.drop > 0:
            return (HEAD, *middle(self.model.config.depth))
        return tuple(layer for layer in self.layers if self.prunes(layer))

    def prunes(self, layer: int) -> bool:
        """Whether only a part of the tokens goes through the layer."""
        return self.tokens is not None and self.tokens.drop > 0 and holds(self.tokens, layer)


def holds(rule: Tokens | Rule, layer: int, head: int | None = None) -> bool:
    """Whether the rule is one for this layer and, if one is asked for, this head of it."""
    heads = rule.heads if isinstance(rule, Eviction) and head is not None else None
    return (rule.layers is None or layer in rule.layers) and (heads is None or head in heads)


def head_groups(steps: Iterable[Step], model: VAR, layer: int) -> tuple[Spans, ...]:
    """Of a layer the heads that have the same rule at every step of the model."""
    steps, every = [step for step in steps if step.model is model], range(model.config.heads)
    caches = [CacheRules(tuple(r for r in s.cache.rules if holds(r, layer))) for s in steps]
    if not any(isinstance(r, Eviction) and r.heads for cache in caches for r in cache.rules):
        return (((0, len(every)),),)
    alike: dict[tuple[Rule | None, ...], list[int]] = defaultdict(list)
    for head in every:
        alike[tuple(cache.of(layer, head) for cache in caches)].append(head)
    return tuple(tuple((head, head + 1) for head in heads) for heads in alike.values())


def numbers(name: str, values: Iterable[int]) -> tuple[int, ...]:
    """The whole numbers of a list."""
    try:
        found = tuple(values)
    except TypeError:
        raise ValueError(f"{name} must be a list of whole numbers, not {shown(values)}") from None
    return tuple(whole(f"each of the {name}", value) for value in found)


def equidistant(layers: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """`depth` of the layers, evenly spread, first and last among them (VARiant, Eq. 2)."""
    depth = whole("subnet depth", depth)
    if not 2 <= depth <= len(layers):
        raise ValueError(f"subnet depth must be 2..{len(layers)}, not {depth}")
    return tuple(layers[i * (len(layers) - 1) // (depth - 1)] for i in range(depth))
