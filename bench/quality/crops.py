"""Pictures of any size as the models take them, and where a box or a mask comes to lie.

Shapes: H W pixels of the picture as it is, S of the models' square.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.study.errors import UsageError, as_usage_error
from codevar.pictures import PictureError, read_picture

Box = tuple[int, int, int, int]  # x0 y0 x1 y1, x1 and y1 outside


@dataclass(frozen=True)
class Crop:
    """The middle square of a picture, as the reference images of ImageNet's FID were cut (ADM's
    `center_crop_arr`): halved by means while the shorter side is twice too long, then scaled
    by a bicubic to a shorter side of `side`, then the middle is taken.

    width, height: of the picture as it is.
    """

    width: int
    height: int
    side: int

    def image(self, picture: Image.Image) -> torch.Tensor:
        """(3, S, S) in [0, 1]."""
        while min(picture.size) >= 2 * self.side:
            half = (picture.width // 2, picture.height // 2)
            picture = picture.resize(half, Image.Resampling.BOX)
        scale = self.side / min(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
        left, top = ((length - self.side) // 2 for length in size)
        middle = picture.crop((left, top, left + self.side, top + self.side))
        return torch.from_numpy(np.array(middle)).permute(2, 0, 1) / 255

    def mask(self, mask_HW: torch.Tensor) -> torch.Tensor:
        """(S, S) what a mask of the picture as it is comes to, by nearest neighbour."""
        return mask_HW[self._places(self.height)][:, self._places(self.width)]

    def _places(self, length: int) -> torch.Tensor:
        """(S,) pixels of the picture, along a side, under the middles of the square's."""
        shorter = min(self.width, self.height)
        scaled = round(length * self.side / shorter)
        first = (scaled - self.side) // 2
        middles = torch.arange(first, first + self.side) + 0.5
        return (middles * length / scaled).long()


def box_mask(box: Box, width: int, height: int) -> torch.Tensor:
    """(H, W) 1 inside the box.  Raises UsageError for one that is empty or not inside."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UsageError(
            f"--box {x0} {y0} {x1} {y1}: must be x0 y0 x1 y1 inside the picture, "
            f"0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
        )
    mask_HW = torch.zeros(height, width)
    mask_HW[y0:y1, x0:x1] = 1
    return mask_HW


@as_usage_error(PictureError)
def file_mask(path: Path, width: int, height: int) -> torch.Tensor:
    """(H, W) 1 where the picture in the file is light.  Raises UsageError."""
    picture = read_picture(path)
    if picture.size != (width, height):
        raise UsageError(
            f"{path}: a mask must be of its picture's size, {width} x {height}, "
            f"not {picture.width} x {picture.height}"
        )
    return torch.from_numpy(np.array(picture.convert("L")) >= 128).float()
