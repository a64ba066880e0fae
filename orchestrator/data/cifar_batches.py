"""The files of CIFAR-10 and CIFAR-100: pickled batches, or the binary version.

https://www.cs.toronto.edu/~kriz/cifar.html: 3,072 bytes an image, all red ones first, then green.
"""

from pathlib import Path

import numpy as np

from orchestrator.data.array_rows import ArrayRows
from orchestrator.data.plain_pickle import PickledArray, read_plain_pickle
from orchestrator.data.task import DataError

IMAGE_BYTES = 3 * 32 * 32


def pickled_batch(path: str) -> tuple[np.ndarray, list[int]]:
    """Pixels, (N, 32, 32, 3), and labels; of CIFAR-100 the fine ones."""
    batch = read_plain_pickle(Path(path))
    batch = batch if isinstance(batch, dict) else {}
    data, labels = batch.get("data"), batch.get("labels", batch.get("fine_labels"))
    if not (isinstance(data, PickledArray) and isinstance(labels, list)):
        raise DataError(f"{path} is no batch of CIFAR: it has no `data` with `labels`")
    if data.type_code not in ("u1", "|u1", "uint8"):
        raise DataError(f"{path} is no batch of CIFAR: its pixels have type {data.type_code}")
    if not all(type(label) is int for label in labels):
        raise DataError(f"{path}: its labels are not integers")
    if data.shape != (len(labels), IMAGE_BYTES) or len(data.data) != len(labels) * IMAGE_BYTES:
        raise DataError(f"{path} has {len(labels)} labels, but pixels of shape {data.shape}")
    return _images(np.frombuffer(data.data, np.uint8)), labels


def binary_batch(path: str, num_labels: int) -> tuple[np.ndarray, list[int]]:
    """The same out of the binary version; the last of `num_labels` bytes is the label."""
    data = np.fromfile(path, np.uint8)
    record = num_labels + IMAGE_BYTES
    if data.size % record or not data.size:
        raise DataError(f"{path} has {data.size:,} bytes, which are no images of {record:,}")
    rows = data.reshape(-1, record)
    return _images(rows[:, num_labels:]), rows[:, num_labels - 1].tolist()


def _images(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def pickled_rows(path: str, column: str) -> ArrayRows:
    return ArrayRows(path, lambda path: pickled_batch(path)[0])


def binary_rows(path: str, column: str) -> ArrayRows:
    return ArrayRows(path, lambda path: binary_batch(path, 1)[0])


def binary_rows_of_100(path: str, column: str) -> ArrayRows:
    return ArrayRows(path, lambda path: binary_batch(path, 2)[0])
