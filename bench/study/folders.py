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
#: Records of other machines, below which no command writes; read only where they are asked for.
SHIPPED = _OURS / "results" / "shipped"

_MADE = CODE if IN_CHECKOUT else Path.cwd()
RESULTS = _MADE / "results"
PLOTS = _MADE / "plots"


def is_shipped(path: Path) -> bool:
    """Whether it is one of the records that come with the project."""
    return path.resolve().is_relative_to(SHIPPED)
