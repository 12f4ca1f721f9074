"""The noise that a draw needs: of one generator for a batch, or of a seed for each image.

Shapes: B images, l tokens of one scale, V codes, n numbers of one image, two of 32 bits each.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Iterator, Sequence

import torch

from codevar.transfer import send

# SplitMix64 (Steele, Lea and Flood, 2014): number i of a sequence is mix(seed + i * GAMMA).
GAMMA = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
CHUNK = 2**16  # numbers at a time: half a megabyte of doubles stays in the cache
#: One seed for a batch, or one for each of its images.
Seed = int | Sequence[int]


class ImageNoise:
    """Noise of a seed for each image: what one is given depends on nothing else in the batch.

    A generator for each image would be B launches a scale, of kernels far too small for a GPU,
    and on CUDA its numbers depend on the GPU's size.  So each number is computed from its place
    in its image's sequence alone: about twenty operations on the whole batch whatever B, in
    integers, which are the same on every device, and nothing waits for the GPU.  They go over
    memory about as often as the filters before them do.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        # Mixed once more, so that seeds in a row start far apart.
        starts = [signed(mix(operator.index(seed))) for seed in seeds]
        self.start_B = send(torch.tensor(starts, dtype=torch.int64), device)
        self.drawn = 0  # numbers of each image so far

    def bits(self, count: int) -> torch.Tensor:
        """(B, n) int64: the next numbers of each image's sequence, all 64 bits random."""
        first = self.drawn + 1
        self.drawn += count
        places_n = torch.arange(first, first + count, device=self.start_B.device)
        return scrambled(self.start_B[:, None] + places_n * signed(GAMMA))

    def skip(self, tokens: int, vocab: int) -> None:
        """As if `exponentials` had been asked for so many."""
        self.drawn += tokens * ((vocab + 1) // 2)

    def exponentials(self, like_BlV: torch.Tensor) -> torch.Tensor:
        """(B, l, V) float32, positive and finite."""
        B, tokens, V = like_BlV.shape
        pairs = (V + 1) // 2
        halves_BlV = self.bits(tokens * pairs).view(torch.int32).view(B, tokens, 2 * pairs)
        halves_BlV &= 0x7FFFFFFF
        # Uniform in (0, 1), finest at 0, as the smallest numbers win the race: -log(1 - u).
        u_BlV = halves_BlV[..., :V].float().add_(0.5).mul_(2**-31)
        return u_BlV.clamp_(max=1 - 2**-24).neg_().log1p_().neg_()

    def for_images(self, images: slice | torch.Tensor) -> ImageNoise:
        """The noise of these images."""
        part = copy.copy(self)
        part.start_B = self.start_B[images]
        return part


Noise = torch.Generator | ImageNoise


def noise_of(seed: Seed, images: int, device: torch.device) -> Noise:
    """What a batch of so many images is drawn from.

    Raises ValueError unless there is one seed, or one for each image, all whole numbers.
    """
    seeds = seed.tolist() if hasattr(seed, "tolist") else seed  # of tensors and arrays
    try:
        for number in seeds if isinstance(seeds, Sequence) else [seeds]:
            if not -(2**63) <= operator.index(number) < 2**64:
                raise TypeError  # 2**64 would be 0 again
        if not isinstance(seeds, Sequence):
            return torch.Generator(device).manual_seed(operator.index(seeds))
        if len(seeds) != images:
            raise ValueError(
                f"seed must be one number or one for each image: {len(seeds)} for {images}"
            )
        return ImageNoise(seeds, device)
    except (TypeError, RuntimeError):
        raise ValueError(f"seeds must be whole numbers of 64 bits, not {seeds!r}") from None


def alike(noise: Noise) -> Noise:
    """Another that gives what this one gives from its start, out of memory of its own."""
    if isinstance(noise, ImageNoise):
        twin = copy.copy(noise)
        twin.start_B, twin.drawn = noise.start_B.clone(), 0
        return twin
    return torch.Generator(noise.device).manual_seed(noise.initial_seed())


def reseed(noise: Noise, like: Noise) -> None:
    """Puts the noise, where it is, to the start of another of its kind."""
    if isinstance(noise, ImageNoise):
        assert isinstance(like, ImageNoise)
        noise.start_B.copy_(like.start_B)
        noise.drawn = 0
    else:
        assert isinstance(like, torch.Generator)
        noise.manual_seed(like.initial_seed())


def by_images(noise: Noise, groups: Iterable[slice]) -> Iterator[tuple[slice, Noise]]:
    """Groups of images, first to last, with what each is to draw from.  Together they take what
    the whole batch would: a generator's numbers come image after image."""
    own = noise
    for images in groups:
        own = noise.for_images(images) if isinstance(noise, ImageNoise) else noise
        yield images, own
    if isinstance(noise, ImageNoise) and isinstance(own, ImageNoise):
        noise.drawn = own.drawn


def exponentials(like_BlV: torch.Tensor, noise: Noise, as_published: bool = False) -> torch.Tensor:
    """(B, l, V) independent numbers of the exponential distribution.

    as_published: a generator's by torch's own kernel, which on a CPU takes the logarithms one by
    one.  Here they are vectorised: a third of the time, and the same numbers to the bit.
    """
    if isinstance(noise, ImageNoise):
        return noise.exponentials(like_BlV)
    drawn_BlV = torch.empty_like(like_BlV)
    if as_published or drawn_BlV.device.type != "cpu":
        return drawn_BlV.exponential_(generator=noise)
    for drawn_n in chunks(drawn_BlV):
        u_n = torch.empty_like(drawn_n, dtype=torch.float64).uniform_(generator=noise)
        drawn_n.copy_(u_n.neg_().log1p_().neg_())
    return drawn_BlV


def chunks(x: torch.Tensor) -> Iterable[torch.Tensor]:
    """The values of x in order, in pieces of `CHUNK`."""
    return x.view(-1).split(CHUNK)


def discard(noise: Noise, images: int, tokens: int, vocab: int, device: torch.device) -> None:
    """Goes on as if so many numbers had been drawn, as by `exponentials`."""
    if isinstance(noise, ImageNoise):
        noise.skip(tokens, vocab)
        return
    # On a GPU a generator's numbers depend on how many are drawn at once.
    at_once = CHUNK if device.type == "cpu" else images * tokens * vocab
    for first in range(0, images * tokens * vocab, at_once):
        count = min(at_once, images * tokens * vocab - first)
        exponentials(torch.empty(1, 1, count, device=device), noise)


def salt_of(noise: Noise, images: int, device: torch.device) -> torch.Tensor:
    """(B,) int64: what tells the images of a batch apart for `hashed`; of an image's own seed,
    where it has one."""
    if isinstance(noise, ImageNoise):
        return noise.start_B
    return scrambled(torch.arange(images, device=device))


def hashed(salt_B: torch.Tensor, about: tuple[int, ...], count: int) -> torch.Tensor:
    """(B, n) int64: random numbers that depend on nothing but the image and what they are about,
    and so take none of the noise that tokens are drawn with."""
    start = 0
    for value in about:
        start = mix(start + value + GAMMA)
    places_n = torch.arange(count, device=salt_B.device)
    return scrambled(salt_B[:, None] + places_n * signed(GAMMA) + signed(start))


def scrambled(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser, on int64, in place."""
    for shift, factor in MIX:
        high = x >> shift
        high &= (1 << 64 - shift) - 1  # the shift copies the sign, SplitMix wants zeros
        x ^= high
        if factor != 1:
            x *= signed(factor)
    return x


def mix(x: int) -> int:
    """SplitMix64's finaliser, on a Python number."""
    x &= 2**64 - 1
    for shift, factor in MIX:
        x = (x ^ x >> shift) * factor % 2**64
    return x


def signed(x: int) -> int:
    """The int64 with the bits of x, 0 <= x < 2^64."""
    return x - (x >> 63 << 64)
