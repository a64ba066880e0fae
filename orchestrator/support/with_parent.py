"""A process that ends when the one that started it is gone, however that one ended."""

import ctypes
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(by: signal.Signals) -> None:
    """Ask the kernel to send this process a signal when the thread that started it has ended.

    Looks nothing up, so that it may be called between fork and exec.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, by)
