"""Where things are: in a checkout all of it below its root; installed, the project's own files in
the package and what commands make below the working folder."""

import sys
from pathlib import Path

#: The folder that Python imports `bench` and `codevar` from.
CODE = Path(__file__).parents[2]
IN_CHECKOUT = (CODE / "pyproject.toml").is_file() and (CODE / "experiments").is_dir()

#: What is typed to run this; help and messages say it.
PROGRAM = Path(sys.argv[0]).name
if PROGRAM not in ("bench.py", "codevar-bench"):  # a worker's process, or a test
    PROGRAM = "bench.py" if IN_CHECKOUT else "codevar-bench"

_OURS = CODE if IN_CHECKOUT else CODE / "bench" / "data"
EXPERIMENTS = _OURS / "experiments"
PAPERS = _OURS / "results" / "papers"

_MADE = CODE if IN_CHECKOUT else Path.cwd()
RESULTS = _MADE / "results"
PLOTS = _MADE / "plots"


def with_committed(results: Path = RESULTS) -> list[Path]:
    """Where to look for records: `results`, and for the default of it also what the project
    ships."""
    return list(dict.fromkeys([results, PAPERS.parent] if results == RESULTS else [results]))
