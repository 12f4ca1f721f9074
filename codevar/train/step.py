"""Where a run is: everything that is random in training is a function of this.

No generator is carried from step to step, so a run that is resumed draws what it would have
drawn, and so do two processes that share a batch.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Step:
    """One optimiser step, as the part of its batch that one forward sees.

    number: from 0.  steps: of the whole run.
    batch_size: of the step, over all processes and micro-batches.  rows: of this forward.
    """

    number: int
    steps: int
    seed: int
    batch_size: int
    rows: range

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last."""
        return self.number / max(1, self.steps - 1)

    @property
    def examples(self) -> range:
        """The rows, counted from the start of the run."""
        start = self.number * self.batch_size
        return range(start + self.rows.start, start + self.rows.stop)

    def draw(self, what: str) -> np.random.Generator:
        """A generator for one purpose, the same in every part of the step."""
        return np.random.default_rng([self.seed, self.number, *what.encode()])

    def uniform(self, what: str) -> np.ndarray:
        """(rows,) uniform in [0, 1): each row of the batch has its own number, however the
        batch is split."""
        return self.draw(what).random(self.batch_size)[self.rows.start : self.rows.stop]
