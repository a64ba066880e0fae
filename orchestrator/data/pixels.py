"""From the bytes of an image file to the picture that a viewer shows: the one door to pixels.

Search, last stage, predictions and pictures all come through here or through `as_seen`, so that an
image is never trained in one form and classified in another. The papers' code (torchvision's
`ImageFolder`, TensorFlow's decoders) neither turns an image as its EXIF says nor lays transparency
over a ground. The official images of VTAB and FGVC need neither, so that published numbers stay
comparable; a user's phone photo would be read on its side, and an icon as a black square.
"""

import io
import re

from PIL import ExifTags, Image

from orchestrator.data.formats import UNREAD, formats_of
from orchestrator.data.task import DataError

DECODER = "2"
"""To be raised when the same file and transform would give other pixels than before."""

MAX_PIXELS = 89_478_485
"""The size from which PIL itself warns of a decompression bomb: 256 MiB as RGB."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an EXIF orientation (Exif 2.32, table 4, tag 0x0112)."""

_KINDS = (
    (rb"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` fetches the image"),
    (rb".{4}ftyp(?:hei|hev|mif1|msf1)", f"HEIC; convert it ({UNREAD['.heic']})"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF whose channels, depth or compression are not read; "
     "save it with 8 bits in 1, 3 or 4 channels"),
    (rb"\s*(?:<\?xml.*?)?(?:<!--.*?-->\s*)*<svg", f"a drawing; convert it ({UNREAD['.svg']})"),
    (rb"(?i:\s*<(?:!doctype )?html)", "a web page, perhaps in place of a failed download"),
    (rb"%PDF|%!PS", f"a page; convert it ({UNREAD['.pdf']})"),
    (rb"8BPS", f"of Photoshop; convert it ({UNREAD['.psd']})"),
    (rb"\xff\x0a|\0{3}\x0cJXL ", f"JPEG XL; convert it ({UNREAD['.jxl']})"),
)  # fmt: skip
"""First bytes of what is met under the endings of images, and what to do about it."""


def decode(data: bytes, name: str) -> Image.Image:
    """The picture in a file's bytes: RGB, upright, transparency over white; the first of several.

    DataError says under `name` why there is none.
    """
    try:
        image = _opened(data, name)
        _check_depth(image, name)
        _check_size(image, name)
        image.load()
        _check_size(image, name)  # an icon holds a whole file of its own
        return as_seen(image)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name!r} has too many pixels: {error}") from error
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise DataError(f"{name!r} is a broken image: {error}") from error


def as_seen(image: Image.Image) -> Image.Image:
    """RGB, turned upright as its EXIF says, transparency laid over white.

    An image without either, or with an alpha channel that is opaque all over, has the pixels of
    PIL's `convert("RGB")`. What this returned is returned as it is. DataError for more than 8 bits.
    """
    if image.mode == "RGB" and not image.info:
        return image
    _check_depth(image, "image")
    image.load()
    turn = _TURNS.get(_orientation(image))
    rgb = _over_white(image if turn is None else image.transpose(turn))
    rgb.info = {}
    return rgb


def is_white(image: Image.Image) -> bool:
    """Whether a decoded picture is white all over, as white on a transparent ground becomes."""
    white = (255, 255, 255)
    return image.getpixel((0, 0)) == white and all(
        lowest == 255 for lowest, _ in (band.getextrema() for band in image.split())
    )


def _opened(data: bytes, name: str) -> Image.Image:
    if not data:
        raise DataError(f"{name!r} is empty")
    if data[4:8] == b"ftyp":
        # AVIF says in boxes of its own how it is turned (ISO 23000-22); a broken EXIF block, which
        # is only for information there, would make libavif refuse the image.
        data = re.sub(rb"(infe.{8,10}?)Exif", rb"\1none", data, count=1, flags=re.DOTALL)
    try:
        return Image.open(io.BytesIO(data), formats=formats_of(name))
    except Image.UnidentifiedImageError as error:
        start = data[:1000]
        kind = next((what for first, what in _KINDS if re.match(first, start, re.DOTALL)), None)
        raise DataError(
            f"{name!r} is not an image in one of {', '.join(formats_of(name))}"
            + (f": it is {kind}" if kind else "")
        ) from error


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{name!r} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}"
        )


def _check_depth(image: Image.Image, name: str) -> None:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise DataError(
            f"{name!r} has more than 8 bits per channel (mode {image.mode}), and which part of "
            "their range holds the picture only its maker knows; save it with 8 bits, for "
            "instance numpy.uint8(pixels / 256) where all 16 bits are used"
        )


def _orientation(image: Image.Image) -> int:
    """1 to 8, or whatever else a file says; 1 where its EXIF block is missing or broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block spoils no good pixels
        return 1


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layers = image.convert("RGBA")
    lowest, highest = layers.getchannel("A").getextrema()
    # In a TGA with nothing but zeros the fourth byte is unused, as old programs leave it.
    if lowest == 255 or (highest == 0 and image.format == "TGA"):
        return image.convert("RGB")
    ground = Image.new("RGB", image.size, "white")
    ground.paste(layers, mask=layers)
    return ground
