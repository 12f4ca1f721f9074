"""What a GPU machine without network needs to be profiled, in one archive: `make gpu-kit`.

    python -m bench.measure.profile.kit OUT [PYTHON]

The tree without pictures, documents, results and what only other tests read; the weights of the
mini world; and the wheels of what measuring needs, but for torch, numpy and what torch brings.
Tables and pictures are made where the results are brought to.

    python3 -m zipfile -e codevar-gpu-kit-1-of-1.zip codevar && cd codevar && make gpu MINUTES=9
"""

import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.measure.machine import COMMIT, git
from bench.study import storage
from bench.study.archive import MIB, pack
from bench.study.errors import UsageError
from bench.study.folders import CODE

NAME = "codevar-gpu-kit"
#: What `bench.measure` imports, the baselines' libraries, and the tests.
NEEDED = (
    "diffusers", "filelock", "huggingface-hub", "lazy-loader", "nvidia-ml-py", "packaging",
    "psutil", "py-cpuinfo", "pydantic", "pytest", "rich", "safetensors", "timm",
    "typer",
)  # fmt: skip
#: On any GPU machine; torchvision, and so pillow, must fit torch and comes with it.
THERE = ("torch", "numpy", "torchvision")
#: Needed for what a profile does not do: downloads.
NOT_USED = ("hf-xet",)
LEFT_OUT = ("docs/", "results/", "plots/", ".github/", ".ci/", "README.md")
#: The tests that need a GPU read these of `tests/data`.
READ_BY_TESTS = ("cases.npz", "seeded_weights.py", "baselines.npz", "baseline_layouts.json")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
MOST_MIB = 60


def closure(names: Iterable[str], python: str) -> dict[str, str]:
    """Versions of these packages and of all that they need, as they are installed here."""
    found: dict[str, str] = {}
    todo = [canonicalize_name(name) for name in names]
    where = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    while todo:
        name = todo.pop()
        if name in found:
            continue
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not needed on this platform
        found[name] = package.version
        needs = map(Requirement, package.requires or [])
        todo += [
            canonicalize_name(need.name)
            for need in needs
            if need.marker is None or need.marker.evaluate(where)
        ]
    return found


def wheels(python: str, to: Path) -> None:
    """Downloads the wheels of what is missing on a machine with torch.  Raises UsageError."""
    there = {*closure(THERE, python), *NOT_USED}
    wanted = {n: v for n, v in closure(NEEDED, python).items() if n not in there}
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    options += ["--python-version", python, *platforms, "--dest", str(to)]
    pins = [f"{name}=={version}" for name, version in sorted(wanted.items())]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, *pins]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UsageError(f"pip download: {lines[0] if lines else 'failed'}")


def tree() -> dict[str, Path]:
    """The files of the checkout that a profile needs."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=CODE, capture_output=True, text=True, check=True).stdout
    return {
        path: CODE / path
        for path in listed.splitlines()
        if (CODE / path).is_file() and is_needed(path)
    }


def is_needed(path: str) -> bool:
    """Whether a machine that only measures needs the file of the tree."""
    if path.startswith("tests/data/"):
        return path.endswith(READ_BY_TESTS)
    return path.startswith("results/papers/") or not path.startswith(LEFT_OUT)


def main() -> None:
    """Packs the kit and says what it weighs."""
    to, python = Path(sys.argv[1]), [*sys.argv[2:], "3.12"][0]
    with tempfile.TemporaryDirectory() as folder:
        wheels(python, Path(folder))
        commit = Path(folder) / COMMIT
        storage.write_json(commit, git())
        found = {f"wheels/{wheel.name}": wheel for wheel in sorted(Path(folder).glob("*.whl"))}
        sizes = {"tree": tree(), "wheels": found, "commit": {COMMIT: commit}}
        (file,) = pack({k: v for part in sizes.values() for k, v in part.items()}, NAME, to)
        for name, part in sizes.items():
            total = sum(path.stat().st_size for path in part.values())
            print(f"{name}: {len(part)} files, {total / MIB:.1f} MiB")
    size = file.stat().st_size / MIB
    print(f"{file}: {size:.1f} MiB, for Python {python} with torch")
    if size > MOST_MIB:
        sys.exit(f"kit: more than {MOST_MIB} MiB")


if __name__ == "__main__":
    try:
        main()
    except UsageError as e:
        sys.exit(f"kit: {e}")
