"""Does measuring change what is measured?  `bench.py selfcheck` answers for this machine."""

import itertools
import statistics
import time
from dataclasses import dataclass

import torch

import codevar
from bench.measure.card import make_current
from bench.measure.timing import Marks, median_interval
from codevar import PRESETS
from codevar.decoding import generate
from codevar.plan import original
from codevar.stacks import stack

LIMIT = 0.01
LOOK = 30  # pairs


@dataclass(frozen=True)
class Selfcheck:
    """overhead: latency with a mark at every scale over latency without, less 1, median of
    pairs, and its 95 % interval.  missing: what the sum of the scales lacks of the total, as a
    share, median.  clock_s: the smallest step of the clock that was seen."""

    pairs: int
    overhead: float
    overhead_interval: tuple[float, float]
    missing: float
    clock_s: float

    @property
    def verdict(self) -> str:
        """ "passed", "failed", or "undecided" where the machine is too noisy to tell 1 %."""
        low, high = self.overhead_interval
        if low > LIMIT or abs(self.missing) > LIMIT:
            return "failed"
        return "passed" if low > -LIMIT and high < LIMIT else "undecided"


def selfcheck(device: torch.device, depth: int, pairs: int) -> Selfcheck:
    """Decodes VAR-d`depth` (random weights) in pairs, with the marks and without, whichever
    comes first changing from pair to pair, so that a drifting machine cancels out.  At most
    `pairs` of them; every LOOK it ends if they have decided."""
    make_current(device)
    var = codevar.load_var(f"seeded:var_d{depth}", device=device)
    vqvae = codevar.load_vqvae("seeded:vae_ch160v4096z32", device=device)
    plan, how = original(var), stack("modern")

    def decode(on_scale) -> float:
        synchronize(device)
        began = time.perf_counter()
        generate(plan, vqvae, [0], PRESETS["var"], 0, how, on_scale=on_scale)
        synchronize(device)
        return time.perf_counter() - began

    def marked() -> tuple[float, float]:
        marks = Marks(device)
        total = decode(marks)
        return total, sum(marks.seconds())

    decode(lambda k: None)
    ratios, missing = [], []
    for i in range(1, pairs + 1):
        if i % 2:
            plain, (total, scales) = decode(lambda k: None), marked()
        else:
            (total, scales), plain = marked(), decode(lambda k: None)
        ratios.append(total / plain - 1)
        missing.append(1 - scales / total)
        found = Selfcheck(
            pairs=i,
            overhead=statistics.median(ratios),
            overhead_interval=median_interval(ratios),
            missing=statistics.median(missing),
            clock_s=clock_step(),
        )
        if i % LOOK == 0 and found.verdict != "undecided":
            break
    return found


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock_step(readings: int = 10000) -> float:
    """Seconds of the smallest step between readings of the clock."""
    times = [time.perf_counter() for _ in range(readings)]
    return min(b - a for a, b in itertools.pairwise(times) if b > a)
