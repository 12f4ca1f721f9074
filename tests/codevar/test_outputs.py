"""What a decode gives back to a person: a line on a prompt, and pictures on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from codevar import Decoded


def decoded(count):
    images = torch.linspace(0, 1, 3 * 4 * 5).reshape(1, 3, 4, 5).repeat(count, 1, 1, 1)
    return Decoded(torch.zeros(count, 30, dtype=torch.long), images)


def test_its_repr_is_a_line():
    assert repr(decoded(2)) == "Decoded(2 images of 4 x 5, 30 tokens each)"


def test_one_image_is_one_file_and_several_are_numbered(tmp_path):
    one = decoded(1)
    assert one.save(tmp_path / "a.png") == [tmp_path / "a.png"]
    there = np.asarray(Image.open(tmp_path / "a.png")) / 255
    assert np.abs(there - one.images[0].permute(1, 2, 0).numpy()).max() <= 1 / 255
    paths = decoded(2).save(str(tmp_path / "b.png"))
    assert [path.name for path in paths] == ["b-1.png", "b-2.png"]
    assert all(path.is_file() for path in paths)


def test_an_ending_of_no_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown file extension"):
        decoded(1).save(tmp_path / "a.nope")
