"""Which files are images: those that are read, and those that are left out with a word.

By their ending, since a folder of a million files is listed before one of them is opened. What a
file that is opened holds, its content says: a PNG called .jpg is read.
"""

import os
from collections.abc import Mapping

from PIL import features

_DECODERS = (
    ("JPEG", "jpg", ".jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp .mpo"),
    ("PNG", "zlib", ".png .apng"),
    ("WEBP", "webp", ".webp"),
    ("BMP", None, ".bmp .dib"),
    ("GIF", None, ".gif"),
    ("TIFF", None, ".tif .tiff"),
    ("PPM", None, ".ppm .pgm .pbm .pnm"),
    ("AVIF", "avif", ".avif"),
    ("JPEG2000", "jpg_2000", ".jp2 .j2k .j2c .jpc .jpf .jpx"),
    ("ICO", None, ".ico"),
    ("TGA", None, ".tga .icb .vda .vst"),
)
"""Raster formats that PIL decodes itself (EPS, for one, would start an interpreter): the name, the
library that PIL must have been built with, the endings."""

_CONVERT_HEIC = "`heif-convert` (package libheif-examples), macOS Preview"
_CONVERT_RAW = "`darktable-cli`, `dcraw -T`"
_CONVERT_DRAWING = "`rsvg-convert`, `inkscape`"
_CONVERT_PAGES = "`pdftoppm`, `magick`"
_CONVERT_MEDICAL = "pydicom, `dcm2pnm`"
_CONVERT_ANY = "`magick`, `ffmpeg`, an image editor"

_UNREAD = (
    (".heic .heics .heif .hif", _CONVERT_HEIC),
    (".raw .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .pef .srw", _CONVERT_RAW),
    (".svg .svgz", _CONVERT_DRAWING),
    (".pdf .eps .ps .ai .wmf .emf .djvu", _CONVERT_PAGES),
    (".dcm .dicom", _CONVERT_MEDICAL),
    (".psd .psb .xcf .kra .jxl .jxr .wdp .hdp .exr .hdr .pfm .pam .qoi .dds .pcx", _CONVERT_ANY),
    (".sgi .ras .xbm .xpm .cur .icns .fits .fit .jpm .avifs .bpg .flif", _CONVERT_ANY),
)


def _has(library: str | None) -> bool:
    return library is None or bool(features.check(library))


FORMATS = tuple(name for name, library, _ in _DECODERS if _has(library) and name != "TGA")
"""PIL's names of the formats that are known by their first bytes, tried in this order."""

READ = {
    ending: name
    for name, library, endings in _DECODERS
    if _has(library)
    for ending in endings.split()
}
"""The endings of files that are read, and PIL's name of their format."""

UNREAD = {
    **{ending: how for endings, how in _UNREAD for ending in endings.split()},
    **{
        ending: _CONVERT_ANY
        for _, library, endings in _DECODERS
        if not _has(library)
        for ending in endings.split()
    },
}
"""The endings of images that are not read, and what converts them."""


def ending(file: str) -> str:
    """The ending of a file's name in small letters, with its dot."""
    return os.path.splitext(file)[1].lower()  # noqa: PTH122


def is_read(file: str) -> bool:
    """Whether a file with this name is read as an image."""
    return ending(file) in READ


def is_unread_image(file: str) -> bool:
    """Whether a file with this name is an image, but none that is read here."""
    return ending(file) in UNREAD


def formats_of(file: str) -> tuple[str, ...]:
    """PIL's names of what a file with this name may hold.

    TGA has no first bytes of its own, so that it is looked for only where the name says so.
    """
    return (*FORMATS, "TGA") if READ.get(ending(file)) == "TGA" else FORMATS


def left_out(counts: Mapping[str, int]) -> str:
    """One line about images that are not read: how many of which ending, and what converts them."""
    found = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    tools = dict.fromkeys(UNREAD[name] for name in sorted(counts))
    return (
        f"{found}: images that are not read here, left out; convert them to PNG or JPEG "
        f"({'; '.join(tools)})"
    )
