"""What one layer sees of the decode in one pass: its cache, and what is left out of it.

Shapes: B rows of the batch, H heads, n tokens of the pass, l of the map that it predicts, k of
them that are kept, L cached, c per head, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from codevar import eviction, pruning
from codevar.cache import Cache, Parts
from codevar.noise import hashed
from codevar.steps import Eviction
from codevar.var import Spans, spans_of
from codevar.work import Pass, Slot, Visit

#: Outputs of a layer's branch for a map, kept to restore from: by (layer, branch, scale).
Sources = dict[tuple[int, int, int], torch.Tensor]
#: Where, what is held there, and what of it stays: spans of tokens, or positions (B, H, n).
Cut = tuple[Slot, Parts, Spans | torch.Tensor]


@dataclass
class LayerRun:
    """One visit, for some rows of the batch.

    rows: which.  salt: what tells the images of all rows apart, for random choices.
    sources: what the model's layers keep to restore from, for all its rows.
    chosen_Bk: of these rows the tokens that go through all layers alike, if that is how.
    """

    reading: Pass
    visit: Visit
    rows: slice
    cache: Cache
    sources: Sources
    salt: Callable[[], torch.Tensor]
    chosen_Bk: torch.Tensor | None = None
    _cuts: list[Cut] = field(default_factory=list)

    @property
    def prunes(self) -> bool:
        """Whether some tokens are left out of the branches."""
        return self.visit.prune is not None

    def append(
        self, q_BHlc: torch.Tensor, k_BHlc: torch.Tensor, v_BHlc: torch.Tensor, scale: float
    ) -> list[tuple[Spans, Parts]]:
        """All keys and values (B, H, L, c) of the layer, this pass added: of heads that keep the
        same together, and which they are.

        scale: of the products of queries and keys.
        """
        found = []
        for slot, heads in self.visit.slots:
            q, k, v = (spans_of(x, heads.spans, 1) for x in (q_BHlc, k_BHlc, v_BHlc))
            parts, held = self.cache.append(slot, heads, self.rows, k, v)
            how: Spans | torch.Tensor | None
            if isinstance(heads.cut, Eviction):
                how = self._chosen(heads.cut, q, parts[0], scale)
            else:
                how = heads.cut
            if how is not None:
                self._cuts.append((slot, held, how))
            found.append((heads.spans, parts))
        return found

    def cut(self) -> None:
        """Leaves in the cache what the visit keeps; once attention is done with all."""
        for slot, held, how in self._cuts:
            if isinstance(how, torch.Tensor):
                at_BHn1 = how[..., None]
                left = tuple(t.gather(2, at_BHn1.expand(-1, -1, -1, t.shape[-1])) for t in held)
            else:
                left = tuple(spans_of(t, how, 2) for t in held)
            self.cache.write(slot, self.rows, left)
        self._cuts.clear()

    def _chosen(
        self, rule: Eviction, q_BHlc: torch.Tensor, k_BHLc: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """(B, H, n) positions of the keys that stay."""
        _, heads, keys, _ = k_BHLc.shape
        map_tokens = self.reading.maps[-1]
        scales = self.reading.model.scales
        of_map_o = eviction.observers(
            rule.score, scales.patch_sizes[self.reading.scale], q_BHlc.device
        )
        q_BHoc = q_BHlc.index_select(2, of_map_o + q_BHlc.shape[2] - map_tokens) * scale
        seen_o = of_map_o + keys - map_tokens

        def chance() -> torch.Tensor:
            about = self.visit.layer, self.reading.scale, heads
            return hashed(self.salt()[self.rows], about, heads * keys).unflatten(-1, (heads, keys))

        ends = sum(scales.tokens[:2]), map_tokens
        of = eviction.Keys(k_BHLc, q_BHoc, seen_o, chance, ends)
        stay_o = seen_o if rule.observers_stay else seen_o[:0]
        return eviction.chosen(eviction.SCORES[rule.score](of), stay_o, rule.budget)

    def select(self, x_BnC: torch.Tensor, branch: int) -> torch.Tensor:
        """(B, queries) the tokens that go through a branch: a prefix whole, and of the map the
        kept ones."""
        assert self.visit.prune is not None
        B, n, _ = x_BnC.shape
        length = self.reading.maps[-1]
        prefix, kept = n - length, self.visit.queries - (n - length)
        if self.chosen_Bk is not None:
            kept_Bk = self.chosen_Bk
        else:
            about = self.visit.layer, self.reading.scale, branch
            chance = lambda: hashed(self.salt()[self.rows], about, length)  # noqa: E731
            select = pruning.SELECTORS[self.visit.prune.selector]
            kept_Bk = select(x_BnC[:, prefix:], kept, chance)
        first_Bp = torch.arange(prefix, device=x_BnC.device).expand(B, -1)
        return torch.cat((first_Bp, kept_Bk + prefix), dim=1)

    def restore(self, out_BkC: torch.Tensor, kept_Bk: torch.Tensor, branch: int) -> torch.Tensor:
        """(B, n, C) a branch's output for all tokens, from that for some."""
        assert self.visit.prune is not None
        B, _, C = out_BkC.shape
        prefix, length = sum(self.reading.maps[:-1]), self.reading.maps[-1]
        self._save(out_BkC, branch)
        source = self.visit.prune.restore_from
        if source is None or self.chosen_Bk is not None:
            full_BnC = out_BkC.new_zeros(B, prefix + length, C)
        else:
            of_map = self.sources[self.visit.layer, branch, source - 1][self.rows]
            full_BnC = pruning.RESTORERS[self.visit.prune.restorer](of_map, length)
            if prefix:
                full_BnC = torch.nn.functional.pad(full_BnC, (0, 0, prefix, 0))
        return pruning.put(full_BnC, kept_Bk, out_BkC)

    def save(self, out_BnC: torch.Tensor, gamma_B1C: torch.Tensor, branch: int) -> None:
        """Keeps a branch's output, gated, for the maps that a later visit restores from."""
        if self.visit.saves:
            self._save(out_BnC * gamma_B1C, branch)

    def _save(self, gated_BnC: torch.Tensor, branch: int) -> None:
        start = 0
        for scale, tokens in zip(self.reading.scales, self.reading.maps, strict=True):
            of_map_BmC = gated_BnC[:, start : start + tokens]
            if scale in self.visit.saves:
                key = self.visit.layer, branch, scale
                if key not in self.sources:
                    rows = self.cache.room.rows
                    self.sources[key] = of_map_BmC.new_empty(rows, *of_map_BmC.shape[1:])
                self.sources[key][self.rows] = of_map_BmC
            start += tokens
