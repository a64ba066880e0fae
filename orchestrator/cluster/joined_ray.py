"""A Ray cluster that runs already: connected to, or refused in a line within seconds.

Ray itself would try for a quarter of an hour to reach an address where nothing answers.
"""

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator

import psutil
import ray

from orchestrator.cluster.own_ray import QUIET, own_signals
from orchestrator.cluster.ray_private import OwnPath, address_of_started, check_ray
from orchestrator.support.privacy import warn_of_open_token
from orchestrator.support.scratch import is_name_of_scratch

REACH_SECONDS = 10.0
"""For a name to be found, a connection to be made and a first word to be heard."""

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What opens every conversation over gRPC: HTTP/2's preface, and empty settings."""
_SETTINGS = 4
"""Kind of the frame with which a server answers."""


def connect(address: str) -> None:
    """Make this process a driver of the cluster; ValueError, in one line, where that fails."""
    check_ray()
    found = find(address)
    warn_of_open_token()
    said = bytearray()
    try:
        with own_signals(), held_back(said):
            ray.init(address=found, job_config=OwnPath(), **QUIET)
    except Exception as error:  # of Ray's, of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        if b"InvalidAuthToken" in said:
            reason = (
                "our token is missing or another (RAY_AUTH_MODE=token with RAY_AUTH_TOKEN, "
                "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)"
            )
        where = f"the Ray cluster at {_named(address)}"
        raise ValueError(f"{where} does not let us in: {reason}") from error
    except BaseException:  # we are stopped while Ray still tries, and tells why
        _show(said)
        raise
    _show(said)


def find(address: str) -> str:
    """The address in the form that Ray takes; ValueError if no cluster answers there in time."""
    if "://" in address:
        raise ValueError(
            f"{_named(address)}: a sweep's driver is no Ray client; give HOST:PORT (of the head, "
            "usually port 6379) on a machine of the cluster, or `sweep --detach` with http://"
        )
    target = _of_this_machine(address) if address == "auto" else address
    try:
        host, port = host_and_port(target)
    except ValueError as error:
        raise ValueError(f"{_named(address)}: {error}, or auto") from None
    problem = _problem(host, port)
    if problem:
        where = target if address == "auto" else ""
        raise ValueError(
            f"no Ray cluster answers at {_named(address)}{f', {where}' if where else ''}: {problem}"
        )
    return address if address != "auto" or address_of_started() else target


def host_and_port(address: str) -> tuple[str, int]:
    """The host and port of an address as Ray writes it, [::1]:6379 among them; ValueError for
    anything else."""
    host, _, port = address.rpartition(":")
    if re.fullmatch(r"\[[^\[\]]+\]", host):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not (port.isascii() and port.isdigit()):
        raise ValueError("is not HOST:PORT, for example 10.0.0.5:6379 or [fd00::5]:6379")
    return host, int(port)


@contextlib.contextmanager
def held_back(said: bytearray) -> Iterator[None]:
    """Into `said` goes what is written to stderr: Ray says twenty times why it is not let in.

    Its library may also end the process, by its last word: then a shell that waits for our end
    shows what was held.
    """
    with tempfile.TemporaryFile() as held:
        show = ["sh", "-c", f"read over || cat /dev/fd/{held.fileno()} >&2"]
        with subprocess.Popen(  # noqa: S603
            show, stdin=subprocess.PIPE, pass_fds=[held.fileno()], start_new_session=True
        ) as shell:
            stderr = os.dup(2)
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
                held.seek(0)
                said += held.read()
                shell.communicate(b"over\n")


def _show(said: bytes | bytearray) -> None:
    with contextlib.suppress(OSError):  # a terminal that was closed
        os.write(2, said)


def answers(host: str, port: int, seconds: float = REACH_SECONDS) -> None:
    """OSError, or its subclass TimeoutError, unless a server of gRPC answers there."""
    deadline = time.monotonic() + seconds
    with socket.create_connection((host, port), timeout=seconds) as connection:
        if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):  # as Ray reads it
            return  # which speaks of something else first
        connection.sendall(_HELLO)
        heard = b""
        while len(heard) < 4:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = connection.recv(9 - len(heard))
            if not part:
                break
            heard += part
        if heard[3:4] != bytes([_SETTINGS]):
            raise OSError("what listens there is not Ray's head")


def _problem(host: str, port: int) -> str | None:
    """Why nothing answers; a look-up of a name cannot be told how long it may take."""
    reason: list[str | None] = []

    def look() -> None:
        try:
            answers(host, port)
        except TimeoutError:
            reason.append("it says nothing")
        except socket.gaierror as error:
            reason.append(f"{host} is not known ({error.strerror})")
        except (OSError, OverflowError, UnicodeError) as error:
            reason.append(getattr(error, "strerror", None) or str(error))
        else:
            reason.append(None)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(REACH_SECONDS)
    return reason[0] if reason else f"nothing was heard within {REACH_SECONDS:.0f} s"


def _of_this_machine(address: str) -> str:
    """The address of the cluster that was started here; never that of another sweep, which is its
    own."""
    if started := address_of_started():
        return started
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            found = [word.partition("=")[2] for word in words if word.startswith("--gcs-address=")]
            if found and not any(is_name_of_scratch(part) for w in words for part in w.split("/")):
                return found[0]
    raise ValueError(
        f"no Ray cluster runs on this machine ({_source(address)}): start one with `ray start "
        "--head`, or leave the address out for a Ray of the sweep's own"
    )


def _named(address: str) -> str:
    return f"{address} ({_source(address)})"


def _source(address: str) -> str:
    return "RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") == address else "--ray-address"
