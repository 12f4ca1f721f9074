"""A case's share of a sweep's time."""

from collections import Counter
from dataclasses import dataclass, field

from bench.predict.prediction import prediction_or_none
from bench.study.cases import Case
from bench.study.experiment import Sweep


@dataclass(eq=False)
class Family:
    """Cases that one slot measures in turn, all their rounds: the unit that goes to a machine.

    A speed-up is the ratio of the same round of a case and of its baseline (`bench.summary`), and
    it cancels a drift only if both ran on the same card in turn.  So a baseline and all cases that
    are compared with it stay together.  All their rounds do too: every other one goes backwards
    against the drift of *that* card, and the spread between rounds is to say what processes differ
    by, as in a run on one machine, and not what two cards differ by.

    The price is that a sweep takes no less time than its largest family.  With `paired` a case
    has its baseline in its own process, and every case is a family of its own.

    on: the kind of machine it is for, as in `--on`.  deaths: of workers, under each of its
    measurements.  shunned: ids of the nodes where that was.
    """

    on: str
    cases: list[Case]
    deaths: Counter[tuple[str, int]] = field(default_factory=Counter)
    shunned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.keys = {case.key for case in self.cases}

    @property
    def need_bytes(self) -> int:
        """Most that one of its cases needs."""
        known = filter(None, map(prediction_or_none, self.cases))
        return max((told.need_bytes for told in known), default=0)


def families(sweep: Sweep, on: str) -> list[Family]:
    """The sweep's cases by baseline, those with most work first, so that none is left over when
    all else is done."""
    found: dict[str, list[Case]] = {}
    for case in sweep.cases:
        base = None if sweep.experiment.paired else sweep.baseline_case(case)
        found.setdefault((base or case).key, []).append(case)
    by_work = sorted(found.values(), key=lambda cases: -sum(map(work, cases)))
    return [Family(on, cases) for cases in by_work]


def work(case: Case) -> float:
    """Its share of a sweep's time."""
    told = prediction_or_none(case)
    return sum(told.flops if told else ()) + START_UP_FLOPS


# A case's share of a sweep's time, in FLOPs: its decodes, and a process that starts and loads.
START_UP_FLOPS = 2e12
