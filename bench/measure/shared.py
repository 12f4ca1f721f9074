"""One process for several cases on a GPU, so that its start is paid once: `SharedProcess`.

To start Python, import torch and make CUDA's context takes ten seconds and more, often longer than
what is measured.  A case on a CPU has a process of its own all the same: there the memory of the
process is watched from its beginning.  So has what a case leaves its process changed by: one that
failed or ran out of memory, and `compiled`, whose graphs keep memory and blind torch's allocator.
"""

import json
import os
import selectors
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.measure import runner

ENDING_S = 10  # that a process may take to end which has closed its output


class SharedProcess:
    """Runs jobs as `runner.run_in_process` does, and keeps the process for the next one.

    started: whether one waits for a job.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._log = Path()

    @property
    def started(self) -> bool:
        """Whether a process waits for a job."""
        return self._child is not None and self._child.poll() is None

    def __call__(self, job: dict[str, Any], timeout_s: float, log: Path) -> dict[str, Any]:
        """The result of a job."""
        if job["case"]["device"] == "cpu":
            return runner.run_in_process(job, timeout_s, log)
        alone = job["case"]["stack"] == "compiled"
        if alone or not self.started:
            self.close()
            self._child, ready = runner.start_child(log)
            self._log = log
            os.close(ready)
        assert self._child is not None
        result = self._ask(self._child, job, timeout_s)
        if result["status"] == "failed":
            result["status"] = "error"
        if alone or result["status"] != "ok":
            self.close()
        return result

    def _ask(self, child: subprocess.Popen[bytes], job: dict[str, Any], timeout_s: float) -> Any:
        assert child.stdin is not None
        assert child.stdout is not None
        with suppress(BrokenPipeError):  # it has ended: how, is told below
            child.stdin.write(json.dumps(job).encode() + b"\n")
            child.stdin.flush()
        with selectors.DefaultSelector() as waiting:
            waiting.register(child.stdout, selectors.EVENT_READ)
            if not waiting.select(timeout_s):
                return runner.timeout_result(timeout_s)
        line = child.stdout.readline()
        if not line:
            with suppress(subprocess.TimeoutExpired):
                child.wait(ENDING_S)
            runner.kill(child)
        return runner.parse_result(line, child, self._log)

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._child is not None:
            runner.kill(self._child)
            for stream in (self._child.stdin, self._child.stdout):
                assert stream is not None
                with suppress(BrokenPipeError):
                    stream.close()
            self._child = None
