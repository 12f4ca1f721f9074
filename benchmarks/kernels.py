"""Each part of `modern` on a CPU against what it stands in for, at sizes of a decode; and what
methods that leave something out add to a layer.

    python benchmarks/kernels.py          # a minute, on a quiet machine

The numbers in docs/notes/performance.md come from here.  Shapes: n rows of a matrix, C width,
B rows of a batch, H heads, L queries, K keys, c channels of a head, V codes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.benchmark import Timer

from bench.measure import machine
from codevar import VQVAE, VQVAEConfig, eviction, pruning
from codevar.cache import quantised, restored
from codevar.noise import Noise, hashed
from codevar.packed import attend, can_pack, packed
from codevar.quantised import KINDS, of_linear
from codevar.sampling import ScaleSampling, draw, draw_as_published
from codevar.sampling_settings import Sampling
from codevar.scales import PATCH_SIZES_256, Scales

Run = Callable[[], object]
SECONDS = 1.0
NAMES = {torch.float32: "float32", torch.bfloat16: "bf16"}


def parts() -> Iterator[tuple[str, str, Run, Run]]:
    """What it is, at what size, as torch has it, as `modern` has it (with AMX its attention is
    torch's)."""
    for dtype, name in NAMES.items():
        if not can_pack(dtype):
            continue
        fc1 = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(approximate="tanh")).to(dtype)
        fc2 = nn.Linear(4096, 1024).to(dtype)
        fast1 = packed(fc1[0].weight, fc1[0].bias, gelu=True)
        fast2 = packed(fc2.weight, fc2.bias)
        eight = {kind: of_linear(one, fc2, fc2.bias) for kind, one in KINDS.items()}
        for n in (2, 50, 512):
            x, h = (torch.randn(1, n, C, dtype=dtype) for C in (1024, 4096))
            yield f"linear and GELU, {name}", f"n {n}, C 1024", *bound(fc1, fast1, x)
            yield f"linear, {name}", f"n {n}, C 4096 to 1024", *bound(fc2, fast2, h)
            for kind, layer in eight.items():  # against the packed one
                yield f"linear, {kind} {name}", f"n {n}, C 4096 to 1024", *bound(fast2, layer, h)
    for B, H, L, K, c in ((2, 16, 16, 30, 64), (2, 16, 256, 680, 64), (128, 4, 144, 448, 32)):
        q, k, v = (torch.randn(B, H, n, c).bfloat16() for n in (L, K, K))
        size = f"B {B}, H {H}, L {L}, K {K}, c {c}"
        yield (
            "attention in pieces, bf16",
            size,
            *bound(F.scaled_dot_product_attention, attend, q, k, v),
        )
    for B, tokens, C, V in ((1, 256, 1024, 4096), (64, 144, 128, 512)):
        head, h_2BlC = nn.Linear(C, V), torch.randn(2 * B, tokens, C)
        at, noise = Sampling().at(9, Scales(PATCH_SIZES_256)), torch.Generator()
        yield (
            "head, guidance, top-k, top-p, draw",
            f"B {B}, {tokens} tokens, C {C}, V {V}",
            functools.partial(as_published, head, h_2BlC, at, noise),
            functools.partial(guided_first, head, h_2BlC, at, noise),
        )
    for dtype, name in NAMES.items():
        torch.manual_seed(0)
        vqvae = VQVAE(VQVAEConfig())
        for weight in vqvae.parameters():
            nn.init.normal_(weight, std=0.02)
        plain = vqvae.cast(dtype)
        last = copy.deepcopy(plain)
        last.decoder.to(memory_format=torch.channels_last)
        f_hat = torch.randn(1, 32, 16, 16)
        yield (
            f"VQVAE's decoder, {name}",
            "B 1, 256 px",
            *bound(plain.decode_features, last.decode_features, f_hat),
        )


def added() -> Iterator[tuple[str, str, Run]]:
    """What methods that leave something out add to a layer, at the last scale of VAR-d16."""
    B, H, L, K, C = 2, 16, 256, 680, 1024
    x_BlC, source_BmC = torch.randn(B, L, C), torch.randn(B, 100, C)
    salt_B, about = torch.arange(B), (9, 0)
    tokens_by_chance = functools.partial(hashed, salt_B, about, L)
    farthest = functools.partial(pruning.farthest, x_BlC, L // 2, tokens_by_chance)
    at_random = functools.partial(pruning.random, x_BlC, L // 2, tokens_by_chance)
    kept_Bk = farthest()
    some_BkC, full_BlC = pruning.taken(x_BlC, kept_Bk), pruning.enlarged(source_BmC, L)
    size = f"B {B}, {L} tokens, half of them kept, C {C}"
    yield "choose by distance", size, farthest
    yield "choose at random", size, at_random
    yield "gather", size, lambda: pruning.taken(x_BlC, kept_Bk)
    yield "enlarge what is restored", f"B {B}, 100 to {L}", lambda: pruning.enlarged(source_BmC, L)
    yield "scatter", size, lambda: pruning.put(full_BlC, kept_Bk, some_BkC)
    q, k = torch.randn(B, H, 16, C // H), torch.randn(B, H, K, C // H)
    seen_o = torch.arange(K - L, K, L // 16)
    size = f"B {B}, H {H}, {K} keys, 200 stay"
    of = eviction.Keys(k, q, seen_o, lambda: hashed(salt_B, about, H * K).unflatten(-1, (H, K)))

    def by_attention() -> torch.Tensor:
        return eviction.chosen(eviction.observed(of), seen_o, 200)

    yield "choose keys by attention", size, by_attention
    yield "choose keys at random", size, lambda: eviction.random(of).topk(200)
    at_BHn1 = by_attention()[..., None].expand(-1, -1, -1, C // H)
    yield "gather keys", size, lambda: k.gather(2, at_BHn1)
    for bits in (8, 4):
        codes, factor = quantised(k, bits)
        size = f"B {B}, H {H}, {K} keys"
        yield f"pack keys in {bits} bits", size, functools.partial(quantised, k, bits)
        yield f"unpack keys of {bits} bits", size, functools.partial(restored, codes, factor, bits)


def as_published(
    head: nn.Linear, h_2BlC: torch.Tensor, at: ScaleSampling, noise: Noise
) -> torch.Tensor:
    """Token ids [B, l]: logits of both halves, guided, filtered and drawn as the published code
    does."""
    return draw_as_published(head(h_2BlC), [h_2BlC.shape[1]], [at], noise)


def guided_first(
    head: nn.Linear, h_2BlC: torch.Tensor, at: ScaleSampling, noise: Noise
) -> torch.Tensor:
    """Token ids [B, l]: guidance before the head, so that the head runs on half the rows."""
    return draw(at.kept(head(at.guided(h_2BlC))), at.temperature, noise)


def bound(plain: Callable, ours: Callable, *given: torch.Tensor) -> tuple[Run, Run]:
    """Both implementations as calls without arguments."""
    return lambda: plain(*given), lambda: ours(*given)


def median_ms(run: Run) -> float:
    """Median milliseconds of one call, after a warm-up."""
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=SECONDS).median * 1e3


@torch.no_grad()
def main() -> None:
    """Time every part both ways and print the table."""
    table = Table("part", "size", "torch ms", "modern ms", "ratio", title="modern's parts on a CPU")
    for part, size, plain, ours in parts():
        before, after = median_ms(plain), median_ms(ours)
        table.add_row(part, size, f"{before:.3g}", f"{after:.3g}", f"{before / after:.2f}")
    block = Table("part", "size", "ms", title="What methods add to a layer, float32")
    for part, size, run in added():
        block.add_row(part, size, f"{median_ms(run):.3g}")
    env = machine.environment()
    Console(width=110).print(table, block)
    told = f"{env['cpu']}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{told}, commit {env['commit'][:9]}")


if __name__ == "__main__":
    main()
