"""Files that are complete and on the disk, or not there at all, and never written through a link.

A sweep folder may come from a stranger: what stands under the name of an unfinished file is taken
away, not opened, since it may be a link to a file of whoever looks at the sweep.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path, unfinished: Path | None = None) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends without an error.

    ValueError where a device, a pipe or a folder has that name.

    `unfinished` is its name until then, `<name>.part` unless another is given.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is there already and is no file, so no file can take its place")
    part = unfinished or path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    created = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    with os.fdopen(created, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
