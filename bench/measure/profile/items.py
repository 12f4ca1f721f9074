"""What is worth measuring on a new machine, the most worth first: `items`, and `jobs` of them.

An item is useful if the next never comes.  Its cases are those of experiments, on a GPU at the
papers' sizes, on a CPU at sizes that fit; what an earlier item has measured a later one shares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bench.study import experiment
from bench.study.cases import Case, has_scales
from bench.study.experiment import Experiment, Sweep
from bench.study.folders import CODE

Kind = Literal["cpu", "cuda"]
#: How thoroughly: the median of a few samples.  On a CPU the first decode and the one that memory
#: is measured on warm up.
EFFORT: dict[str, dict[str, Any]] = {
    "cuda": {"rounds": 1, "warmup": 1, "samples": 5, "max_seconds": 4.0},
    "cpu": {"rounds": 1, "warmup": 0, "samples": 3, "max_seconds": 3.0},
}
STREAM_S = 10.0
#: The memory of the papers' card, an NVIDIA L20.
PAPERS_GIB = "memory_limit_gib=44.5"


@dataclass(frozen=True)
class Source:
    """Cases of an experiment whose axes are changed, as by `--set`."""

    experiment: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One line of the list.

    tasks: what is no case, see `tasks`.  effort: how its cases are measured otherwise than EFFORT
    has it; of a case with a stream, a second round is measured.
    """

    letter: str
    title: str
    tasks: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
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


def precisions(kind: Kind, bf16: bool = True) -> dict[str, str]:
    """What each stack runs in: the papers' precision, and the one that suits the stack.

    bf16: whether the device has it.
    """
    half = "bf16" if bf16 else "fp16"
    published = "fp16" if kind == "cuda" else "float32"
    return {"published": published, "modern": half, "compiled": half}


def items(kind: Kind, bf16: bool = True) -> list[Item]:
    """The list for a kind of device."""
    cuda, precision = kind == "cuda", precisions(kind, bf16)
    large, refiner, subnet = (30, 16, 16) if cuda else (16, 8, 8)
    of_code = (f"refiner_depth={refiner}",)
    of_variant = (f"subnet_depth={subnet}", "bridge_scales=7")
    batches = (64, 1) if cuda else (1,)

    def on(stack: str, name: str, *changes: object) -> Source:
        words = (*changes, f"stack={stack}", f"precision={precision[stack]}")
        return Source(name, tuple(map(str, words)))

    def first(stack: str, batch: int) -> list[Source]:
        """VAR, CoDe and VARiant."""
        at = (f"depth={large}", f"batch_size={batch}")
        return [
            on(stack, "code_table1", "method=var", *at),
            on(stack, "code_table1", "method=code", "draft_steps=6", *of_code, *at),
            on(stack, "variant_table2", "method=variant", *of_variant, *at),
        ]

    def of_tables(stack: str) -> list[Source]:
        """The rows of the papers' main tables."""
        if cuda:
            methods = (
                ("code_table1", "method=var,code"),
                ("variant_table2", "method=var,code,variant"),
            )
            return [on(stack, *words) for words in methods]
        at = (f"depth={large}", "batch_size=1")
        return [
            on(stack, "code_table1", "method=code", *of_code, *at),
            on(stack, "variant_table2", "method=variant", "subnet_depth=8,4,2", *at),
        ]

    def of_memory() -> list[Source]:
        """The papers' tables of memory by batch, on a card of their size."""
        if cuda:
            return [on("published", name, PAPERS_GIB) for name in ("code_table3", "variant_table3")]
        at = (f"depth={large}", "batch_size=1,2,4")
        return [
            on("published", "code_table3", *of_code, *at),
            on("published", "variant_table3", "subnet_depth=8,2", *at),
        ]

    def of_figure5(stack: str) -> Source:
        small = () if cuda else ("batch_size=1,2,4", f"depth={large}", *of_code)
        return on(stack, "code_figure5", *small)

    one_batch = "batch_size=64" if cuda else "batch_size=1"
    attention = "attention=auto,math,efficient,flash,cudnn" if cuda else "attention=auto,math,flash"
    sizes = () if cuda else (f"depth={large}", *of_code)
    others = ("method=dit,mar,aim,llamagen", one_batch, f"max_steps={8 if cuda else 2}")
    ways = ("published", "modern") if cuda else ("modern", "published")  # the quicker one, on a CPU
    scaling = [on(stack, "scaling") for stack in ways] if cuda else [Source("scaling_cpu", ())]
    return [
        Item("a", "a first decode on every stack, its tokens held against the CPU's", ("smoke",)),
        Item("b", "ceilings, cost of a launch, the timer's own cost", ("ceilings", "selfcheck")),
        Item(
            "c",
            f"VAR-d{large}, CoDe N=6 and VARiant-d{subnet} N=7, in turn with VAR",
            sources=tuple(s for batch in batches for stack in ways for s in first(stack, batch)),
            effort={"paired": True},
        ),
        Item(
            "d",
            "the other rows of CoDe's Table 1 and VARiant's Table 2, and stack compiled",
            sources=(
                *of_tables(ways[0]),
                *(s for batch in batches for s in first("compiled", batch)),
                *of_tables(ways[1]),
            ),
        ),
        Item("e", "memory by batch: both papers' Table 3", sources=tuple(of_memory())),
        Item("f", "CoDe's Figure 5 b and c: latency by batch and by scale",
             sources=tuple(map(of_figure5, ways))),
        Item("g", "attention backends",
             sources=(on("published", "code_table3", attention, one_batch, *sizes),)),
        Item("h", "DiT, MAR, AiM and LlamaGen, in a part of their steps",
             sources=tuple(on(stack, "code_table1", *others) for stack in ways[:2 if cuda else 1])),
        Item("i", "energy and sustained throughput",
             sources=tuple(s for stack in ways for s in first(stack, batches[0])),
             effort={"stream_seconds": STREAM_S}),
        Item("i", "cost by batch, depth and image size, VAR-d36 at 512 px among them",
             sources=tuple(scaling)),
        Item("j", "what methods that leave something out save, kernel by kernel and in graphs",
             sources=tuple(on(stack, "methods_d30", f"batch_size={batch}")
                           for batch in batches for stack in ("modern", "compiled"))
             if cuda else ()),
        Item("k", "the tests that need a GPU", tuple(gpu_tests()) if cuda else ()),
    ]  # fmt: skip


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
    for item in items(kind, bf16):
        for task in item.tasks:
            name, _, about = task.partition(" ")
            found.append(Job(item.letter, name, about, essential=name in ("smoke", "ceilings")))
        stream = bool(item.effort.get("stream_seconds"))
        for source in item.sources:
            for case in experiment.load(source.experiment, source.changes, device).cases:
                if case.key not in cases or stream:
                    effort = item.effort if has_scales(case.method) else {}
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
                **EFFORT[kind],
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
