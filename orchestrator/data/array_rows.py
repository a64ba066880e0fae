"""Images that are an array of pixels in a file: each is handed out as a Netpbm file.

So its bytes, which fingerprints are made of, depend on no compressor's version.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.data.task import DataError

if TYPE_CHECKING:
    import numpy as np


class ArrayRows:
    """(N, H, W) or (N, H, W, 3) pixels of 8 bits."""

    def __init__(self, path: str, read: "Callable[[str], np.ndarray]") -> None:
        self._path = path
        self._pixels = read(path)

    def image(self, row: int) -> bytes:
        if row >= len(self._pixels):
            raise DataError(f"{self._path} has only {len(self._pixels)} images")
        pixels = self._pixels[row]
        height, width, *_ = pixels.shape
        kind = b"P6" if pixels.ndim == 3 else b"P5"
        return b"%s %d %d 255\n%s" % (kind, width, height, pixels.tobytes())
