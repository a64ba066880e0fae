"""Images in a column of an Arrow or a Parquet file, as bytes or as Hugging Face stores them.

There an image is `struct<bytes: binary, path: string>`, and one without bytes is a file elsewhere.
"""

import bisect
import threading
from collections import OrderedDict
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from orchestrator.data.reading import brief
from orchestrator.data.task import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_GROUP_BYTES = 4 << 30
"""A row group of Parquet is read as a whole."""
_GROUPS_KEPT = 2


@contextmanager
def arrow_faults(path: str) -> "Iterator[None]":
    """What a truncated, altered or foreign file leads pyarrow to becomes one DataError."""
    import pyarrow as pa

    try:
        yield
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        first, *_ = str(error).splitlines() or [""]
        raise DataError(f"{path} cannot be read: {first}") from error


class ArrowRows:
    """A file in Arrow's stream or file format, mapped."""

    def __init__(self, path: str, column: str) -> None:
        self._path = path
        with arrow_faults(path):
            self._images = read_arrow(path, [column]).column(column)
            self._images.validate(full=True)  # offsets of a stranger's file may point anywhere

    def image(self, row: int) -> bytes:
        with arrow_faults(self._path):
            return image_bytes(self._images[row].as_py(), f"row {row} of {self._path}")


class ParquetRows:
    """A Parquet file, of which the row groups used last are kept."""

    def __init__(self, path: str, column: str) -> None:
        import pyarrow.parquet as pq

        self._path, self._column = path, column
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, Any] = OrderedDict()
        with arrow_faults(path):
            self._file = pq.ParquetFile(path, memory_map=True)
            about = self._file.metadata
            sizes = [about.row_group(index).num_rows for index in range(about.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self._starts = [end - size for end, size in zip(self._ends, sizes, strict=True)]

    def image(self, row: int) -> bytes:
        index = bisect.bisect_right(self._ends, row)
        with arrow_faults(self._path), self._lock:
            group = self._group(index)
            value = group[row - self._starts[index]].as_py()
        return image_bytes(value, f"row {row} of {self._path}")

    def _group(self, index: int) -> Any:
        group = self._groups.pop(index, None)
        if group is None:
            size = self._file.metadata.row_group(index).total_byte_size
            if size > MAX_GROUP_BYTES:
                raise DataError(
                    f"{self._path}: row group {index} has {size:,} bytes; write it with smaller "
                    "ones, such as row_group_size=1000"
                )
            group = self._file.read_row_group(index, columns=[self._column]).column(self._column)
            group.validate(full=True)
        self._groups[index] = group
        while len(self._groups) > _GROUPS_KEPT:
            self._groups.popitem(last=False)
        return group


def read_arrow(path: str, columns: "list[str] | None" = None) -> Any:
    """The table of an Arrow file in either of its formats, mapped and not copied."""
    import pyarrow as pa

    source = pa.memory_map(path)
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
    table = reader.read_all()
    return table if columns is None else table.select(columns)


def image_bytes(value: object, where: str) -> bytes:
    """The bytes of an image in a column, or DataError."""
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
        if value is None and path:
            raise DataError(
                f"{where} holds no image but names the file {brief(str(path))}: save the data set "
                "with its images in it (datasets' `embed_table_storage`, `push_to_hub`)"
            )
    if not isinstance(value, bytes) or not value:
        raise DataError(f"{where} holds no image")
    return value
