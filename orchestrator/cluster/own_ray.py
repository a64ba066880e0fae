"""The Ray that a sweep starts on its own machine, for itself alone.

It has a token of its own that stands in no file, keeps its sockets and logs in a private folder,
and does not hear the signals that are meant for the driver.
"""

import atexit
import contextlib
import logging
import math
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from orchestrator.cluster.ray_private import (
    OwnPath,
    check_ray,
    init_on_loopback,
    without_handler_of_sigterm,
    without_the_raylets_last_log,
)
from orchestrator.cluster.slots import Slots
from orchestrator.support.scratch import VARIABLE, Scratch, remove_dead
from orchestrator.support.stopping import kill_children

logger = logging.getLogger(__name__)

QUIET = {"logging_level": logging.ERROR, "log_to_driver": False}

_scratch: Scratch | None = None
_while_it_runs = contextlib.ExitStack()
"""What is changed of Ray in this process as long as a Ray of our own runs."""


def scratch_folder() -> Path:
    """Private, and removed when this process ends."""
    global _scratch
    if _scratch is None:
        for folder in remove_dead():
            logger.info("removed %s, which a driver that was killed had left", folder)
        _scratch = Scratch()
        os.environ[VARIABLE] = str(_scratch.path)
        # Registered after Ray's own, hence called before it: Ray ends first in there.
        atexit.register(close)
    return _scratch.path


def close() -> None:
    """End our Ray and remove its folder."""
    ray.shutdown()
    _while_it_runs.close()
    _remove_scratch()


def abandon() -> None:
    """Do without Ray from now on, which is broken: its own end would wait for what has gone."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    sys.unraisablehook = _of_others_than_ray
    for wait in (close, ray.shutdown):
        atexit.unregister(wait)
    kill_children()
    _remove_scratch()


def _of_others_than_ray(unraisable: Any) -> None:
    """What its objects complain of when they are deleted is that it has gone."""
    if not str(getattr(unraisable.object, "__module__", "")).startswith("ray."):
        sys.__unraisablehook__(unraisable)


def _remove_scratch() -> None:
    global _scratch
    if _scratch is not None:
        _scratch.remove()
        _scratch = None
        os.environ.pop(VARIABLE, None)


def start(slots: Slots) -> None:
    """Start Ray on this machine for these slots."""
    check_ray()
    folder = scratch_folder()
    take_token()
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        logger.warning(
            "RAY_AUTH_MODE=%s: every user of this machine may run code as you while the sweep runs",
            os.environ["RAY_AUTH_MODE"],
        )
    _while_it_runs.close()
    _while_it_runs.enter_context(without_the_raylets_last_log())
    for attempts_left in (2, 1, 0):
        try:
            with own_signals():
                init_on_loopback(
                    # Below it, since Ray opens what it is given to all (mode 0777).
                    str(folder / "r"),
                    num_cpus=slots.num_slots * slots.cpu_threads,
                    num_gpus=math.ceil(slots.num_slots * slots.gpus_per_trial),
                    include_dashboard=False,
                    job_config=OwnPath(),
                    **QUIET,
                )
            return
        except KeyboardInterrupt:
            kill_children()  # who started it half would wait for the other half
            raise
        except Exception as error:
            # Ray gives itself 30 seconds to start, which a busy machine exceeds.
            if "timed out during startup" not in str(error) or not attempts_left:
                raise
            logger.warning("Ray did not start within 30 s; trying again")
            ray.shutdown()


def take_token() -> None:
    """A token of our own, unless the user set one: files with tokens may be read by others.

    Ray asks this variable before RAY_AUTH_TOKEN_PATH and the file in the home, which it would even
    write itself, readable by all. One that is blank is none to Ray.
    """
    if not os.environ.get("RAY_AUTH_TOKEN", "").strip():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Ray may not put its own handlers of SIGTERM in place of ours."""
    try:
        with without_handler_of_sigterm():
            yield
    finally:
        # Its C++ part has one, too, of which Python does not know, and which aborts the process.
        ours = signal.getsignal(signal.SIGTERM)
        if ours is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)
