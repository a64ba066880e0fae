"""Notices that Ray itself has gone, on which its own library ends the driver without a word."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.cluster import own_ray
from orchestrator.cluster.joined_ray import answers, host_and_port
from orchestrator.cluster.ray_private import this_node
from orchestrator.support.stopping import STOPPED, MachineLost, kill_children

LOOK_SECONDS = 0.5
"""Between two looks at processes of our own."""
ASK_SECONDS = 5.0
"""Between two questions to a cluster that others started."""
PATIENCE_SECONDS = 40.0
"""How long a cluster's head may be away: well below RAY_gcs_rpc_server_reconnect_timeout_s, after
which Ray would end this process (ten minutes, in `run/ray/__init__.py`; one is Ray's own)."""
ORDER_SECONDS = 20.0
"""How long what waits for Ray may take to notice; then the process ends as it is."""

_NEEDED = ("raylet", "gcs_server")


@contextlib.contextmanager
def watched(lost: Callable[[MachineLost], None]) -> Iterator[None]:
    """While it is entered, `lost` is called, in a thread, as soon as Ray has gone.

    Then what is left of Ray is ended with the block. It cannot be used again in this process.
    """
    over, found = threading.Event(), threading.Event()
    looking = threading.Thread(
        target=_watch, args=(lost, over, found), name="ray watch", daemon=True
    )
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join(LOOK_SECONDS)
        if found.is_set():
            own_ray.abandon()


def _watch(
    lost: Callable[[MachineLost], None], over: threading.Event, found: threading.Event
) -> None:
    node = this_node()
    is_own = bool(node.all_processes)
    away_since: float | None = None
    while not over.wait(LOOK_SECONDS if is_own else ASK_SECONDS):
        reason = _what_died(node) if is_own else _what_does_not_answer(node)
        if reason is None:
            away_since = None
            continue
        patience = 0.0 if is_own else PATIENCE_SECONDS
        away_since = away_since or time.monotonic()
        if time.monotonic() - away_since < patience:
            continue
        found.set()
        error = MachineLost(reason)
        lost(error)
        if is_own:
            # Ray's library ends this process (_exit) when it hears from the rest that a part died.
            kill_children()
        if not over.wait(ORDER_SECONDS):
            with contextlib.suppress(OSError):
                os.write(2, f"stopped: {error}; `orchestrator resume` goes on\n".encode())
            own_ray.abandon()
            os._exit(STOPPED)
        return


def _what_died(node: Any) -> str | None:
    for name in _NEEDED:
        for info in node.all_processes.get(name, ()):
            code = info.process.poll()
            if code is not None:
                how = f"was killed ({signal.Signals(-code).name})" if code < 0 else "ended"
                return f"{name}, a process of Ray that all trials need, {how}"
    return None


def _what_does_not_answer(node: Any) -> str | None:
    """What does not answer of a cluster that others started."""
    try:
        answers(*host_and_port(node.gcs_address), seconds=5.0)
    except OSError as error:
        return f"the head of the Ray cluster at {node.gcs_address} does not answer ({error})"
    try:
        with socket.socket(socket.AF_UNIX) as raylet:
            raylet.settimeout(5.0)
            raylet.connect(node.raylet_socket_name)
    except OSError as error:
        return f"Ray on this machine, a part of {node.gcs_address}, does not answer ({error})"
    return None
