"""How tokens are drawn: the settings of every scale, checked.  Without torch, so that an experiment
file is checked at once; `codevar.sampling` does as they say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Any

from codevar.checks import shown
from codevar.scales import Scales

if TYPE_CHECKING:
    from codevar.sampling import ScaleSampling


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.  Every number may also be a sequence of one number per scale.

    cfg: guidance, logits = (1 + t_k) * cond - t_k * uncond at scale k.
    cfg_ramp: whether t_k = cfg * k / (K - 1), k from 0, as the papers have it, or cfg itself; by
        default one number is a ramp, and a sequence gives each t_k.
    top_k: keep the k best codes; 0, or more than there are, keeps all.
    top_p: of those keep the smallest set whose probability exceeds p; 0 keeps all.
    temperature: divides the filtered logits.
    more_smooth: feed the next scale Gumbel-softmax mixtures of codes instead of the codes
        (VAR's option for pictures; it makes FID worse).

    The defaults are VAR's own evaluation.  Raises ValueError for impossible values.
    """

    cfg: float | Sequence[float] = 1.5
    top_k: int | Sequence[int] = 900
    top_p: float | Sequence[float] = 0.96
    temperature: float | Sequence[float] = 1.0
    more_smooth: bool = False
    cfg_ramp: bool | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, field.name, tuple(value))
        self._check("cfg", "at least 0", lambda t: 0 <= t < math.inf)
        self._check("top_k", "a whole number, 0 or more", lambda k: k >= 0 and k % 1 == 0)
        self._check("top_p", "between 0 and 1", lambda p: 0 <= p <= 1)
        self._check("temperature", "above 0", lambda t: 0 < t < math.inf)
        if self.cfg_ramp not in (None, True, False):
            raise ValueError(f"cfg_ramp must be True or False, not {shown(self.cfg_ramp)}")
        if not isinstance(self.more_smooth, bool):
            raise ValueError(f"more_smooth must be True or False, not {shown(self.more_smooth)}")

    def _check(self, name, wanted, holds) -> None:
        value = getattr(self, name)
        for v in value if isinstance(value, tuple) else (value,):
            if not isinstance(v, Real):
                raise ValueError(f"{name} must be a number or a list of them, not {shown(value)}")
            if not holds(v):
                raise ValueError(f"{name} must be {wanted}, not {v}")

    def at(self, k: int, scales: Scales) -> ScaleSampling:
        """The numbers of scale k (0-based).

        Raises ValueError if a sequence has another length than there are scales.
        """

        from codevar.sampling import ScaleSampling

        def pick(name: str):
            value = getattr(self, name)
            if not isinstance(value, tuple):
                return value
            if len(value) != scales.K:
                raise ValueError(f"{name} has {len(value)} values for {scales.K} scales")
            return value[k]

        ramps = not isinstance(self.cfg, tuple) if self.cfg_ramp is None else self.cfg_ramp
        ramp = scales.ratio(k) if ramps else 1.0
        return ScaleSampling(
            guidance=ramp * pick("cfg"),
            top_k=int(pick("top_k")),
            top_p=pick("top_p"),
            temperature=pick("temperature"),
            ratio=scales.ratio(k),
        )

    def numbers(self, scales: Scales, vocab: int) -> dict[str, Any]:
        """What the settings come to, a number for each scale: guidance with its ramp, and of
        top_k what is left of it where there are fewer codes, or where it is 0."""
        at = [self.at(k, scales) for k in range(scales.K)]
        return {
            "cfg": [s.guidance for s in at],
            "top_k": [min(s.top_k or vocab, vocab) for s in at],
            "top_p": [s.top_p for s in at],
            "temperature": [s.temperature for s in at],
            "more_smooth": self.more_smooth,
        }


#: The settings behind the papers' published quality figures, and the mini world's.
PRESETS = {
    "var": Sampling(cfg=1.5, top_k=900, top_p=0.96),
    "code": Sampling(cfg=1.5, top_k=600, top_p=0.96, temperature=(1.1,) * 7 + (1.0,) * 3),
    "mini": Sampling(cfg=1.5, top_k=0, top_p=0.96),
}
