"""Key/value caches of one model during one decode.

What a pass keeps is counted by `codevar.work`, so no cache counts on its own.

Shapes: R rows of the batch, H heads, l new tokens, L cached, c per head.  A layer's parts are
tensors (R, H, L, *): its keys and values or, in few bits, codes and factors of each.  Heads that
keep different tokens are apart: a slot is a layer and a group of its heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from codevar.config import VARConfig

if TYPE_CHECKING:
    from codevar.work import Heads, Room, Slot

Parts = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Form:
    """How a cache keeps numbers: in bits, with a factor for each token and head, or as they are.

    dtype: of attention.  bits: 16 (as they are), 8 or 4.
    """

    dtype: torch.dtype
    bits: int = 16

    def packed(self, k_BHlc: torch.Tensor, v_BHlc: torch.Tensor) -> Parts:
        """What is kept of keys and values."""
        if self.bits == 16:
            return k_BHlc, v_BHlc
        return *quantised(k_BHlc, self.bits), *quantised(v_BHlc, self.bits)

    def unpacked(self, parts: Parts) -> Parts:
        """Keys and values of what is kept."""
        if self.bits == 16 or not parts:
            return parts
        k_codes, k_factor, v_codes, v_factor = parts
        k_BHLc = restored(k_codes, k_factor, self.bits)
        v_BHLc = restored(v_codes, v_factor, self.bits)
        return k_BHLc.to(self.dtype), v_BHLc.to(self.dtype)

    def token_bytes(self, config: VARConfig) -> int:
        """Of a token's key and value in a head, in few bits."""
        return 2 * (config.width // config.heads * self.bits // 8 + 4)


def quantised(x_BHlc: torch.Tensor, bits: int) -> Parts:
    """Whole numbers (B, H, l, c), symmetric about 0, two in a byte where they have 4 bits; and the
    float32 factor (B, H, l, 1) of each token and head."""
    most = 2 ** (bits - 1) - 1
    x_BHlc = x_BHlc.float()
    factor_BHl1 = x_BHlc.abs().amax(dim=-1, keepdim=True).div_(most).clamp_min_(1e-30)
    codes_BHlc = (x_BHlc / factor_BHl1).round_().to(torch.int8)
    if bits == 4:
        low, high = (codes_BHlc + 8).view(torch.uint8).chunk(2, dim=-1)
        return low | high << 4, factor_BHl1
    return codes_BHlc, factor_BHl1


def restored(codes_BHlc: torch.Tensor, factor_BHl1: torch.Tensor, bits: int) -> torch.Tensor:
    """(B, H, l, c) float32 of `quantised`."""
    if bits == 4:
        both = torch.cat((codes_BHlc & 15, codes_BHlc >> 4), dim=-1)
        return (both.float() - 8).mul_(factor_BHl1)
    return codes_BHlc * factor_BHl1


def joined(one: Parts, other: Parts, dim: int = 2) -> Parts:
    """Of tokens (dim 2) or rows (dim 0), those of one, then those of the other."""
    if not one:
        return other
    return tuple(torch.cat(both, dim) for both in zip(one, other, strict=True))


class Cache(ABC):
    """What a model's layers hold.

    in_place: whether memory is allocated once, for what a later pass reads, and rows may come in
        chunks; a cache that is not keeps all that is appended.
    """

    in_place: ClassVar[bool]

    def __init__(self, form: Form, room: Room) -> None:
        """room: for what a cache that is allocated once is allocated."""
        self.form, self.room = form, room

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Held at present."""

    def append(
        self, slot: Slot, heads: Heads, rows: slice, k_BHlc: torch.Tensor, v_BHlc: torch.Tensor
    ) -> tuple[Parts, Parts]:
        """Adds a pass.

        rows: of the batch, those that these are.
        Returns all keys and values of the heads, and the parts that are to be cut after the visit.
        """
        if self.in_place:
            k_BHlc, v_BHlc = k_BHlc.to(self.form.dtype), v_BHlc.to(self.form.dtype)
        new = self.form.packed(k_BHlc, v_BHlc)
        self.allocate(new)
        past = self.read(slot, rows, heads.past)
        if heads.kept == heads.past + k_BHlc.shape[2]:
            parts = self.extend(slot, rows, past, new)
        else:
            parts = joined(past, new)
        if self.form.bits == 16:
            return parts, parts
        return joined(self.form.unpacked(past), (k_BHlc, v_BHlc)), parts

    def another(self, room: Room) -> Cache:
        """One that holds nothing, with memory for the room if this one has its own."""
        return type(self)(self.form, room)

    @abstractmethod
    def allocate(self, like: Parts) -> None:
        """Memory for all layers, if it is allocated once."""

    @abstractmethod
    def read(self, slot: Slot, rows: slice, tokens: int) -> Parts:
        """What these rows hold, so many tokens; () for none."""

    @abstractmethod
    def extend(self, slot: Slot, rows: slice, past: Parts, new: Parts) -> Parts:
        """Adds the new; returns all that these rows then hold."""

    @abstractmethod
    def write(self, slot: Slot, rows: slice, parts: Parts) -> None:
        """From now on these rows hold this and nothing else."""

    @abstractmethod
    def release(self, room: Room) -> None:
        """Gives back the last rows, and goes on with this room."""


class GrowingCache(Cache):
    """As the papers measured it: each pass concatenates, keys and values keep the precision
    they came in (float32 keys and half-precision values under autocast)."""

    in_place = False

    def __init__(self, form, room):
        super().__init__(form, room)
        #: By slot, then by rows (first, behind the last): all, or each half of the batch.
        self._parts: dict[Slot, dict[tuple[int, int], Parts]] = defaultdict(dict)

    @property
    def nbytes(self):
        """Bytes that all layers hold now."""
        slots = self._parts.values()
        return sum(t.nbytes for held in slots for parts in held.values() for t in parts)

    def allocate(self, like):
        """Nothing: each pass brings its own."""

    def read(self, slot, rows, tokens):
        """The slot's keys and values of `rows`; a half is split off where both halves were one
        tensor."""
        held, wanted = self._parts[slot], (rows.start, rows.stop)
        half = rows.stop // 2
        if tokens == 0:
            return ()
        if wanted not in held and len(held) == 1:  # a half of what was one
            (whole,) = held.values()
            half = len(whole[0]) // 2
            self._parts[slot] = {
                (first, first + half): tuple(t[first : first + half].clone() for t in whole)
                for first in (0, half)
            }
        elif wanted not in held:
            self._parts[slot] = {wanted: joined(held[0, half], held[half, rows.stop], dim=0)}
        return self._parts[slot][wanted]

    def extend(self, slot, rows, past, new):
        """Past and new, joined in a new tensor, which is what the slot keeps."""
        parts = joined(past, new)
        self.write(slot, rows, parts)
        return parts

    def write(self, slot, rows, parts):
        """Let `parts` be all that the slot holds of `rows`."""
        key = rows.start, rows.stop
        self._parts[slot].pop(key, None)
        if parts[0].shape[2]:
            self._parts[slot][key] = parts

    def release(self, room):
        """Keep of each slot what `room` has rows and tokens for."""
        for slot, held in self._parts.items():
            for rows, parts in held.items():
                if rows[1] > room.rows:  # a copy, or the others would stay alive with it
                    parts = tuple(tensor[: room.rows].clone() for tensor in parts)
                if rows[0] == 0:
                    self._parts[slot] = {(0, room.rows): parts}


class StaticCache(Cache):
    """Allocated once and written in place, with room for what a later pass reads again.  A layer's
    last pass only joins it for as long as it attends, and so does what is cut."""

    in_place = True

    def __init__(self, form, room):
        super().__init__(form, room)
        self._parts: dict[Slot, Parts] = {}

    @property
    def nbytes(self):
        """Bytes allocated, filled or not."""
        return sum(tensor.nbytes for parts in self._parts.values() for tensor in parts)

    def allocate(self, like):
        """Allocate room for all tokens, once."""
        if not self._parts:
            self._parts = {slot: self._empty(slot, like) for slot in self.room.slots}

    def another(self, room):
        """Memory for the room, of the kind that this one has."""
        made = super().another(room)
        made.allocate(next(iter(self._parts.values())))
        return made

    def _empty(self, slot: Slot, like: Parts) -> Parts:
        shape = self.room.rows, *self.room.slots[slot]
        return tuple(t.new_empty(*shape, t.shape[3]) for t in like)

    def read(self, slot, rows, tokens):
        """A view of the first `tokens` of the slot's rows."""
        return tuple(t[rows, :, :tokens] for t in self._parts[slot]) if tokens else ()

    def extend(self, slot, rows, past, new):
        """Write the new tokens in place behind the past, and return a view of both."""
        start = past[0].shape[2] if past else 0
        parts = self.read(slot, rows, start + new[0].shape[2])
        for all_tokens, added in zip(parts, new, strict=True):
            all_tokens[:, :, start:] = added
        return parts

    def write(self, slot, rows, parts):
        """Write `parts` over the slot's first tokens, in place."""
        for held, tensor in zip(self._parts[slot], parts, strict=True):
            held[rows, :, : tensor.shape[2]] = tensor

    def release(self, room):
        """Move what `room` keeps into smaller tensors, and free the old ones."""
        self.room = room
        for slot, old in self._parts.items():
            self._parts[slot] = self._empty(slot, old)
            for t_new, t_old in zip(self._parts[slot], old, strict=True):
                both = min(t_new.shape[2], t_old.shape[2])
                t_new[:, :, :both] = t_old[: room.rows, :, :both]
