"""Where a case's latency over time goes to another level and stays there."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import ruptures

LEAST = 0.03  # a smaller change of level is not told
FEWEST = 10  # values of a series; of fewer nothing is said
STAYS = 3  # values that a level has at the least
#: Penalty of a change, in log(n) variances of the noise.  Simulated (`tests/tables/
#: test_level_changes.py`): at most 2 % of steady series of 30 runs are told to change.
PENALTY = 8


@dataclass(frozen=True)
class LevelChange:
    """at: index of the first value of the new level.  change: of the level, 0.1 for 10 % slower."""

    at: int
    change: float


def level_changes(latencies: Sequence[float]) -> list[LevelChange]:
    """Changes of level by PELT (Killick et al. 2012, `ruptures`) on the logarithms, whose noise is
    the median of their differences."""
    n = len(latencies)
    if n < FEWEST:
        return []
    logs = np.log(np.asarray(latencies, float))
    noise = 1.4826 * np.median(np.abs(np.diff(logs) - np.median(np.diff(logs)))) / np.sqrt(2)
    penalty = PENALTY * np.log(n) * max(noise, 1e-4) ** 2
    search = ruptures.Pelt(model="l2", min_size=STAYS, jump=1).fit(logs[:, None])
    edges = [0, *search.predict(pen=penalty)]
    levels = [float(np.median(logs[a:b])) for a, b in pairwise(edges)]
    found = [
        LevelChange(at, float(np.expm1(after - before)))
        for at, before, after in zip(edges[1:], levels, levels[1:], strict=False)
    ]
    return [one for one in found if abs(one.change) >= LEAST]
