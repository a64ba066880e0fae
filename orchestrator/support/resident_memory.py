"""Memory of this process that is in RAM, as Linux tells it (proc_pid_status(5))."""

import contextlib
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident_mib() -> float:
    """Now, with what is mapped from files, such as libraries."""
    return _mib("VmRSS")


def begin_peak() -> None:
    """From now on the peak is counted anew, where the system lets us."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")


def peak_anonymous_mib() -> float:
    """The most since `begin_peak`, without what is mapped from files: of that a fork has only what
    it has touched, while a process that loads its libraries itself has nearly all."""
    return _mib("VmHWM") - _mib("RssFile")


def _mib(name: str) -> float:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) / 1024
    return 0.0
