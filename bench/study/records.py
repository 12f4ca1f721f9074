"""A run's folder: one JSON line for each case and round, on disk before the next one starts.

    records.jsonl          a line per measurement: `Line`
    run.json               the experiment as it was run
    env.json               the machine
    logs/KEY-ROUND.log     what each process had to say

Every line is checked when it is read.  Lines of older versions are brought up to date, and what
is damaged or newer is left out with its file and line number.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from filelock import FileLock, Timeout
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing's own before Python 3.12 lacks what pydantic needs

from bench.study.errors import UsageError
from bench.study.experiment import EFFORT
from bench.study.storage import (
    Record,
    append_line,
    parsed_lines,
    read_json,
    write_json,
    write_lines,
)

SCHEMA = 2
FILE = "records.jsonl"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


Status = Literal["ok", "oom", "oom_predicted", "oom_implied", "error", "timeout"]


class SamplesLine(TypedDict):
    """`timing.Samples`."""

    warmup_latency_s: list[Seconds]
    steady: bool
    latency_s: Annotated[list[Seconds], Field(min_length=1)]
    scale_latency_s: list[list[float]]
    vqvae_latency_s: list[Seconds]
    discarded_latency_s: list[Seconds]
    discarded_for: list[str]
    energy_j: float | None
    stopped_by: str


class StartUpLine(TypedDict):
    """What is paid once in a process.

    import_s: from its beginning until loading begins: interpreter, imports, the GPU's context.
    load_s: weights; in older records with prepare_s, which is what makes a model ready for its
    stack.  capture_s: of the decode, as CUDA graphs.
    first_image_s: since the process began, all of it but capture_s, and the first image's decode.
    """

    import_s: NotRequired[float | None]
    load_s: float | None
    prepare_s: NotRequired[float | None]
    capture_s: NotRequired[float]
    first_latency_s: float | None
    first_vqvae_latency_s: float | None
    first_image_s: float | None


class Line(TypedDict):
    """One case in one round, as it stands in a line.  Seconds, MiB; scales in order.

    The last group is there if the status is ok.
    """

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    schema: Literal[2]
    key: str  # of the case, whatever the order of its keys
    round: int  # from 1
    experiment: str
    method: str
    batch_size: int
    stack: str
    precision: str
    device: str
    weights: str
    steps: str
    case: dict[str, Any]
    paper_row: str | None
    baseline: dict[str, Any] | None  # what the case that speed-ups are over has
    status: Status
    reason: str | None
    predicted: dict[str, Any]
    machine: str
    commit: str | None
    dirty: bool | None
    torch: str | None
    other_load_cores: float | None  # what everything else on the machine kept busy
    started_at: str
    duration_s: float

    samples: NotRequired[SamplesLine]
    memory: NotRequired[dict[str, Any]]  # `memory.Memory`
    start_up: NotRequired[StartUpLine]
    stands_for: NotRequired[list[int]]  # where few steps ran: how many each stands for
    stream: NotRequired[dict[str, list[Seconds]]]  # `timing.Stream`
    paired: NotRequired[dict[str, Any]]  # `timing.Paired`, and the key of the baseline
    gpu: NotRequired[dict[str, Any]]  # `Card.state` before and after the samples, `Card.others`
    tokens_sha256: NotRequired[str]
    sources: NotRequired[list[str]]
    trained_as: NotRequired[str]  # by the models' cards: fine-tuned, training-free, or a name
    weights_sha256: NotRequired[dict[str, str]]  # by source, the VQVAE's too; none of random ones
    sampling: NotRequired[dict[str, Any]]  # `Sampling.numbers`: what the preset came to
    torch_threads: NotRequired[int]
    not_compiled: NotRequired[str]  # of stack `compiled`: why it ran as `modern` does
    not_captured: NotRequired[str]  # the same: why without CUDA graphs

    # of a sweep over a cluster
    place: NotRequired[str]  # the node, and which of its GPUs
    on: NotRequired[str]  # the kind of machine it was asked for on, `bench.measure.cluster.driver`
    shared_with: NotRequired[list[str]]  # cases that ran on the same host meanwhile


LINE = TypeAdapter(Line)
#: What is no result; that memory runs out is one.
FAILED = ("error", "timeout")
#: How it is known that memory does not do, with a reader's words: it ran out; weights and KV cache
#: alone exceed the limit, so that the case was not started; it ran out with a smaller batch.
OUT_OF_MEMORY = {
    "oom": "OOM",
    "oom_predicted": "OOM, predicted",
    "oom_implied": "OOM, implied",
}
NEWER = "newer than this program; update it"
#: Of a stack that could not be all it stands for: what a line says why by, in short, and at length.
LOST = {
    "not_compiled": ("not compiled", "it ran as modern does"),
    "not_captured": ("no CUDA graphs", "its kernels were launched one by one"),
}


class RunFolder:
    """A run's folder, held by one process at a time.

    Raises UsageError where it cannot be written, is in use, or holds another run.
    """

    def __init__(self, path: Path, run: dict[str, Any], env: dict[str, Any], resume: bool) -> None:
        self.path = path
        self.file = path / FILE
        held = FileLock(path / ".lock")
        try:
            (path / "logs").mkdir(parents=True, exist_ok=True)
            held.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"{path}: another run is writing here; choose another --out") from None
        except OSError as e:
            raise UsageError(f"{path}: cannot be written ({e.strerror}); choose --out") from None
        self._held = held
        try:
            self.records = self._prepare(run, env, resume)
        except BaseException:
            self.close()
            raise

    def _prepare(self, run: dict[str, Any], env: dict[str, Any], resume: bool) -> list[Record]:
        before = read_json(self.path / "run.json")
        if before is None:
            check_unclaimed(self.path)
            write_json(self.path / "run.json", run)
            write_json(self.path / "env.json", env)
            return []
        if not resume:
            raise UsageError(f"{self.path}: holds a run already; --resume it or choose --out")
        if edited := what_differs(before, run):
            raise UsageError(
                f"{self.path}: began with another experiment ({edited}); give the same --set, undo "
                "edits of its file, or choose another --out"
            )
        begun_on = (read_json(self.path / "env.json") or {}).get("machine")
        if env and begun_on not in (None, env["machine"]):
            raise UsageError(
                f"{self.path}: was begun on {begun_on}, this is {env['machine']}; choose another "
                "--out"
            )
        records, complaints = read_lines(self.file)
        if newer := [complaint for complaint in complaints if NEWER in complaint]:
            raise UsageError(newer[0])
        kept = [record for record in records if record["status"] not in FAILED]  # tried again
        if complaints or len(kept) < len(records):  # a line cut short by a crash: the rest is kept
            write_lines(self.file, kept)
        return kept

    def append(self, record: Record) -> None:
        """Adds a line and waits until it is on disk; a line that does not fit leaves no part."""
        try:
            append_line(self.file, record)
        except OSError as e:
            raise UsageError(
                f"{self.file}: cannot be written ({e.strerror}); "
                f"{len(self.records)} earlier records are safe, --resume goes on from there"
            ) from None
        self.records.append(record)

    def discard(self, again: Record) -> None:
        """Takes out the measurement that this one replaces, if it is here."""
        which = (again["key"], again["round"], again.get("on"))
        kept = [r for r in self.records if (r["key"], r["round"], r.get("on")) != which]
        if len(kept) < len(self.records):
            write_lines(self.file, kept)
            self.records[:] = kept

    def close(self) -> None:
        self._held.release()


def check_unclaimed(folder: Path) -> None:
    """Raises UsageError for records of which no run.json says what they are."""
    if (folder / FILE).exists() and not (folder / "run.json").exists():
        raise UsageError(f"{folder}: holds {FILE} but no run.json; choose another --out")


def what_differs(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What makes two runs different ones: their experiment, its cases, baseline or effort."""
    old, new = before.get("experiment", {}), now["experiment"]
    found = [key for key in ("name", "cases", "on") if before.get(key) != now.get(key)]
    return ", ".join(found + [key for key in ("baseline", *EFFORT) if old.get(key) != new[key]])


def read(path: Path) -> tuple[list[Record], list[str]]:
    """A run's records, and a complaint for each damaged line.

    Raises UsageError if there is no run.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{path}: no records.jsonl here; `bench.py run` makes one")
    return read_lines(file)


def read_lines(file: Path) -> tuple[list[Record], list[str]]:
    """The records that can be read, and a complaint for each line that cannot; none of no file."""
    return parsed_lines(file, parse)


def parse(line: str) -> Record:
    """A line as a record of this version.  Raises ValueError: what is wrong, in a few words."""
    try:
        values = json.loads(line)
        if r"\ud" in line.lower():  # may be half a surrogate pair, which no file or table can hold
            values = json.loads(json.dumps(values, ensure_ascii=False).encode(errors="replace"))
    except ValueError as e:
        raise ValueError(f"no JSON: {e}") from None
    if not isinstance(values, dict):
        raise ValueError("no record")
    version = values.get("schema")
    if version == 1:
        values = from_1(values)
    elif version != SCHEMA:
        newer = isinstance(version, int) and version > SCHEMA
        raise ValueError(f"schema {version}" + f": {NEWER}" * newer)
    try:
        return dict(LINE.validate_python(values))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}") from None


def from_1(old: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 had one process a case, and the first decode among the samples; its first runs
    did not say what ended the sampling nor what else the machine did."""
    new = {"other_load_cores": None, **old, "schema": SCHEMA, "round": 1}
    samples = new.get("samples")
    if isinstance(samples, dict):
        first = samples.get("first_latency_s")
        new["samples"] = {
            "stopped_by": "",
            **{key: value for key, value in samples.items() if key != "first_latency_s"},
            "steady": True,
            "discarded_latency_s": [],
            "discarded_for": [],
            "energy_j": None,
        }
        unknown = {"load_s": None, "first_vqvae_latency_s": None, "first_image_s": None}
        new["start_up"] = {"first_latency_s": first, **unknown}
    return new


def read_run(folder: Path) -> dict[str, Any]:
    """A run's run.json.  Raises UsageError if there is none."""
    what = read_json(folder / "run.json")
    if what is None:
        raise UsageError(f"{folder}: no run.json here; `bench.py run` makes one")
    return what


def runs(*results: Path) -> list[tuple[Path, str]]:
    """Every run under `results`, newest first: its folder and its experiment's name.  What is
    damaged is left out; asked for by its folder, it says why."""
    found = []
    for file in itertools.chain(*(folder.glob("*/*/run.json") for folder in results)):
        try:
            what = json.loads(file.read_text())
            found.append((what.get("started_at") or "", file.parent, what["name"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return [(folder, name) for _, folder, name in sorted(found, reverse=True)]
