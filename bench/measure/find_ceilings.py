"""What a device can do at best: matrix products, memory traffic, launches.

Each figure is the best of several blocks; a block is calls back to back for a tenth of a second
or more, so that a rate is one that the device sustains, and comes after calls that warm it up.
On a GPU CUDA events take the time, elsewhere the monotonic clock.  Best and not median, because
these are ceilings: whatever else the machine does can only lower them.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch
import torch.nn.functional as F

from bench.measure import machine, timing
from bench.measure.card import make_current
from bench.predict.ceilings import Ceilings, Product
from bench.study.units import GIB
from codevar.packed import can_pack, packed
from codevar.stacks import PRECISIONS

BLOCK_S, FIGURE_S = 0.1, 1.0  # of a block; of all blocks of one figure
# Rows of a product: two for each image (guidance), 256 tokens at the last scale.
ROWS = {"cpu": (2 * 1 * 256, 2 * 8 * 256), "cuda": (2 * 8 * 256, 2 * 64 * 256)}
WIDTHS = (1024, 1920)  # VAR-d16, VAR-d30
SQUARE = {"cpu": 4096, "cuda": 8192}
# fp16 is left out on a CPU, where the runner refuses it.
KINDS = {"cpu": ("float32", "bf16"), "cuda": ("float32", "tf32", "bf16", "fp16")}


def measure_ceilings(device: torch.device) -> Ceilings:
    """Takes about a second for each figure."""
    make_current(device)
    shapes = product_shapes(device)
    products = [
        measure_product(kind, *shape, device) for kind in KINDS[device.type] for shape in shapes
    ]
    copied, read = measure_bandwidths(device)
    one = torch.zeros(1, device=device)
    return Ceilings(
        device=str(device),
        threads=torch.get_num_threads(),
        products=products,
        copy_bytes_per_s=copied,
        read_bytes_per_s=read,
        launch_s=seconds_of(lambda: one.add_(1), device),
        measured_at=machine.now(),
    )


def product_shapes(device: torch.device) -> list[tuple[int, int, int]]:
    """M, K, N: a block's first feed-forward product at two widths and batches, and a square."""
    blocks = [(M, C, 4 * C) for M in ROWS[device.type] for C in WIDTHS]
    return [*blocks, (SQUARE[device.type],) * 3]


def measure_product(kind: str, M: int, K: int, N: int, device: torch.device) -> Product:
    """One product as the models call it, on either stack."""
    dtype = PRECISIONS["float32" if kind == "tf32" else kind]
    x_MK = torch.randn(M, K, device=device).to(dtype)
    weight_NK = torch.randn(N, K, device=device).to(dtype)
    ways: list[Callable[[], object]] = [lambda: F.linear(x_MK, weight_NK)]
    if device.type == "cpu" and can_pack(dtype):
        layer = packed(weight_NK, None)
        ways.append(lambda: layer(x_MK))
    with torch.no_grad(), allow_tf32(kind == "tf32"):
        seconds = min(seconds_of(way, device) for way in ways)
    return Product(precision=kind, M=M, K=K, N=N, flop_per_s=2 * M * K * N / seconds)


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 products may use TF32 inside; as before on leaving."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def measure_bandwidths(device: torch.device) -> tuple[float, float]:
    """Bytes/s of a copy (read and written) and of reading alone, over 1 GiB: beyond any cache.
    Less where memory is scarce."""
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    source = torch.ones(min(GIB, free // 8) // 4, device=device)
    target = torch.ones_like(source)
    copied = 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device)
    return copied, source.nbytes / seconds_of(lambda: source.sum(), device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, in the best of the blocks."""

    def block(calls: int) -> float:
        def run(mark: Callable[[int], None]) -> None:
            mark(0)
            for _ in range(calls):
                work()
            mark(1)

        return sum(timing.time_by_scale(run, device)) / calls

    block(1)
    calls = math.ceil(BLOCK_S / block(3))
    end, best = time.perf_counter() + FIGURE_S, block(calls)
    while time.perf_counter() < end:
        best = min(best, block(calls))
    return best
