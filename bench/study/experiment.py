"""Experiment files: TOML whose axes multiply.

title = "CoDe, Table 1"
paper = "code_table1"                 # results/papers/code_table1.csv
baseline = { method = "var" }

[defaults]                            # of every case
batch_size = 64

[[cases]]                             # every list is an axis
method = "code"
draft_steps = [9, 8, 7, 6]
paper_row = "VAR-CoDe N={draft_steps}" # its key `method`; or { scale = "{scale}", params = "0.3B" }
"""

from __future__ import annotations

import itertools
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from bench.study import papers, plugins, savings
from bench.study.cases import (
    SAMPLING_KEYS,
    Case,
    VARCase,
    add_plugins,
    explain,
    is_method,
    is_ours,
    kept_facts,
    make_case,
    make_foreign,
    methods,
    sampled,
)
from bench.study.errors import UsageError, nearest
from bench.study.folders import EXPERIMENTS
from bench.study.papers import PaperRow
from codevar.files import NO_TOML

# Keys that leave the model as it is; any other makes the paper's row no longer apply.
SAME_MODEL = {*Case.model_fields, "sampling", "max_steps", *SAMPLING_KEYS}

#: The baseline of a case is the case itself with nothing left out.
WHOLE = {"leaves_out": "nothing"}

MOST_CONTROLLED = 2  # that a table names

# How thoroughly an experiment measures.
EFFORT = ("rounds", "warmup", "samples", "target", "max_seconds", "paired", "stream_seconds")

MOST_CASES = 10_000  # of a block of an experiment


class View(BaseModel):
    """Another way to measure the images of an experiment's baseline.

    share: of them, the first ones.  reference: another REF.  jpeg: as JPEG of this quality.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    share: float | None = Field(None, gt=0, lt=1)
    reference: str | None = None
    jpeg: int | None = Field(None, ge=1, le=95)

    @property
    def name(self) -> str:
        """What is not as usual."""
        share = [f"the first {self.share:.0%} of the images"] if self.share else []
        jpeg = [f"JPEG of quality {self.jpeg}"] if self.jpeg else []
        return ", ".join([*share, *([self.reference] if self.reference else []), *jpeg])


class Experiment(BaseModel):
    """An experiment file, checked.

    controls: whether each case that leaves something out has its controls behind it
    (`bench.study.savings`).
    figures: names in `bench.figures.registry`, which checks them.
    baseline: keys of the case that speed-ups are over (`Sweep.baseline_of`); of a case that leaves
    something out, { leaves_out = "nothing" } is the same one whole.
    rounds: how often the whole list of cases runs, each time in new processes and every other
    time backwards, so that a slow drift of the machine cancels out of speed-ups.  warmup,
    samples, target, max_seconds: `timing.Effort`, of one round.  paired: each case also takes
    turns with its baseline in one process.  stream_seconds: of sustained throughput, none by
    default.  timeout_s: of one process.  views: axes too; `reproduce` measures the baseline's
    images in these ways as well.  plugins: Python files that register what the cases name, from
    this file's folder; they are imported only with `--allow-plugins`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    title: str
    plugins: list[str] = Field(default_factory=list)
    paper: str | None = None
    baseline: dict[str, str | int] = Field(default_factory=dict)
    figures: list[str] = Field(default_factory=list)
    controls: bool = True
    rounds: int = Field(3, ge=1, le=100)
    warmup: int = Field(1, ge=0)
    samples: int = Field(6, ge=1)
    target: float = Field(0.01, gt=0)
    max_seconds: float = Field(20, gt=0)
    paired: bool = False
    stream_seconds: float = Field(0, ge=0)
    timeout_s: float = Field(3600, gt=0)
    defaults: dict[str, Any] = Field(default_factory=dict)
    cases: list[dict[str, Any]] = Field(min_length=1)
    views: list[View] = Field(default_factory=list)

    @field_validator("views", mode="before")
    @classmethod
    def _views_multiply(cls, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [view for block in blocks for view in multiply(block)]

    @field_validator("baseline")
    @classmethod
    def _baseline_can_be(cls, baseline: dict[str, str | int]) -> dict[str, str | int]:
        known = {key for kind in methods().values() for key in kind.model_fields}
        for key, value in baseline.items():
            if baseline == WHOLE:
                break
            if key not in known:
                raise ValueError(f"baseline: {key}: no such key")
            if key == "method" and not is_method(value):
                raise ValueError(f"baseline: method {value}{nearest(value, methods())}")
        return baseline

    @field_validator("paper")
    @classmethod
    def _paper_is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in papers.names():
            raise ValueError(f"paper {name}: no such paper{nearest(name, papers.names())}")
        return name


class Sweep:
    """An experiment with its axes multiplied out.

    device: what `auto` stands for.  changes: what `--set` has changed in the experiment.
    cases: in the order of the file, each once.
    paper_rows: by case key, what the paper prints of the case.
    foreign: facts of cases whose methods are not the project's, by what is written of them; those
    that a run kept serve where the plugin is not loaded.
    controls: by case key, what is left out by the cases that the case is a control of.
    not_in_paper: why, for each case whose `paper_row` is not in the paper's table.  An experiment
    file with such a case is refused; one that `--set` has changed goes without that row.
    notes: what else a reader of its results is to know.

    Precision `auto`, the default, is fp16 on a GPU and float32 on a CPU.  A CPU has no fp16: there
    an experiment that repeats a paper's runs in float32, and `notes` says so.

    Raises UsageError for a key or value that cannot be, before anything runs.
    """

    def __init__(
        self,
        name: str,
        experiment: Experiment,
        where: str,
        device: str | None = None,
        changes: Sequence[str] = (),
        foreign: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.device = device
        self.experiment = experiment
        self.cases: list[Case] = []
        self.paper_rows: dict[str, PaperRow] = {}
        self.not_in_paper: list[str] = []
        self.foreign: dict[str, dict[str, Any]] = {}
        self.controls: dict[str, list[str]] = {}
        self.notes: list[str] = []
        asked = {change.partition("=")[0] for change in changes}
        paper = papers.load(experiment.paper) if experiment.paper else None
        if paper and paper.about.cases == "none":
            raise UsageError(f"{where}: paper: {paper.about.title} is of no cases")
        cases: dict[Case, None] = {}  # each once
        for block in experiment.cases:
            for values in multiply({**experiment.defaults, **block}):
                paper_row = values.pop("paper_row", None)
                if device and values.get("device", "auto") == "auto":
                    values["device"] = device
                written = json.dumps(values, sort_keys=True, default=str)  # TOML has dates
                on_cpu = values.get("device") == "cpu"
                precision = values.setdefault("precision", "auto")
                if precision == "fp16" and on_cpu and "precision" not in asked:
                    precision = "auto"
                    self.notes = ["precision: float32 in the place of fp16, which no CPU has"]
                if precision == "auto":
                    values["precision"] = "float32" if on_cpu else "fp16"
                try:
                    known = written not in foreign or values["method"] in methods()  # none loaded
                    case = make_case(values) if known else make_foreign(values, foreign[written])
                except UsageError as e:
                    by_set = str(e).split()[0].rstrip(":") in asked
                    raise UsageError(f"--set {e}" if by_set else f"{where}: {e}") from None
                cases[case] = None
                if not is_ours(case):
                    self.foreign[written] = kept_facts(case)
                if paper_row and not paper:
                    self.not_in_paper.append(f"{where}: paper_row: no `paper` is named")
                elif paper_row and paper:
                    try:
                        row = paper.select(paper_row, case.model_dump())
                        self.paper_rows.setdefault(case.key, row)
                    except UsageError as e:
                        self.not_in_paper.append(f"{where}: {e}")
                    except (KeyError, IndexError, ValueError) as e:
                        raise UsageError(f"{where}: paper_row {paper_row!r} has no {e}") from None
        self.cases += cases
        if not self.cases:
            raise UsageError(f"{where}: no case is left")
        if experiment.controls:
            self._add_controls()
        in_part = next((case for case in self.cases if case.in_part), None)
        if in_part and (experiment.paired or experiment.stream_seconds):
            raise UsageError(
                f"{where}: {in_part.label} with max_steps makes no images; pairs and streams need "
                f"whole decodes"
            )

    def _add_controls(self) -> None:
        """Puts the controls of each case that leaves something out behind it."""
        own, self.cases = self.cases, []
        for case in own:
            found: list[Case] = []
            if isinstance(case, VARCase) and case.key not in self.controls:
                found = [make_case(values) for values in savings.controls(case)]
                for control in found:
                    self.controls.setdefault(control.key, []).append(savings.label(case)[2:])
            self.cases += [one for one in (case, *found) if one not in self.cases]

    def controlled(self, case: Case) -> str:
        """What the case is a control of, in a table's words; "" for nothing."""
        labels = dict.fromkeys(self.controls.get(case.key, ()))
        return "; ".join(labels) if len(labels) <= MOST_CONTROLLED else "all others"

    def further_paper_rows(self) -> list[PaperRow]:
        """What the paper's table prints of what is not a case here."""
        if self.experiment.paper is None:
            return []
        paper = papers.load(self.experiment.paper)
        shown = [self.paper_rows[case.key] for case in self.cases if case.key in self.paper_rows]
        repeated = {value for row in shown for value in row.values}
        return paper.grouped(value for value in paper.values if value not in repeated)

    def baseline_case(self, case: Case) -> Case | None:
        """The case that speed-ups of this one are over, which may be itself."""
        wanted = self.baseline_of(case.model_dump())
        if wanted is None:
            return None
        fits = (other for other in self.cases if wanted.items() <= other.model_dump().items())
        return next(fits, None)

    def baseline_of(self, case: dict[str, Any]) -> dict[str, Any] | None:
        """Keys and values that the baseline of a case has: with a method among them, the first
        such case that runs in the same way; without, the very case with these keys changed."""
        baseline = self.experiment.baseline
        if not baseline:
            return None
        if baseline == WHOLE:
            return savings.whole(case)
        way = ("batch_size", "stack", "precision", "attention", "device", "memory_limit_gib")
        same = way if "method" in baseline else case
        return {**{key: case[key] for key in same}, **baseline}


def multiply(block: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the block's lists; a list of tables is one value.
    Raises UsageError for more than MOST_CASES."""
    tables = [isinstance(value, list) and dict in map(type, value) for value in block.values()]
    axes = [
        value if isinstance(value, list) and not table else [value]
        for value, table in zip(block.values(), tables, strict=True)
    ]
    if (count := math.prod(map(len, axes))) > MOST_CASES:
        raise UsageError(f"an experiment's axes make {count:,} cases; {MOST_CASES:,} is the most")
    return [dict(zip(block, values, strict=True)) for values in itertools.product(*axes)]


def names() -> list[str]:
    """The experiments that come with the project."""
    return sorted(path.stem for path in EXPERIMENTS.glob("*.toml"))


def load(name: str, changes: Sequence[str] = (), device: str | None = None) -> Sweep:
    """An experiment by name or by path of a TOML file.

    changes: "axis=value,value" each; a method's own axis changes only that method's cases,
    `method=var,code` keeps only those methods.  device: what `auto` stands for.
    """
    path = Path(name) if name.endswith(".toml") else EXPERIMENTS / f"{name}.toml"
    if not path.is_file():
        what = "no such folder or experiment (bench.py list shows all)"
        raise UsageError(f"{name}: {what}{nearest(name, names())}")
    try:
        text = path.read_text("utf-8-sig")
        raw = tomllib.loads(text)
        if asked := raw.get("plugins"):
            names_in = TypeAdapter(list[str]).validate_python(asked)
            add_plugins(plugins.asked_by(path, names_in))
        experiment = Experiment.model_validate(raw)
    except ValidationError as e:
        raise UsageError(f"{path}: {explain(e, Experiment)}") from None
    except NO_TOML as e:
        raise UsageError(f"{path}: {e}") from None
    if experiment.paper or not changes:
        sweep = Sweep(path.stem, experiment, str(path), device)
        if sweep.not_in_paper:
            raise UsageError(sweep.not_in_paper[0])
        if not changes:
            return sweep
    for change in changes:
        apply(experiment, change)
    return Sweep(path.stem, experiment, str(path), device, changes)


def cases_of(target: str, changes: Sequence[str] = (), device: str | None = None) -> list[Case]:
    """What can be sampled of an experiment, or of one method by its name with axes set by
    `changes`: all but the baselines, of which speed alone is measured."""
    return sampled(_cases_of(target, changes, device), target)


def _cases_of(target: str, changes: Sequence[str], device: str | None) -> list[Case]:
    if is_method(target):
        experiment = Experiment.model_validate(
            {"title": target, "controls": False, "cases": [{"method": target}]}
        )
        for change in changes:
            apply(experiment, change)
        return Sweep(target, experiment, f"method {target}", device, changes).cases
    if not target.endswith(".toml") and target not in names():
        known = nearest(target, [*methods(), *names()])
        raise UsageError(f"{target}: no such method or experiment{known}")
    return load(target, changes, device).cases


def apply(experiment: Experiment, change: str) -> None:
    """Sets one axis: `--set axis=values`."""
    key, equals, text = change.partition("=")
    values = parse_list(text.strip("[]")) if text else []
    if not equals or not values:
        raise UsageError(f"--set {change}: write axis=value or axis=value,value")
    if key in (*EFFORT, "timeout_s", "controls"):
        try:
            Experiment.__pydantic_validator__.validate_assignment(experiment, key, values[0])
        except ValidationError as e:
            raise UsageError(f"--set {explain(e, Experiment)}") from None
        return
    if key == "method":
        unknown = [v for v in values if not is_method(v)]
        if unknown:
            known = nearest(unknown[0], methods())
            raise UsageError(f"--set method {unknown[0]!r}: no such method{known}")
        experiment.cases = [
            {**block, "method": kept}
            for block in experiment.cases
            if (kept := [m for m in _listed(block.get("method")) if m in values])
        ]
        if not experiment.cases:
            raise UsageError(f"--set {change}: this experiment has no such method")
        return
    axes: set[str] = set()
    table_keys = papers.load(experiment.paper).about.keys if experiment.paper else ()
    for block in experiment.cases:
        names_here = _listed(block.get("method", experiment.defaults.get("method")))
        kinds = [methods()[name] for name in names_here if is_method(name)]
        own = {field for kind in kinds for field in kind.model_fields}
        axes |= own
        if key in own:
            block[key] = values
            told = (*table_keys, str(block.get("paper_row")))
            if not (key in SAME_MODEL or key in told or f"{{{key}}}" in told[-1]):
                block.pop("paper_row", None)
    if key not in axes:
        known = nearest(key, [*sorted(axes), *EFFORT, "timeout_s", "controls"])
        raise UsageError(f"--set {key}: no such axis here{known}")


def parse_list(text: str) -> list[Any]:
    """Values with commas between them; one with a comma of its own is quoted."""
    try:
        return tomllib.loads(f"v = [{text}]")["v"]
    except NO_TOML:
        return [parse(part) for part in text.split(",")]


def parse(text: str) -> Any:
    """A number where it is one, else the text."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except NO_TOML:
        return text


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
