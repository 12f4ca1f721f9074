"""What is worth measuring on a new machine, the most worth first: `items`, and `jobs` of them.

An item is useful if the next never comes.  Its cases are those of experiments (`cuda.toml`,
`cpu.toml`); what an earlier item has measured a later one shares.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bench.study import experiment
from bench.study.cases import Case
from bench.study.experiment import Experiment, Sweep
from bench.study.folders import CODE

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Item:
    """One line of the list.

    tasks: what is no case, see `tasks`.  cases: as the file has them.  effort: how its cases are
    measured otherwise than others; of a case with a stream, a second round is measured.
    """

    letter: str
    title: str
    tasks: Sequence[str] = ()
    cases: Sequence[str] = ()
    effort: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What is measured at once, in one go.

    item: letter of its item.  task: "case", or what it is else.  about: what a task is about.
    essential: what a session of a few minutes is to come to: nothing else may take its time.
    baseline: with which the case takes turns.
    """

    item: str
    task: str
    about: str = ""
    case: Case | None = None
    round: int = 1
    effort: Mapping[str, Any] = field(default_factory=dict)
    essential: bool = False
    baseline: Case | None = None

    @property
    def key(self) -> str:
        """The same in every session."""
        return f"{self.case.key}-{self.round}" if self.case else f"{self.task} {self.about}".strip()

    @property
    def title(self) -> str:
        """In words."""
        if self.case is None:
            return self.key
        case = self.case
        said = f"{case.label}, batch {case.batch_size}, {case.stack} {case.precision}"
        for name in ("attention", "memory_limit_gib"):
            if (value := getattr(case, name)) not in ("auto", None):
                said += f", {name.removesuffix('_gib').replace('_', ' ')} {value}"
        return said + (", stream" if self.effort.get("stream_seconds") else "")


@functools.cache
def told(kind: Kind) -> dict[str, Any]:
    """What the file of a kind of device says: how thoroughly to measure, what, in which order."""
    return tomllib.loads(Path(__file__).with_name(f"{kind}.toml").read_text("utf-8"))


def precisions(kind: Kind, bf16: bool = True) -> dict[str, str]:
    """What each stack runs in.  bf16: whether the device has it."""
    half = "bf16" if bf16 else "fp16"
    return {stack: name.replace("half", half) for stack, name in told(kind)["precision"].items()}


def items(kind: Kind) -> list[Item]:
    """The list for a kind of device."""
    return [Item(**item) for item in told(kind)["items"]]


def sources(item: Item, kind: Kind, bf16: bool) -> Iterator[tuple[str, list[str]]]:
    """The experiments that an item's cases are of, each with its changes, as by `--set`."""
    lists, in_stack = told(kind)["lists"], precisions(kind, bf16)
    for line in item.cases:
        name, *changes = line.split()
        stacks = [change.removeprefix("stack=") for change in changes if "stack=" in change]
        changes += [f"precision={in_stack[stack]}" for stack in stacks]
        for words in lists.get(name, [name]):
            source, *own = words.split()
            yield source, [*own, *changes]


def gpu_tests() -> list[str]:
    """A task for each file with tests that are marked gpu."""
    marked = re.compile(r"^(pytestmark = |@)pytest\.mark\.gpu\b", re.MULTILINE)
    files = sorted((CODE / "tests").rglob("test_*.py"))
    found = [file.relative_to(CODE) for file in files if marked.search(file.read_text())]
    return [f"tests {Path(file).as_posix()}" for file in found]


def kind_of(device: str) -> Kind:
    """Which list of items a device gets."""
    return "cpu" if device == "cpu" else "cuda"


def jobs(device: str, bf16: bool = True) -> tuple[Sweep, list[Job]]:
    """The list for a device ("cpu", "cuda", "cuda:1"), each case once, and all as one sweep."""
    kind = kind_of(device)
    cases: dict[str, Case] = {}
    found: list[Job] = []
    for item in items(kind):
        for task in gpu_tests() if "tests" in item.tasks else item.tasks:
            name, _, about = task.partition(" ")
            found.append(Job(item.letter, name, about, essential=name in ("smoke", "ceilings")))
        stream = bool(item.effort.get("stream_seconds"))
        for source, changes in sources(item, kind, bf16):
            for case in experiment.load(source, changes, device).cases:
                if case.key not in cases or stream:
                    effort = item.effort if case.has_scales else {}
                    round_ = 1 + (stream and case.key in cases)
                    found.append(Job(item.letter, "case", "", case, round_, effort))
                cases[case.key] = case
    blocks = [{"method": c.method, **c.model_dump(exclude_defaults=True)} for c in cases.values()]
    sweep = Sweep(
        "profile",
        Experiment.model_validate(
            {
                "title": "Profile: VAR, CoDe and VARiant on this machine",
                "baseline": {"method": "var"},
                "figures": ["speed", "scales", "memory", "batch"],
                "cases": blocks,
                **told(kind)["effort"],
            }
        ),
        "profile",
        device,
    )
    return sweep, [with_worth(job, sweep, found) for job in found]


def with_worth(job: Job, sweep: Sweep, every: list[Job]) -> Job:
    """The job with its baseline, if it is paired; essential if it is a method's first case."""
    if job.case is None:
        return job
    of_method = next(j for j in every if j.case and j.case.method == job.case.method)
    other = sweep.baseline_case(job.case) if job.effort.get("paired") else None
    return replace(
        job,
        essential=job is of_method and job.item == "c",
        baseline=other if other != job.case else None,
    )
