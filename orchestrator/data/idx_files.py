"""The IDX files of MNIST and its successors, plain or as gzip.

http://yann.lecun.com/exdb/mnist/: two zeros, the type (8: bytes), the number of sizes, then the
sizes, four bytes each, the highest first.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from orchestrator.data.array_rows import ArrayRows
from orchestrator.data.task import DataError

MAX_BYTES = 4 << 30
MAX_SIZES = 4


def read_idx(path: str) -> np.ndarray:
    """The array in a file; DataError where it is none of bytes."""
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            kind = file.read(4)
            num_sizes = kind[3] if len(kind) == 4 and kind[:3] == b"\0\0\x08" else 0
            header = file.read(4 * num_sizes) if num_sizes <= MAX_SIZES else b""
            sizes = [int.from_bytes(header[at : at + 4], "big") for at in range(0, len(header), 4)]
            num_bytes = min(math.prod(sizes), MAX_BYTES)
            # A byte more than there should be, and no more: gzip may hold any number.
            data = file.read(num_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not num_sizes or len(sizes) != num_sizes or math.prod(sizes) != len(data):
        raise DataError(f"{path} is no IDX file of bytes, or not all of it")
    return np.frombuffer(data, np.uint8).reshape(sizes)


def read_images(path: str) -> np.ndarray:
    """(N, H, W)."""
    images = read_idx(path)
    if images.ndim != 3:
        raise DataError(f"{path} has {images.ndim} sizes; images have 3")
    return images


def idx_rows(path: str, column: str) -> ArrayRows:
    return ArrayRows(path, read_images)


def there(folder: Path, name: str) -> str | None:
    """The file of this name, or of the same name and gzip."""
    return next((one for one in (name, f"{name}.gz") if (folder / one).is_file()), None)
