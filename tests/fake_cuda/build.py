"""Builds the fake CUDA and says what to run torch with.

    env $(python tests/fake_cuda/build.py DIR) python bench.py run code_table3

Needs g++ and nm, and the headers that come with torch's CUDA packages; raises RuntimeError with
the reason where something is missing.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LIBRARIES = (
    "libtorch_cuda.so", "libtorch_cuda_linalg.so", "libc10_cuda.so", "libtorch_python.so",
    "libcaffe2_nvrtc.so",
)  # fmt: skip
OURS = ("cuda", "cublas", "cuModule")
REAL = ("cudaLibrary", "cublasLtGetVersion", "cudaRuntimeGetVersion")  # theirs work without a GPU
# The one header of nvcc's that the others include: it names properties of code for the GPU.
HOST_DEFINES = """
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define __host__
#define __device__
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline
#define __specialization_static
"""


def build(folder: Path) -> dict[str, str]:
    """Environment variables that put the fake CUDA, built into the folder, before torch's."""
    if missing := [tool for tool in ("g++", "nm") if not shutil.which(tool)]:
        raise RuntimeError(f"no {' or '.join(missing)} here")
    torch, nvidia = (location(name) for name in ("torch", "nvidia"))
    headers = sorted(nvidia.glob("*/include/cuda_runtime_api.h"))
    if not headers or not (torch / "lib" / LIBRARIES[0]).exists():
        raise RuntimeError("this torch was not built for CUDA")
    (folder / "crt").mkdir(parents=True, exist_ok=True)
    (folder / "crt/host_defines.h").write_text(HOST_DEFINES)
    includes = [f"-I{headers[-1].parent}", f"-I{folder}"]
    compile_ = ["g++", "-std=c++17", "-O1", "-fPIC", *includes, "-c"]
    run(*compile_, HERE / "cuda.cpp", "-o", folder / "cuda.o")
    here = symbols("--defined-only", folder / "cuda.o", dynamic=False)
    wanted = [symbols("--undefined-only", torch / "lib" / name) for name in LIBRARIES]
    rest = {n for n in set().union(*wanted) - here if n.startswith(OURS) and not n.startswith(REAL)}
    succeed = [f'extern "C" int {name}() {{ return 0; }}\n' for name in sorted(rest)]
    (folder / "rest.cpp").write_text("".join(succeed))
    library = folder / "libcuda.so.1"
    run("g++", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", folder / "cuda.o",
        folder / "rest.cpp", "-o", library)  # fmt: skip
    (folder / "libcuda.so").unlink(missing_ok=True)
    (folder / "libcuda.so").symlink_to(library.name)  # Triton links to it
    return {
        "FAKE_CUDA": "1",
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": str(folder),
        "TRITON_LIBCUDA_PATH": str(folder),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "PYTHONPATH": str(HERE / "site"),
    }


def location(package: str) -> Path:
    """Where it is installed, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"no package {package} here")
    return Path(next(iter(found.submodule_search_locations)))


def symbols(kind: str, library: Path, dynamic: bool = True) -> set[str]:
    """Names that a library lacks ("--undefined-only") or has ("--defined-only")."""
    told = run("nm", *["-D"] * dynamic, kind, library)
    return {line.split()[-1].split("@")[0] for line in told.splitlines()}


def run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(*(f"{name}={value}" for name, value in build(Path(sys.argv[1])).items()))
    except RuntimeError as e:
        sys.exit(f"build.py: {e}")
