"""What one decode did, for other programs to show.

`trace`: a Chrome trace (chrome://tracing, Perfetto), compressed, in which scales or steps are
named ranges.
`snapshot`: the CUDA allocator's history (https://pytorch.org/memory_viz).
"""

import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bench.study.cases import Case
from bench.study.errors import UsageError
from codevar import graphs
from codevar.outputs import OnScale

KINDS = {"trace": "trace.json.gz", "snapshot": "snapshot.pickle"}


def output_file(kind: str, folder: Path, case: Case) -> Path:
    """Where `save` writes what was asked for of a case."""
    return folder / f"{case.key}.{KINDS[kind]}"


def prepare_folders(kept: dict[str, Path], cases: list[Case]) -> None:
    """Makes the folders.  Raises UsageError for several cases, a snapshot of what is no GPU, and
    a folder that cannot be written."""
    for kind, folder in kept.items():
        if len(cases) != 1:
            raise UsageError(
                f"--{kind} is of one case, and there are {len(cases)}; choose with --set, such as "
                f"--set method=var --set batch_size=1 --set stack=modern"
            )
        if kind == "snapshot" and cases[0].device == "cpu":
            raise UsageError("--snapshot is of a GPU's allocator; on a CPU --trace has its memory")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as e:
            raise UsageError(f"{folder}: cannot be written ({e.strerror})") from None


def save(
    kind: str,
    run: Callable[[OnScale], object],
    device: torch.device,
    file: Path,
    steps: Sequence[str],
) -> None:
    """Runs the decode once more and writes what it did; a failure leaves no file, and a record
    that is complete without.  steps: what to call the ranges between the decode's marks."""
    try:
        if kind == "trace":
            write_trace(run, device, file, steps)
        else:
            write_snapshot(run, device, file)
    except Exception:
        traceback.print_exc()


def write_trace(
    run: Callable[[OnScale], object], device: torch.device, file: Path, steps: Sequence[str]
) -> None:
    """Writes a profiler's trace of one decode."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, profile_memory=True) as profiler, ExitStack() as ranges:

        def on_scale(k: int) -> None:
            ranges.close()
            if k < len(steps):
                ranges.enter_context(record_function(steps[k]))

        run(on_scale)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    profiler.export_chrome_trace(str(file))


def write_snapshot(run: Callable[[OnScale], object], device: torch.device, file: Path) -> None:
    """Writes what the CUDA allocator did in one decode."""
    torch.cuda.memory._record_memory_history()
    try:
        with graphs.launched():
            run(lambda k: None)
        torch.cuda.synchronize(device)
        torch.cuda.memory._dump_snapshot(str(file))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
