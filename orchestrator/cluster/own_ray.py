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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker
from ray.job_config import JobConfig

from orchestrator.cluster.slots import Slots
from orchestrator.support.scratch import VARIABLE, Scratch, remove_dead
from orchestrator.support.stopping import kill_children

logger = logging.getLogger(__name__)

QUIET = {"logging_level": logging.ERROR, "log_to_driver": False}

_scratch: Scratch | None = None


class OwnPath(JobConfig):
    """Tells workers of folders with modules only where this process has them on its own path.

    Ray's own would put the current folder on theirs, where a user's `methods/` hides ours.
    """

    def _serialize(self) -> Any:
        self._py_driver_sys_path = [path for path in self._py_driver_sys_path if path in sys.path]
        return super()._serialize()


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
    _remove_scratch()


def abandon() -> None:
    """Do without Ray from now on, which is broken: its own end would wait for what has gone."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    sys.unraisablehook = _of_others_than_ray
    for wait in (close, ray_worker.shutdown):
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
    folder = scratch_folder()
    take_token()
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        logger.warning(
            "RAY_AUTH_MODE=%s: every user of this machine may run code as you while the sweep runs",
            os.environ["RAY_AUTH_MODE"],
        )
    ray_worker.print_to_stdstream = _unless_it_is_known(ray_worker.print_to_stdstream)
    # Or it would make our loopback address the machine's own, and listen on all of them.
    ray_constants.ENABLE_RAY_CLUSTER = False
    for attempts_left in (2, 1, 0):
        try:
            with own_signals(), _in_sessions_of_their_own():
                ray.init(
                    "local",
                    num_cpus=slots.num_slots * slots.cpu_threads,
                    num_gpus=math.ceil(slots.num_slots * slots.gpus_per_trial),
                    include_dashboard=False,
                    job_config=OwnPath(),
                    _node_ip_address="127.0.0.1",
                    # Below it, since Ray opens what it is given to all (mode 0777).
                    _temp_dir=str(folder / "r"),
                    **QUIET,
                )
            return
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
def _in_sessions_of_their_own() -> Iterator[None]:
    """Ray's daemons: a signal to our process group, or a closed terminal, must not take them first.

    They still end when we do: the kernel kills them.
    """
    theirs = services.ConsolePopen
    services.ConsolePopen = partial(theirs, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = theirs


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Ray may not put its own handlers of SIGTERM in place of ours."""
    theirs = ray_utils.set_sigterm_handler
    ray_utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = theirs
        # Its C++ part has one, too, of which Python does not know, and which aborts the process.
        ours = signal.getsignal(signal.SIGTERM)
        if ours is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


def _unless_it_is_known(show: Callable[..., None]) -> Callable[..., None]:
    """Without twenty lines of a log when the raylet dies, which `ray_watch` tells in one."""

    def shown(data: dict[str, Any], **options: Any) -> None:
        if not any("Raylet is terminated" in line for line in data["lines"]):
            show(data, **options)

    return shown
