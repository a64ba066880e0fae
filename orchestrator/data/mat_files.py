"""Arrays in MATLAB's files, by scipy."""

from pathlib import Path

import numpy as np

from orchestrator.data.array_rows import ArrayRows
from orchestrator.data.task import DataError


def read_mat(path: Path, name: str) -> np.ndarray:
    """A numeric array out of a file; DataError where there is none of that name."""
    from scipy.io import loadmat

    try:
        found = loadmat(str(path), variable_names=[name]).get(name)
    except Exception as error:  # a broken file raises whatever its bytes lead scipy to
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "uif":
        raise DataError(f"{path} has no array of numbers called {name!r}")
    return found


def _svhn_pixels(path: str) -> np.ndarray:
    pixels = read_mat(Path(path), "X")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[2] != 3:
        raise DataError(f"{path}: X is no array of images, (32, 32, 3, N)")
    return np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))


def svhn_rows(path: str, column: str) -> ArrayRows:
    return ArrayRows(path, _svhn_pixels)
