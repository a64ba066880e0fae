"""What commands print must never end them: a reader may leave, a terminal close, a disk fill."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator

_READER_LEFT = {errno.EPIPE, errno.EIO, errno.EBADF}
"""`| head` that has seen enough, a terminal that was closed."""


_lost: list[OSError] = []


class SteadyOutput(io.TextIOWrapper):
    """A text stream that goes on when nobody can read it any more."""

    def write(self, text: str) -> int:
        with _survived(self):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with _survived(self):
            super().flush()


@contextlib.contextmanager
def _survived(stream: io.TextIOWrapper) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _READER_LEFT:
            _lost.append(error)
        else:
            # What is still buffered would fail again and again, last when Python ends.
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def what_was_lost() -> str | None:
    """A line for who reads the output later, where a part of it could not be written."""
    if sys.stdout is not None:
        sys.stdout.flush()
    return f"the output is not complete: {_lost[0].strerror}" if _lost else None


def make_output_steady() -> None:
    """Replace stdout and stderr of this process; characters that they cannot encode are escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the file was closed before we began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif type(stream) is io.TextIOWrapper:
            as_before = {
                "encoding": stream.encoding,
                "line_buffering": stream.line_buffering,
                "write_through": stream.write_through,
            }
            steady = SteadyOutput(stream.detach(), errors="backslashreplace", **as_before)
            setattr(sys, name, steady)
            setattr(sys, f"__{name}__", steady)
