"""Every image in a folder is read, or is known as an image that is left out."""

import io

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.formats import READ, UNREAD, is_read, is_unread_image, left_out
from orchestrator.data.pixels import decode
from orchestrator.data.task import DataError


def encoded(kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("ending", READ)
def test_every_ending_that_is_read_is_decoded_under_that_name(ending):
    image = decode(encoded(READ[ending]), f"photo{ending.upper()}")
    assert image.size == (16, 16)


def test_no_ending_is_both_read_and_left_out():
    assert not READ.keys() & UNREAD.keys()
    assert is_read("a/PHOTO.JPE")
    assert not is_read("a/notes.txt")
    assert is_unread_image("IMG_0001.HEIC")
    assert not is_unread_image("a/notes.txt")


def test_the_line_about_images_left_out_counts_each_ending_and_says_what_to_do():
    line = left_out({".heic": 1_234, ".cr2": 2})
    assert "1,234 .heic" in line
    assert "2 .cr2" in line
    assert "heif-convert" in line


def test_what_a_file_holds_counts_and_not_its_ending():
    assert decode(encoded("PNG"), "lies.jpg").size == (16, 16)
    assert decode(encoded("JPEG"), "lies.heic").size == (16, 16)


def test_tga_is_looked_for_only_where_the_name_says_so():
    with pytest.raises(DataError, match="is not an image"):
        decode(encoded("TGA"), "photo.jpg")
