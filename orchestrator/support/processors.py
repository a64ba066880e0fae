"""The processors of this machine."""

import os


def available_cpus() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))
