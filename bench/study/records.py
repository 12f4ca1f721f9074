"""A run's folder: one JSON line for each case and round, on disk before the next one starts.

    records.jsonl          a line per measurement: `Record`
    run.json               the experiment as it was run
    env.json               the machine
    logs/KEY-ROUND.log     what each process had to say
    session.jsonl          of a profile: what it measured, `bench.measure.profile.session`

Every line is checked when it is read, and stays the model `Record` from then on.  Older lines read
as well; what is damaged or newer is left out with its file and line number.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from filelock import FileLock, Timeout
from pydantic import Field, model_validator

from bench.study import storage
from bench.study.errors import UsageError
from bench.study.experiment import EFFORT
from bench.study.printing import warn
from bench.study.storage import NEWER, Line, Part, append_line, read_json, write_json, write_lines
from codevar.files import atomic_write

FILE, SESSION = "records.jsonl", "session.jsonl"

Seconds = Annotated[float, Field(gt=0)]
Status = Literal["ok", "oom", "oom_predicted", "oom_implied", "error", "timeout"]


class Samples(Part):
    """Raw samples of one process; every statistic is computed by who reads them.

    latency_s: the whole decode without the VQVAE.  scale_latency_s: by scale, or a baseline's by
    step, a list for each sample; of a case that runs few of its steps latency_s is their sum,
    each times the steps it stands for.  vqvae_latency_s: of the VQVAE's decoder.
    warmup_latency_s: decodes not counted; steady: whether they had settled when the time for
    them was over.  discarded_latency_s: samples during which the GPU throttled, `discarded_for`
    their reasons.  energy_j: what the GPU used from the first sample to the last, the discarded
    and the gaps between them included; None where not all steps run, or where the counter is not
    to be had or ran too short.  stopped_by: what ended the sampling: "target", "noise" or "time";
    the oldest records do not say.
    """

    warmup_latency_s: list[Seconds]
    steady: bool = True
    latency_s: Annotated[list[Seconds], Field(min_length=1)]
    scale_latency_s: list[list[float]]
    vqvae_latency_s: list[Seconds]
    discarded_latency_s: list[Seconds] = Field(default=[])
    discarded_for: list[str] = Field(default=[])
    energy_j: float | None = None
    stopped_by: str = ""


class MemoryUse(Part):
    """MiB.  KV cache is the most that the caches held, total the most that everything did,
    running what is over and above: params + KV cache + running = total, as in the papers.

    peak_by_scale_mib, live_by_scale_mib: the most during a scale, and what is left after it.
    kv_cache_by_scale_mib: held while the scale was predicted.
    workspace_mib: the part of running that is cuBLAS's and stays.
    rounding_mib: the part of running that no tensor asked for, at the peak: the caching allocator
        leaves up to 1 MiB of a block with the tensor that it was cut for.
    unaccounted_mib: the most, between scales and at the end, that the allocator holds and no
        tensor or workspace does; accounted says whether that is next to nothing.
    reserved_mib: what the caching allocator took from the device at its peak; fragmentation_mib
        the part of it that was not allocated, inactive_split_mib of that what lies between
        allocated pieces of a block.  None on a CPU, as are workspace_mib and rounding_mib.
    graph_pool_mib, of decodes that are CUDA graphs: their pool, which stays, in the place of KV
        cache and running, which are those of kernels launched one by one.
    process_mib: the process's memory, as process_by says.
    """

    params_mib: float
    kv_cache_mib: float
    running_mib: float
    total_mib: float
    peak_by_scale_mib: list[float] = Field(default=[])
    live_by_scale_mib: list[float] = Field(default=[])
    kv_cache_by_scale_mib: list[float]
    unaccounted_mib: float = 0.0
    accounted: bool = True
    workspace_mib: float | None = None
    rounding_mib: float | None = None
    reserved_mib: float | None = None
    fragmentation_mib: float | None = None
    inactive_split_mib: float | None = None
    graph_pool_mib: float | None = None
    process_mib: float | None = None
    process_by: str | None = None


class Predicted(Part):
    """`prediction.Prediction` in MiB and FLOPs.  The oldest records lack some of the memory."""

    params: int
    params_mib: float
    kv_cache_mib: float
    kv_cache_by_scale_mib: list[float]
    running_mib: float | None = None
    total_mib: float | None = None
    peak_by_scale_mib: list[float] | None = None
    live_by_scale_mib: list[float] | None = None
    flops: int
    flops_by_scale: list[int]


class StartUp(Part):
    """What is paid once in a process.

    import_s: from its beginning until loading begins: interpreter, imports, the GPU's context.
    load_s: weights; in older records with prepare_s, which is what makes a model ready for its
    stack.  capture_s: of the decode, as CUDA graphs.
    first_image_s: since the process began, all of it but capture_s, and the first image's decode.
    """

    import_s: float | None = None
    load_s: float | None = None
    prepare_s: float | None = None
    capture_s: float | None = None
    first_latency_s: float | None = None
    first_vqvae_latency_s: float | None = None
    first_image_s: float | None = None


class Stream(Part):
    """Batches back to back, VQVAE included.  batch_s: from the end of one to that of the next."""

    batch_s: list[Seconds]


class Paired(Part):
    """Latencies of a case and of its baseline, taken in turn in one process: pair by pair, so
    that a drifting machine cancels out of their ratio.

    baseline: its key.  reason: why there are no pairs.  discarded: pairs during which the GPU
    throttled.  stopped_by: as of `Samples`.
    """

    baseline: str
    reason: str | None = None
    latency_s: list[Seconds] = Field(default=[])
    baseline_latency_s: list[Seconds] = Field(default=[])
    discarded: int = 0
    stopped_by: str = ""


class CardState(Part):
    """`Card.state` before and after the samples, and `Card.others`."""

    others: list[dict[str, Any]] | None = None


class Record(Line):
    """One case in one round.  Seconds, MiB; scales in order.

    The second group is there if the status is ok, the third of a sweep over a cluster.
    """

    key: str  # of the case, whatever the order of its keys
    round: int = 1
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
    reason: str | None = None
    predicted: Predicted | None = None  # of somebody else's code nothing is
    machine: str
    commit: str | None
    dirty: bool | None
    torch: str | None
    other_load_cores: float | None = None  # what everything else on the machine kept busy
    started_at: str
    duration_s: float

    samples: Samples | None = None
    memory: MemoryUse | None = None
    start_up: StartUp = StartUp()
    stands_for: list[int] | None = None  # where few steps ran: how many each stands for
    stream: Stream | None = None
    paired: Paired | None = None
    gpu: CardState | None = None
    tokens_sha256: str | None = None
    decisions: list[int] | None = None  # of each image: the plan it went on by, where they branch
    sources: list[str] | None = None
    trained_as: str | None = None  # by the models' cards: fine-tuned, training-free, or a name
    weights_sha256: dict[str, str] = Field(default={})  # by source; of random weights none
    sampling: dict[str, Any] | None = None  # `Sampling.numbers`: what the preset came to
    torch_threads: int | None = None
    not_compiled: str | None = None  # of stack `compiled`: why it ran as `modern` does
    not_captured: str | None = None  # the same: why without CUDA graphs

    place: str | None = None  # the node, and which of its GPUs
    on: str | None = None  # the kind of machine it was asked for on, `bench.measure.cluster.driver`
    shared_with: list[str] = Field(default=[])  # cases that ran on the same host meanwhile

    @model_validator(mode="before")
    @classmethod
    def _first_decode_of_schema_1(cls, values: Any) -> Any:
        """Schema 1 had the first decode among the samples."""
        if isinstance(values, dict) and values.get("schema") == 1 and "start_up" not in values:
            first = (values.get("samples") or {}).get("first_latency_s")
            return {**values, "start_up": {"first_latency_s": first}}
        return values

    @model_validator(mode="after")
    def _ok_means_measured(self) -> Self:
        if self.status == "ok" and not (self.samples and self.memory):
            raise ValueError("status ok, but no samples or no memory")
        return self

    @property
    def ok(self) -> bool:
        """Whether the case ran to its end."""
        return self.status == "ok"


#: What is no result; that memory runs out is one.
FAILED = ("error", "timeout")
#: How it is known that memory does not do, with a reader's words: it ran out; weights and KV cache
#: alone exceed the limit, so that the case was not started; it ran out with a smaller batch.
OUT_OF_MEMORY = {
    "oom": "OOM",
    "oom_predicted": "OOM, predicted",
    "oom_implied": "OOM, implied",
}
#: Stacks that ran as less than their name says: field with the reason, label, explanation.
DEGRADED = {
    "not_compiled": ("not compiled", "it ran as modern does"),
    "not_captured": ("no CUDA graphs", "its kernels were launched one by one"),
}


#: Keys of run.json with hashes of files that all of a run has in common, and a reader's words.
HASHED = {"plugins": "plugins", "settings": "files of calibrated settings"}


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
            write_json(self.path / "env.json", env)  # first: a run that has begun has its machine
            write_json(self.path / "run.json", run)
            return []
        if not resume:
            raise UsageError(f"{self.path}: holds a run already; --resume it or choose --out")
        if edited := what_differs(before, run):
            raise UsageError(
                f"{self.path}: began with another experiment ({edited}); give the same --set, undo "
                "edits of its file, or choose another --out"
            )
        for key, told in HASHED.items():
            old, new = before.get(key) or {}, run.get(key, {})
            if apart := [name for name in {**old, **new} if old.get(name) != new.get(name)]:
                raise UsageError(
                    f"{self.path}: began with other {told} ({', '.join(apart)}); choose another "
                    "--out"
                )
        begun_on = read_json(self.path / "env.json") or {}
        if env and (other := other_machine(begun_on, env)):
            raise UsageError(f"{self.path}: was begun on {other}; choose another --out")
        records, complaints = read_lines(self.file)
        if newer := [complaint for complaint in complaints if NEWER in complaint]:
            raise UsageError(newer[0])
        kept = [record for record in records if record.status not in FAILED]  # tried again
        if complaints:  # a crash cut a line short, or another program wrote the file
            aside = kept_aside(self.file)
            warn(f"{complaints[0]}; the file as it was is kept as {aside}")
        if complaints or len(kept) < len(records):
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
        which = (again.key, again.round, again.on)
        kept = [r for r in self.records if (r.key, r.round, r.on) != which]
        if len(kept) < len(self.records):
            write_lines(self.file, kept)
            self.records[:] = kept

    def close(self) -> None:
        """Give the folder's lock back."""
        self._held.release()


def other_machine(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What makes two descriptions those of different machines, or "".  Hardware decides where both
    tell it, whatever the machines are called; software may differ, and each record says its own."""
    old, new = (env.get("hardware") or {"machine": env.get("machine")} for env in (before, now))
    if old.keys() != new.keys():  # one of them is from before hardware was told
        old, new = ({"machine": env.get("machine")} for env in (before, now))
    found = [key for key in old if None not in (old[key], new[key]) and old[key] != new[key]]
    return ", ".join(f"{key} {old[key]}, this is {new[key]}" for key in found)


def newest(folder: Path, runs: int = 3) -> list[Record]:
    """The records of the newest runs in a folder of runs, such as that of a machine."""
    files = sorted(folder.glob(f"*/{FILE}"), key=lambda file: file.stat().st_mtime)
    return [record for file in files[-runs:] for record in read_lines(file)[0]]


def kept_aside(file: Path) -> Path:
    """Copies a file beside itself under a name that was free.  Raises UsageError."""
    names = (file.with_name(f"{file.name}.{number}.bak") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    try:
        with atomic_write(aside) as part:
            shutil.copyfile(file, part)
    except OSError as e:
        raise UsageError(f"{aside}: cannot be written ({e.strerror})") from None
    return aside


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
    """The records that can be read, and a complaint for each line that cannot; none of no file.  Of
    several of one case, round and kind of machine the last one counts, which is a complaint too."""
    lines, complaints = storage.read_lines(file, Record)
    last = {(line.key, line.round, line.on): line for line in lines}
    if again := len(lines) - len(last):
        complaints.append(f"{file}: {again} records stand there again; the last of each counts")
        lines = [line for line in lines if last[line.key, line.round, line.on] is line]
    return lines, complaints


def read_run(folder: Path) -> dict[str, Any]:
    """A run's run.json.  Raises UsageError if there is none."""
    described = read_json(folder / "run.json")
    if described is None:
        raise UsageError(f"{folder}: no run.json here; `bench.py run` makes one")
    return described


def runs(results: Path) -> list[tuple[Path, str]]:
    """Every run under `results`, newest first: its folder and its experiment's name.  What is
    damaged is left out; asked for by its folder, it says why."""
    found = []
    for file in results.glob("*/*/run.json"):
        try:
            run = storage.parse_json(file.read_text("utf-8-sig"))
            found.append((run.get("started_at") or "", file.parent, run["name"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return [(folder, name) for _, folder, name in sorted(found, reverse=True)]
