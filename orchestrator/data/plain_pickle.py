"""Pickles of plain values and arrays, read without ever running what a pickle could name.

A pickle is a program. This one may build dictionaries, lists, text, bytes and numbers, and for an
array only a record of its shape, type and bytes; anything else that it names is refused.
"""

import io
import pickle
from pathlib import Path
from typing import Any

from orchestrator.data.task import DataError

MAX_BYTES = 1 << 30


class PickledArray:
    """What a pickle says of an array; numpy has not seen it."""

    shape: tuple[int, ...] = ()
    type_code: str = ""
    data: bytes = b""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, data = state
        if is_fortran or not isinstance(kind, _PickledType):
            raise ValueError("an array in another order or of another type than expected")
        self.shape = tuple(int(size) for size in shape)
        self.type_code = kind.code
        self.data = data.encode("latin1") if isinstance(data, str) else bytes(data)


class _PickledType:
    def __init__(self, code: str = "", *_: object) -> None:
        self.code = str(code)

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which single bytes have not."""


def _new_array(*_: object) -> PickledArray:
    return PickledArray()


def _as_bytes(text: str, _: str = "latin1") -> bytes:
    """Bytes, as Python 3 writes them for Python 2."""
    return text.encode("latin1")


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _PickledType,
    ("_codecs", "encode"): _as_bytes,
}


class _PlainUnpickler(pickle.Unpickler):  # names nothing but `_KNOWN`
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        known = _KNOWN.get((module_name, global_name))
        if known is None:
            raise DataError(f"names {module_name}.{global_name}, which is not run")
        return known

    def persistent_load(self, pid: object) -> Any:
        raise DataError("names an object outside of it")


def read_plain_pickle(path: Path) -> Any:
    """The value in a pickle, text of Python 2 as text; DataError for anything but plain values."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"has more than {MAX_BYTES:,} bytes")
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a broken pickle raises whatever its bytes lead it to
        raise DataError(f"{path} cannot be read as a pickle of plain arrays: {error}") from error
