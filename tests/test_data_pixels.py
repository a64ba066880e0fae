"""A picture is decoded as a viewer shows it: upright, transparency over white, else as before."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.images import ContentHashes
from orchestrator.data.pixels import as_seen, decode
from orchestrator.data.task import DataError
from orchestrator.data.transform import ImageTransform

Turn = Image.Transpose
STORED_AS = {
    1: None,
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_90,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_270,
}
"""How a camera has turned the upright picture that writes this EXIF orientation."""

LOSSLESS = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "TIFF LZW": {"compression": "tiff_lzw"},
}
ROUGH = {"JPEG": {"quality": 95}, "MPO": {"save_all": True}, "AVIF": {"quality": 95}}


def quarters() -> Image.Image:
    """Four colours, no two turns of which look alike."""
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:12, :20], pixels[:12, 20:] = (250, 30, 30), (30, 250, 30)
    pixels[12:, :20], pixels[12:, 20:] = (30, 30, 250), (220, 220, 220)
    return Image.fromarray(pixels)


def stored(orientation: int, kind: str) -> bytes:
    """The upright picture as a camera stores it."""
    turn = STORED_AS[orientation]
    picture = quarters() if turn is None else quarters().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {**LOSSLESS, **ROUGH}[kind]
    if kind == "MPO":
        options = {**options, "append_images": [picture.rotate(90)]}
    return encoded(picture, kind.split()[0], exif=exif, **options)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("kind", [*LOSSLESS, *ROUGH])
def test_a_photo_is_turned_upright_however_the_camera_was_held(kind, orientation):
    data = stored(orientation, kind)
    found = decode(data, "photo")
    assert found.size == (40, 24)
    off = np.abs(np.asarray(found, int) - np.asarray(quarters(), int)).mean()
    assert off < (1 if kind in LOSSLESS else 12)
    opened_by_user = as_seen(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(opened_by_user), np.asarray(found))
    assert as_seen(found) is found, "turned once, not twice"


def broken_exif(kind: str) -> bytes:
    """A sound picture whose EXIF block is none."""
    exif = Image.Exif()
    exif[0x010F] = "maker of the camera"
    data = encoded(quarters(), kind, exif=exif)
    start = data.find(b"MM\0*") if b"MM\0*" in data else data.find(b"II*\0", 8)
    assert start > 0
    data = data[:start] + b"\xff" * 8 + data[start + 8 :]
    if kind == "PNG":
        chunk = data.find(b"eXIf")
        end = chunk + 4 + struct.unpack(">I", data[chunk - 4 : chunk])[0]
        data = data[:end] + struct.pack(">I", zlib.crc32(data[chunk:end])) + data[end + 4 :]
    return data


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_broken_exif_block_spoils_no_good_picture(kind):
    assert decode(broken_exif(kind), "photo").getpixel((2, 2))[0] > 200  # pyright: ignore


def icon(colour: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """A black square on a transparent ground whose hidden colour is black, too."""
    picture = Image.new("RGBA", (16, 16), (*colour, 0))
    picture.paste((*colour, 255), (4, 4, 12, 12))
    return picture


def palette_icon() -> Image.Image:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.paste(0, (4, 4, 12, 12))
    return image


def grey_icon() -> Image.Image:
    image = Image.new("L", (16, 16), 7)
    image.paste(0, (4, 4, 12, 12))
    return image


TRANSPARENT = {
    **{f"RGBA {kind}": lambda kind=kind: encoded(icon(), kind) for kind in ("PNG", "TIFF", "ICO")},
    "RGBA WebP": lambda: encoded(icon(), "WEBP", lossless=True),
    "RGBA AVIF": lambda: encoded(icon(), "AVIF", quality=100),
    "RGBA JPEG 2000": lambda: encoded(icon(), "JPEG2000"),
    "LA PNG": lambda: encoded(icon().convert("LA"), "PNG"),
    "palette PNG": lambda: encoded(palette_icon(), "PNG", transparency=1),
    "palette with alpha PNG": lambda: encoded(palette_icon(), "PNG", transparency=b"\xff\x00"),
    "palette GIF": lambda: encoded(palette_icon(), "GIF", transparency=1),
    "grey with a transparent level": lambda: encoded(grey_icon(), "PNG", transparency=7),
    "RGB with a transparent colour": lambda: encoded(
        grey_icon().convert("RGB"), "PNG", transparency=(7, 7, 7)
    ),
}


@pytest.mark.parametrize("case", TRANSPARENT)
def test_what_is_transparent_is_white_and_what_is_not_keeps_its_colour(case):
    pixels = np.asarray(decode(TRANSPARENT[case](), "icon"))
    assert (pixels[0] == 255).all()
    assert (pixels[6:10, 6:10] < 3).all()


def test_what_is_half_transparent_is_half_white():
    image = Image.new("RGBA", (4, 4), (0, 100, 200, 128))
    assert decode(encoded(image, "PNG"), "x").getpixel((0, 0)) == (127, 177, 227)


def test_an_opaque_alpha_channel_changes_no_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    image = Image.fromarray(pixels)
    for opaque in (image, image.convert("LA")):
        found = decode(encoded(opaque, "PNG"), "x")
        assert np.array_equal(np.asarray(found), np.asarray(opaque.convert("RGB")))


def test_a_tga_whose_fourth_byte_is_unused_is_opaque():
    data = encoded(Image.new("RGBA", (4, 4), (9, 99, 200, 0)), "TGA")
    assert decode(data, "old.tga").getpixel((0, 0)) == (9, 99, 200)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_read(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, _, blue = decode(data, "x").getpixel((4, 4))  # pyright: ignore
    assert red > 200
    assert blue < 50


WHAT_IT_IS = {
    "heic": (bytes(4) + b"ftypheic" + bytes(300), "HEIC; convert it"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "svg": (b'<?xml version="1.0"?>\n<!-- made -->\n<svg xmlns="x">', "a drawing"),
    "html": (b"\n<!DOCTYPE html><html>", "a web page"),
}


@pytest.mark.parametrize("case", WHAT_IT_IS)
def test_what_is_no_image_under_an_images_name_is_called_what_it_is(case):
    data, message = WHAT_IT_IS[case]
    with pytest.raises(DataError, match=message):
        decode(data, "photo.jpg")


def test_a_tiff_of_seven_channels_is_told_from_a_broken_file():
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "TIFF"))
    channels = data.find(struct.pack("<HHI", 277, 3, 1))
    data[channels + 8] = 7
    with pytest.raises(DataError, match="1, 3 or 4 channels"):
        decode(bytes(data), "bands.tif")


def test_predictions_of_pictures_that_a_user_opened_see_what_training_sees():
    transform = ImageTransform(image_size=16, resize="squash", interpolation="bicubic")
    for data in (stored(6, "JPEG"), encoded(icon((200, 0, 0)), "PNG")):
        opened = transform.apply(Image.open(io.BytesIO(data)))
        assert np.array_equal(opened, transform.apply(decode(data, "x")))


def test_what_another_decoder_found_sound_is_looked_at_again(tmp_path, monkeypatch):
    hashes = ContentHashes(tmp_path / "hashes.sqlite")
    hashes.remember_sound_images([b"a" * 32])
    assert hashes.of_sound_images([b"a" * 32, b"b" * 32]) == {b"a" * 32}
    monkeypatch.setattr("orchestrator.data.images.DECODER", "next")
    assert hashes.of_sound_images([b"a" * 32]) == set()
