"""Images that lie many in one file: opened once for all of them, each handed out as a file's bytes.

So nothing is unpacked: what is hashed, decoded and cached is what the file holds. To add a form of
such files: a class with `image`, and its line in `HOLDERS`.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from orchestrator.data.arrow_rows import ArrowRows, ParquetRows
from orchestrator.data.cifar_batches import binary_rows, binary_rows_of_100, pickled_rows
from orchestrator.data.idx_files import idx_rows
from orchestrator.data.mat_files import svhn_rows
from orchestrator.data.task import Held

MAX_OPEN = 4
"""Files kept open: images are read in the order of their files."""


class Holder(Protocol):
    """A file that holds many images, opened; for several threads at a time."""

    def image(self, row: int) -> bytes:
        """An image file's bytes. DataError says why there are none."""
        ...


HOLDERS: dict[str, Callable[[str, str], Holder]] = {
    "arrow": ArrowRows,
    "parquet": ParquetRows,
    "cifar_pickle": pickled_rows,
    "cifar10_binary": binary_rows,
    "cifar100_binary": binary_rows_of_100,
    "idx": idx_rows,
    "svhn": svhn_rows,
}
"""What opens a file, given its path and the column of the images."""

_open: OrderedDict[tuple[object, ...], Holder] = OrderedDict()
_lock = threading.Lock()


def held_image(path: str, status: os.stat_result, held: Held) -> bytes:
    """The bytes of an image in the file at this path; DataError says why there are none."""
    key = (path, held.form, held.column, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    with _lock:
        holder = _open.pop(key, None) or HOLDERS[held.form](path, held.column)
        _open[key] = holder
        while len(_open) > MAX_OPEN:
            _open.popitem(last=False)
    return holder.image(held.row)
