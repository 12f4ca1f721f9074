"""Images made by program: one of ten shapes on a ground, each with a colour and a texture.

The class is the shape: what it is and where it stands is the layout, which coarse scales must
settle; the two textures are the detail, which is left to late ones.  Textures keep their phase
to the picture, with periods of one or two latent cells (4 pixels): area shrinking hides a free
phase from every coarse scale, and tokens drawn independently could then never agree on it.

Image n of a split depends on (seed, split, n) only, so there is no end to them and no file.
Images of another kind of device differ by float rounding.

Shapes: B images, H = W = side, u v coordinates in which the shape has radius about 1.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

TEXTURES = ("flat", "gradient", "stripes", "fine stripes", "checker", "dots")
SPLITS = {"train": 0, "test": 1}
#: Light and dark tone of eight hues, RGB in [0, 1].
LIGHT = torch.tensor(
    [
        [0.92, 0.26, 0.21],  # red
        [1.00, 0.60, 0.12],  # orange
        [0.98, 0.90, 0.25],  # yellow
        [0.36, 0.80, 0.33],  # green
        [0.25, 0.82, 0.86],  # cyan
        [0.27, 0.45, 0.95],  # blue
        [0.72, 0.40, 0.92],  # violet
        [0.95, 0.95, 0.95],  # white
    ]
)
DARK = LIGHT * 0.45
CELL = 4  # pixels of a latent cell
_DRAWS = 12  # random numbers kept for an image; a multiple of the four of a Philox step


@dataclass(frozen=True)
class World:
    """side: pixels, a multiple of 8.  seed: of the whole world."""

    side: int = 64
    seed: int = 0

    def images(
        self, split: str, first: int, count: int, device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images first..first + count - 1 of a split ("train" or "test"):
        (B, 3, H, W) float32 in [0, 1] and (B,) int64 classes."""
        is_ = self.factors(split, first, count, device)
        ground = self._painted(is_["ground_hue"], is_["ground_texture"])
        shape = self._painted(is_["shape_hue"], is_["shape_texture"])
        return ground.lerp_(shape, self._coverage(is_)[:, None]), is_["shape"]

    def factors(
        self, split: str, first: int, count: int, device: torch.device | str = "cpu"
    ) -> dict[str, torch.Tensor]:
        """All that tells these images from others, (B,) each.

        shape, shape_hue, ground_hue, shape_texture, ground_texture: int64, a number below that of
        `CHOICES`.  x, y: of the centre, and radius: float32, in pixels.  tilt: in radians.
        """
        draws_BD = torch.from_numpy(self._draws(split, first, count)).to(device)
        pick, where = draws_BD[:, :5].T, draws_BD[:, 5:9].T
        hue = (pick[1] * len(LIGHT)).long()
        radius = self.side * (0.30 + 0.10 * where[0])
        # The centre strays by as much as keeps nearly all of the shape inside.
        x, y = self.side / 2 + (where[2:4] - 0.5) * 2 * (0.46 * self.side - radius)
        return {
            "shape": (pick[0] * len(CLASSES)).long(),
            "shape_hue": (hue + 1 + (pick[2] * (len(LIGHT) - 1)).long()) % len(LIGHT),
            "ground_hue": hue,
            "shape_texture": (pick[4] * len(TEXTURES)).long(),
            "ground_texture": (pick[3] * len(TEXTURES)).long(),
            "x": x,
            "y": y,
            "radius": radius,
            "tilt": (where[1] - 0.5) * 0.6,
        }

    def _draws(self, split: str, first: int, count: int) -> np.ndarray:
        """(B, _DRAWS) float32 uniform in [0, 1).  A counter-based generator: image n has its
        own stretch of the stream, so any of them can be made without the others."""
        key = np.array([self.seed, SPLITS[split]], dtype=np.uint64)
        stream = np.random.Philox(key=key).advance(first * (_DRAWS // 4))
        draws = np.random.Generator(stream).random((count, _DRAWS)).astype(np.float32)
        return np.minimum(draws, np.float32(1 - 2**-24))  # a double just below 1 is rounded to it

    def _painted(self, hue: torch.Tensor, texture: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) the two tones of a hue, mixed as the texture says."""
        light, dark = (tones.to(hue.device)[hue][:, :, None, None] for tones in (LIGHT, DARK))
        return torch.lerp(light, dark, self._textures.to(hue.device)[texture][:, None])

    @cached_property
    def _textures(self) -> torch.Tensor:
        """(6, H, W) share of the dark tone."""
        x = torch.arange(self.side)[None, :].expand(self.side, -1)
        y = x.T
        in_tile = (x % (2 * CELL) - CELL + 0.5).square() + (y % (2 * CELL) - CELL + 0.5).square()
        maps = {
            "flat": torch.zeros_like(x),
            "gradient": y / (self.side - 1),
            "stripes": y // CELL % 2,
            "fine stripes": x // (CELL // 2) % 2,
            "checker": (x // CELL + y // CELL) % 2,
            "dots": in_tile < 4.6,
        }
        return torch.stack([maps[name].float() for name in TEXTURES])

    def _coverage(self, factors: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, H, W) how much of each pixel the shape covers."""
        labels, radius, tilt = (factors[name] for name in ("shape", "radius", "tilt"))
        side = self.side
        pixels = torch.arange(side, device=labels.device) + 0.5
        cover = torch.empty(len(labels), side, side, device=labels.device)
        for label, shape in enumerate(_SHAPES.values()):
            of = (labels == label).nonzero()[:, 0]
            c, s = ((f(tilt[of]) / radius[of])[:, None, None] for f in (torch.cos, torch.sin))
            dx = pixels[None, None, :] - factors["x"][of][:, None, None]
            dy = pixels[None, :, None] - factors["y"][of][:, None, None]
            depth = shape(c * dx + s * dy, c * dy - s * dx)
            cover[of] = depth.mul_(radius[of][:, None, None]).add_(0.5).clamp_(0, 1)
        return cover


# The shapes: how deep a point lies inside, about 1 per unit of length; v points down.

Depth = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _disc(u, v):
    return 0.95 - torch.hypot(u, v)


def _square(u, v):
    return 0.82 - torch.maximum(u.abs(), v.abs())


def _triangle(u, v):
    v = v - 0.2
    return 0.55 - torch.maximum(v, 0.866 * u.abs() - 0.5 * v)


def _star(u, v):
    tenth = math.pi / 5
    angle = torch.atan2(u, -v)
    fold = (torch.remainder(angle + tenth, 2 * tenth) - tenth).abs()
    length = torch.hypot(u, v)
    x, y = length * fold.cos(), length * fold.sin()
    tip, inner = (1.1, 0.0), (0.45 * math.cos(tenth), 0.45 * math.sin(tenth))
    edge = math.hypot(tip[0] - inner[0], inner[1])
    return ((tip[0] - x) * inner[1] - y * (tip[0] - inner[0])) / edge


def _ring(u, v):
    return 0.26 - (torch.hypot(u, v) - 0.72).abs()


def _cross(u, v):
    u, v = u.abs(), v.abs()
    return torch.minimum(1.0 - torch.maximum(u, v), 0.3 - torch.minimum(u, v))


def _crescent(u, v):
    return torch.minimum(1.0 - torch.hypot(u, v), torch.hypot(u - 0.5, v) - 0.72)


def _heart(u, v):
    u = u.abs()
    lobe = 0.52 - torch.hypot(u - 0.46, v + 0.3)
    point = (0.98 - u - (v + 0.02).abs()) * 0.7071
    return torch.maximum(lobe, point)


def _flower(u, v):
    length = torch.hypot(u, v)
    petals = 0.78 + 0.26 * torch.cos(5 * torch.atan2(u, -v))
    # Divided by about the slope across an outline that winds; the middle is a hole.
    return torch.minimum((petals - length) * 0.6, length - 0.2)


def _bow_tie(u, v):
    u, v = u.abs(), v.abs()
    return torch.minimum(1.0 - u, (0.1 + 0.75 * u - v) * 0.8)


_SHAPES: dict[str, Depth] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "crescent": _crescent,
    "heart": _heart,
    "flower": _flower,
    "bow tie": _bow_tie,
}
CLASSES = tuple(_SHAPES)
#: How many there are of each factor that is one of a few.
CHOICES = {"shape": len(CLASSES), "shape_hue": len(LIGHT), "ground_hue": len(LIGHT)}
CHOICES |= {"shape_texture": len(TEXTURES), "ground_texture": len(TEXTURES)}


def picture(columns: int = 12) -> torch.Tensor:
    """(3, H, W) the first test images of each class, a row a class."""
    images, labels = World().images("test", 0, 400)
    rows = [torch.cat(tuple(images[labels == c][:columns]), dim=2) for c in range(len(CLASSES))]
    return torch.cat(rows, dim=1)


def main(arguments: list[str]) -> int:
    """Writes the picture; gives the exit code."""
    from torchvision.utils import save_image

    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m codevar.mini.world FILE.png", file=sys.stderr)
        return 2
    try:
        save_image(picture(), arguments[0])
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or e
        print(f"{arguments[0]}: the picture cannot be written ({reason})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":  # python -m codevar.mini.world docs/pictures/mini-world.png
    sys.exit(main(sys.argv[1:]))
