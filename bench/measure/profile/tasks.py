"""What a profile measures that is no case, each in a process of its own: `TASKS`.

    python -m bench.measure.profile.tasks RUNNER TASK DEVICE [ABOUT]

RUNNER: the process that this one must not outlive.  The result is one JSON object on standard
output; where it says why something went wrong, `reason` is one line.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import codevar
from bench.measure import find_ceilings, machine, runner
from bench.measure import selfcheck as checking
from bench.measure.card import make_current
from bench.measure.child import die_with_runner
from bench.methods.sources import reason
from bench.study.folders import CODE
from codevar.compiled import cannot_compile
from codevar.stacks import STACKS

#: Less of the tokens, and a stack decodes something else than the CPU does; ties account for some.
ALIKE = 0.95
LABELS = list(range(10))


def smoke(device: str, about: str) -> dict[str, Any]:
    """A decode of the mini world's CoDe on each stack, in float32 and greedy.

    stacks: of each the share of tokens that are those of `published` on the CPU, or why it failed.
    """
    wanted = tokens("published", "cpu")
    found: dict[str, Any] = {}
    for name in STACKS:
        try:
            found[name] = {"same": float((tokens(name, device) == wanted).double().mean())}
        except Exception as e:
            found[name] = {"reason": reason(e)}
    if why := cannot_compile(torch.device(device)):
        found["compiled"]["not_compiled"] = why
    wrong = [
        f"{name}: " + told.get("reason", f"{1 - told.get('same', 0):.1%} of the tokens differ")
        for name, told in found.items()
        if told.get("same", 0) < ALIKE
    ]
    status = {"status": "error", "reason": "; ".join(wrong)} if wrong else {"status": "ok"}
    return {**status, "stacks": found}


def tokens(name: str, device: str) -> torch.Tensor:
    """(10 images, tokens) of one decode, on the CPU."""
    how = codevar.stack(name, "float32")
    large, small = (
        how.prepare(codevar.load_var(f"mini_{size}", device=device)) for size in ("large", "small")
    )
    vqvae = how.prepare(codevar.load_vqvae("mini_vqvae", device=device))
    greedy = codevar.Sampling(cfg=3.0, top_k=1, top_p=0)
    plan = codevar.plan.code(large, small, draft_steps=6)
    return codevar.decode(plan, vqvae, LABELS, greedy, seed=0, stack=how).tokens.cpu()


def ceilings(device: str, about: str) -> dict[str, Any]:
    """`find_ceilings.measure_ceilings`."""
    found = find_ceilings.measure_ceilings(torch.device(device))
    return {"status": "ok", "ceilings": found.model_dump()}


def selfcheck(device: str, about: str) -> dict[str, Any]:
    """`selfcheck.selfcheck`, with as few pairs as may decide."""
    pairs = checking.LOOK if device == "cpu" else 10 * checking.LOOK
    found = checking.selfcheck(torch.device(device), depth=4, pairs=pairs)
    return {"status": "ok", "verdict": found.verdict, **asdict(found)}


def tests(device: str, about: str) -> dict[str, Any]:
    """The tests of one file that are marked gpu.  That some fail is a result."""
    import pytest

    class Counted:
        """passed, skipped: how many.  failed: names, those whose setup failed too."""

        def __init__(self) -> None:
            self.passed, self.skipped, self.failed = 0, 0, list[str]()

        def pytest_runtest_logreport(self, report: Any) -> None:
            self.passed += report.when == "call" and report.passed
            self.skipped += report.skipped
            self.failed += [report.nodeid] if report.failed else []

        def pytest_collectreport(self, report: Any) -> None:
            self.failed += [report.nodeid] if report.failed else []

    counted = Counted()
    code = int(pytest.main(["-m", "gpu", "-p", "no:cacheprovider", about], plugins=[counted]))
    if code > 1:
        told = "; ".join(counted.failed) or f"exit code {code}"
        return {"status": "error", "reason": f"pytest: {told}", **vars(counted)}
    return {"status": "ok", **vars(counted)}


TASKS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "smoke": smoke,
    "ceilings": ceilings,
    "selfcheck": selfcheck,
    "tests": tests,
}


def main() -> None:
    """Run the task that the arguments name; its result is one JSON line on stdout."""
    die_with_runner(runner=int(sys.argv[1]))
    out, sys.stdout = sys.stdout, sys.stderr
    task, device, about = [*sys.argv[2:], ""][:3]
    make_current(torch.device(device))
    try:
        found = TASKS[task](device, about)
    except Exception as e:
        found = {"status": "error", "reason": reason(e)}
    print(json.dumps(found), file=out)


def in_process(task: str, device: str, about: str, limit_s: float, log: Path) -> dict[str, Any]:
    """A task's result; where there is none, a status and the reason."""
    words = [sys.executable, "-m", "bench.measure.profile.tasks", str(os.getpid()), task, device]
    others = machine.OtherLoad()
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            [*words, about],
            cwd=CODE,
            env={**machine.CHILD_ENVIRON, **os.environ},
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for us, who end it
        )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return runner.timeout_result(limit_s)
    finally:
        runner.kill(process)
    found = runner.parse_result(output, process, log)
    if "ceilings" in found:
        found["ceilings"]["other_load_cores"] = round(others.cores(), 3)
    unknown = found["status"] in ("failed", "killed")
    return found | {"status": "error"} if unknown else found


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
