"""The file that holds decoded images: Arrow, one record batch, made to be mapped.

image    (height, width, 3) uint8   as the transform left it
label    int64
sha256   32 bytes                   of the image file
crc32    uint32                     of the other three, checked whenever a file is opened
"""

import mmap
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.data.task import Split

DAMAGE = (OSError, ValueError, pa.ArrowException)
"""What opening a truncated, altered or foreign file may raise."""

_COLUMNS = ("image", "label", "sha256", "crc32")


class ArrowImages:
    """The columns of a file of ours, mapped; ValueError where it is none, OSError where it ends."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            whole = source.read_buffer()
        reader = pa.ipc.open_file(pa.BufferReader(whole))
        if reader.schema.names != [*_COLUMNS] or reader.num_record_batches != 1:
            raise ValueError("not a file of decoded images")
        batch = reader.get_batch(0)
        batch.validate(full=True)
        images, labels, self.contents, checksums = batch.columns
        if not isinstance(images, pa.FixedShapeTensorArray):  # a damaged schema says another type
            raise ValueError("not a file of decoded images")
        self.images = images.to_numpy_ndarray()
        self.labels = labels.to_numpy()
        self.checksums = checksums.to_numpy()
        self.image_offset = self.images.ctypes.data - whole.address
        self.checksum_offset = self.checksums.ctypes.data - whole.address

    def is_whole(self, row: int) -> bool:
        content = self.contents[row].as_py()
        return self.checksums[row] == _checksum(self.images[row], self.labels[row], content)


def _checksum(pixels: np.ndarray, label: int, content: bytes) -> int:
    start = zlib.crc32(content + int(label).to_bytes(8, "little", signed=True))
    return zlib.crc32(pixels.data, start)


@contextmanager
def new_arrow_images(
    path: Path, split: Split, contents: Sequence[bytes], size: int
) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Write the file with blank images, then let the caller put each in its place.

    So all images lie in one piece for the map, a split may be larger than memory, and a full disk
    is an error of the first step.
    """
    num_images, image_bytes = len(split), size * size * 3
    labels = np.array([example.label for example in split.examples], dtype=np.int64)
    checksums = np.zeros(num_images, dtype=np.uint32)
    # Pages that are only read take no memory, however many they are.
    blank = mmap.mmap(
        -1, num_images * image_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ
    )
    pixels = pa.Array.from_buffers(pa.uint8(), len(blank), [None, pa.py_buffer(blank)])
    columns = [
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.uint8(), [size, size, 3]),
            pa.FixedSizeListArray.from_arrays(pixels, image_bytes),
        ),
        pa.array(labels),
        pa.array(list(contents), type=pa.binary(32)),
        pa.array(checksums),
    ]
    batch = pa.record_batch(columns, names=[*_COLUMNS])
    # Without allow_64bit, Arrow refuses more than 2^31 bytes of pixels.
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema, options=options) as writer,
    ):
        writer.write_batch(batch)
    written = ArrowImages(path)
    with path.open("r+b") as file:

        def write(index: int, image: np.ndarray) -> None:
            image = np.ascontiguousarray(image)
            checksums[index] = _checksum(image, labels[index], contents[index])
            file.seek(written.image_offset + index * image_bytes)
            file.write(image.data)

        yield write
        file.seek(written.checksum_offset)
        file.write(checksums.data)
