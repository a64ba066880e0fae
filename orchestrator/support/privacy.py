"""What on this machine is open to its other users, and lets them run code as ourselves.

Whoever can read the token of a Ray cluster can run anything on it, as the user who started it.
"""

import logging
import os
import stat
from pathlib import Path

logger = logging.getLogger(__name__)

_READ, _WRITE, _PASS = 4, 2, 1


def open_things() -> list[str]:
    """What others can read or write that they should not, each in a line with what closes it."""
    found = []
    home = _home()
    if home is not None and _allows(home, _WRITE):
        found.append(f"{home} can be written to by other users: chmod go-w {home}")
    token = token_file()
    if token is not None and _allows(token, _READ):
        found.append(
            f"{token}, which lets into Ray clusters, can be read by other users: chmod 600 {token}"
        )
    place = os.environ.get("RAY_TMPDIR")
    if place and _allows(Path(place), _WRITE) and not Path(place).stat().st_mode & stat.S_ISVTX:
        found.append(f"{place} (RAY_TMPDIR) can be written to by other users: chmod go-w {place}")
    return found


def warn_of_open_token() -> None:
    """Before it is used."""
    token = token_file()
    if token is not None and _allows(token, _READ):
        logger.warning(
            "%s, which lets into the cluster, can be read by other users: chmod 600 %s",
            token,
            token,
        )


def token_file() -> Path | None:
    """The file that Ray takes its token from, if it would take it from a file."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    home = _home()
    path = Path(named) if named else home and home / ".ray" / "auth_token"
    return path if path and path.is_file() else None


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # nobody knows it
        return None


def _allows(path: Path, what: int) -> bool:
    """Whether the group or others may do this with a path, and get as far as there."""
    try:
        mode = path.stat().st_mode
        passes = [parent.stat().st_mode for parent in path.resolve().parents]
    except OSError:
        return False
    return any(
        mode & (what << shift) and all(parent & (_PASS << shift) for parent in passes)
        for shift in (0, 3)
    )
