"""Cases to records: each in a process of its own, whatever becomes of the one before."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.measure import limit, machine, tracing
from bench.measure.devices import check_devices, check_weights
from bench.measure.machine import now
from bench.measure.timing import Effort
from bench.measure.validity import known_ceilings, why_invalid
from bench.methods.sources import hashes_of
from bench.predict.prediction import prediction_or_none
from bench.predict.shares import work
from bench.study import plugins, savings
from bench.study.cases import Case, make_case
from bench.study.errors import UsageError
from bench.study.experiment import Sweep
from bench.study.folders import CODE
from bench.study.names import trained_as
from bench.study.records import OUT_OF_MEMORY, Record, RunFolder
from bench.study.units import GIB
from codevar.progress import Progress, say

#: A job, the seconds that it may take and its log, to a result: as `run_in_process`.
Measure = Callable[[dict[str, Any], float, Path], dict[str, Any]]


def run(
    sweep: Sweep,
    path: Path,
    env: dict[str, Any],
    console: Console,
    resume: bool = False,
    download: bool = False,
    keep: dict[str, Path] | None = None,
) -> list[Record]:
    """Runs what is not done yet and returns the records of the whole run.

    keep: of the only case, what `tracing` writes, and into which folder.
    """
    check_devices(sweep.cases)
    check_weights(sweep.cases, download)
    tracing.prepare_folders(keep or {}, sweep.cases)
    folder = RunFolder(path, describe_run(sweep), env, resume)
    try:
        for line in sweep.notes:
            say(line, console)
        todo = remaining_measurements(sweep, folder.records)
        if folder.records:
            total = len(sweep.cases) * sweep.experiment.rounds
            say(f"{len(folder.records)} of {total} measurements were done before", console)
        if todo:
            devices = dict.fromkeys(case.device for _, case in todo)
            for line in machine.find_disturbances(*map(torch.device, devices)):
                say(f"warning: {line}", console, "yellow")
        lost: set[str] = set()  # what failed once is not tried in further rounds
        again = (
            True  # until a second measurement was as bad as the first: the load is there to stay
        )
        top = known_ceilings(folder.path, env)
        done = 0.0
        all_work = sum(work(case) for _, case in todo)
        with Progress(console) as progress:
            for number, (round_, case) in enumerate(todo, 1):
                progress.show(sweep.name, done, all_work, f"{number}/{len(todo)}: {case.label}")
                done += work(case)
                if case.key in lost:
                    continue
                kept = keep if round_ == 1 else None
                before = folder.records
                record = run_case(case, sweep, folder.path, env, download, round_, kept, before)
                if again and (why := why_invalid(record, top)):
                    progress.say(f"[{number}/{len(todo)}] {case.label}: {why}, measured again")
                    record = run_case(case, sweep, folder.path, env, download, round_, kept, before)
                    again = not why_invalid(record, top)
                folder.append(record)
                said = f"{describe_case(case)}: {describe_outcome(record)}"
                progress.say(f"[{number}/{len(todo)}] {said}")
                if not record.ok:
                    lost.add(case.key)
        return folder.records
    except KeyboardInterrupt:
        safe = f"{len(folder.records)} records are in {path}"
        say(f"stopped; {safe}, --resume goes on from there", console)
        raise
    finally:
        folder.close()


def describe_run(sweep: Sweep) -> dict[str, Any]:
    """What a run's `run.json` says."""
    return {
        "name": sweep.name,
        "started_at": now(),
        "device": sweep.device,
        "cases": [case.key for case in sweep.cases],
        "experiment": sweep.experiment.model_dump(mode="json"),
        "foreign": sweep.foreign,
        "plugins": plugins.hashes(),
        "settings": savings.settings_hashes(sweep.cases),
    }


def remaining_measurements(sweep: Sweep, records: list[Record]) -> list[tuple[int, Case]]:
    """(round, case) of what was not measured yet.

    Every other round goes backwards: a machine that slows down steadily then treats the cases
    alike.
    """
    done = {(record.key, record.round) for record in records}
    failed = {record.key for record in records if not record.ok}
    return [
        (round_, case)
        for round_ in range(1, sweep.experiment.rounds + 1)
        for case in (sweep.cases if round_ % 2 else reversed(sweep.cases))
        if case.key not in failed and (case.key, round_) not in done
    ]


def run_case(
    case: Case,
    sweep: Sweep,
    folder: Path,
    env: dict[str, Any],
    download: bool = False,
    round_: int = 1,
    keep: dict[str, Path] | None = None,
    before: Sequence[Record] = (),
    measure: Measure | None = None,
) -> Record:
    """The record of one case in one round, whatever happens to its process.

    measure: what runs the case, `run_in_process` by default.
    before: the run's records so far; a case that needs more memory than there is, or that differs
    from one which ran out by a larger batch alone, is not started.
    """
    most = limit.memory_limit_of(case, env)
    if known := limit.foresee_out_of_memory(case, most, before):
        return make_record(case, sweep, env, round_, known, None, now(), 0.0)
    experiment, predicted = sweep.experiment, prediction_or_none(case)
    other = sweep.baseline_case(case) if experiment.paired else None
    alone = other is not None and other != case and not limit.fits_beside(case, other, most)
    job = {
        "case": case.model_dump(),
        "effort": {f.name: getattr(experiment, f.name) for f in fields(Effort)},
        "stream_seconds": experiment.stream_seconds,
        "paired_with": other.model_dump() if other and other != case and not alone else None,
        "download": download,
        "keep": {k: str(tracing.output_file(k, to, case)) for k, to in (keep or {}).items()},
    }
    began, started_at = time.monotonic(), now()
    others, kills = machine.OtherLoad(), machine.oom_kills()
    log = folder / "logs" / f"{case.key}-{round_}.log"
    result = (measure or run_in_process)(job, experiment.timeout_s, log)
    if result["status"] == "killed":
        result["status"] = "oom" if machine.oom_kills() > kills else "error"
    if result["status"] == "oom" and predicted:
        need = f"needs at least {predicted.need_bytes / GIB:.1f} GiB for weights and KV cache"
        result["reason"] = "; ".join(filter(None, [result.get("reason"), need]))
    load, took = round(others.cores(), 3), round(time.monotonic() - began, 3)
    if other and alone and result["status"] == "ok":
        result["paired"] = {"baseline": other.key, "reason": "no memory for both, as predicted"}
    if result["status"] == "ok" and (hashes := hashes_of(case)):
        result["weights_sha256"] = hashes
    return make_record(case, sweep, env, round_, result, load, started_at, took)


def make_record(
    case: Case,
    sweep: Sweep,
    env: dict[str, Any],
    round_: int,
    result: dict[str, Any],
    other_load_cores: float | None,
    started_at: str,
    duration_s: float,
) -> Record:
    """What is kept of a case's result, or of why there is none."""
    found = {
        "key": case.key,
        "round": round_,
        "experiment": sweep.name,
        "method": case.label,
        "batch_size": case.batch_size,
        "stack": case.stack,
        "precision": case.precision,
        "device": case.device,
        "weights": case.weights,
        "trained_as": trained_as(case),
        "steps": case.steps,
        "case": case.model_dump(),
        "paper_row": row.label if (row := sweep.paper_rows.get(case.key)) else None,
        "baseline": sweep.baseline_of(case.model_dump()),
        "reason": None,
        **result,
        "predicted": told.figures() if (told := prediction_or_none(case)) else None,
        "machine": env["machine"],
        "commit": env["commit"],
        "dirty": env["dirty"],
        "torch": env["packages"]["torch"],
        "other_load_cores": other_load_cores,
        "started_at": started_at,
        "duration_s": duration_s,
    }
    return Record.model_validate(found)


def run_in_process(job: dict[str, Any], timeout_s: float, log: Path) -> dict[str, Any]:
    """Runs `bench.measure.child`; its result, or a status and the reason why there is none."""
    case = make_case(job["case"])
    most = limit.memory_limit_of(case, {"gpus": []})  # of a GPU its allocator takes care
    child, ready = start_child(log)
    watch = limit.MemoryWatch(child, ready, most if case.device == "cpu" else math.inf)
    try:
        with watch:
            output, _ = child.communicate(json.dumps(job).encode(), timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return timeout_result(timeout_s)
    finally:
        kill(child)
    if watch.ended:
        held, may = limit.format_bytes(watch.peak_bytes), limit.format_bytes(most)
        return {"status": "oom", "reason": f"held {held}, may take {may}"}
    result = parse_result(output, child, log)
    if result["status"] == "failed":  # no telling by its words whether memory was what it lacked
        too_large = case.device == "cpu" and limit.may_exceed(case, most)
        result["status"] = "oom" if too_large else "error"
    return result


def start_child(log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A child that waits for jobs, its standard error in the log; and the read end of a pipe whose
    other end it closes once its imports are done."""
    environ = {
        **machine.CHILD_ENVIRON,
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(CODE), os.environ.get("PYTHONPATH", "")]),
    }
    try:
        errors = open(log, "wb")  # noqa: SIM115
    except OSError as e:
        raise UsageError(f"{log}: cannot be written ({e.strerror})") from None
    ready, says_ready = os.pipe()
    with errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.measure.child", str(os.getpid()), str(says_ready)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environ,
            pass_fds=[says_ready],
            start_new_session=True,  # Ctrl-C is for the runner, which ends the child
        )
    os.close(says_ready)
    return child, ready


def kill(child: subprocess.Popen[bytes]) -> None:
    """Kills a child that still runs, and its process group."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def timeout_result(timeout_s: float) -> dict[str, Any]:
    """The result of a case that took longer than it may."""
    return {"status": "timeout", "reason": f"took longer than {timeout_s:g} s"}


def parse_result(output: bytes, child: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """A child's result; where it left none, how it ended."""
    try:
        return json.loads(output)
    except ValueError:
        if child.wait() == -signal.SIGKILL:
            return {"status": "killed", "reason": "killed by SIGKILL"}
        return {"status": "failed", "reason": f"crashed: {describe_exit(child.returncode, log)}"}


def describe_exit(returncode: int, log: Path) -> str:
    """The signal that ended a child, or its exit code and last words."""
    if returncode < 0:
        return signal.Signals(-returncode).name
    lines = log.read_text("utf-8-sig", errors="replace").strip().splitlines()
    return f"exit {returncode}" + (f", {lines[-1]}" if lines else "")


def describe_case(case: Case) -> str:
    """A case in a few words."""
    how = f"batch {case.batch_size}, {case.stack} {case.precision}, {case.device}"
    return f"{case.label}, {how}"


def describe_outcome(record: Record) -> str:
    """What became of a case, in a few words."""
    if record.samples is None or record.memory is None:
        return f"{OUT_OF_MEMORY.get(record.status, record.status.upper())} ({record.reason})"
    latency = statistics.median(record.samples.latency_s)
    busy = " (machine busy)" if (record.other_load_cores or 0) > machine.BUSY_CORES else ""
    return f"{latency:.3g} s, {record.memory.total_mib:.0f} MiB{busy}"
