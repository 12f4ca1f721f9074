"""Pictures as users have them: what is read, and what is refused with its reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from codevar import pictures
from codevar.pictures import PictureError, find_classes, find_pictures, read_picture

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4)


def saved(array, mode=None, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array, mode).save(file, kind, **options)
    return file.getvalue()


def png_of_16_bits(channels: int) -> bytes:
    """Pillow reads these and does not write them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", 4, 3, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(4 * channels * 2) for _ in range(3))
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end


def test_a_disk_is_no_folder_of_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_OTHERS", 3)
    for number in range(3):
        (tmp_path / f"{number}.txt").touch()
    assert len(find_pictures(tmp_path).left_out) == 3
    (tmp_path / "3.txt").touch()
    with pytest.raises(PictureError, match="holds 4 other files and 0 pictures"):
        find_pictures(tmp_path)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_refused_whatever_the_channels(tmp_path, channels):
    (tmp_path / "a.png").write_bytes(png_of_16_bits(channels))
    with pytest.raises(PictureError, match="more than 8 bits a channel"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    "data",
    [
        saved(np.zeros((3, 4, 4), np.uint8)),
        saved(np.zeros((3, 4, 2), np.uint8)),
        saved(RAMP, transparency=0),
    ],
)
def test_transparency_is_refused(tmp_path, data):
    with pytest.raises(PictureError, match="it has an alpha channel"):
        read_picture(tmp_path / "a.png", data)


def test_a_file_of_several_pictures_is_refused(tmp_path):
    more = [Image.fromarray(RAMP + 9)]
    with pytest.raises(PictureError, match="several pictures in one file"):
        read_picture(
            tmp_path / "a.tiff", saved(RAMP, kind="TIFF", save_all=True, append_images=more)
        )


def test_a_picture_is_rgb_and_stands_as_its_camera_says(tmp_path):
    grey = np.asarray(read_picture(tmp_path / "a.png", saved(RAMP)))
    assert (grey == RAMP[..., None]).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = np.asarray(read_picture(tmp_path / "a.png", saved(RAMP, exif=exif)))
    assert (turned == np.rot90(RAMP, -1)[..., None]).all()


def test_folders_are_followed_and_what_is_left_out_is_named(tmp_path):
    for place in ("a/b.png/1.PNG", "a/2.jpeg", "a/._2.jpeg", "a/__MACOSX/3.png", "c.gif", "4.bmp"):
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / place).write_bytes(saved(RAMP))
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "in" / "a" / "b.png")
    found = find_pictures(tmp_path / "in")
    assert [file.name for file in found.files] == ["4.bmp", "2.jpeg", "1.PNG", "1.PNG"]
    assert found.told() == "no pictures and left out: ._2.jpeg, __MACOSX, c.gif"


def test_links_that_lead_back_are_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "link").symlink_to(tmp_path / other)
    with pytest.raises(PictureError, match="a link back to a folder that it lies in"):
        find_pictures(tmp_path)


def test_classes_have_labels_by_value_and_pictures(tmp_path):
    for name in ("10", "9", "x", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(saved(RAMP))
    found = find_classes(tmp_path)
    assert (found.classes, found.labels) == (["9", "10", "x"], [0, 1, 2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match="empty: a class without images"):
        find_classes(tmp_path)
