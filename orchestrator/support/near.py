"""Paths as short as they work from where the user is."""

import shlex
from pathlib import Path


def near(path: Path) -> str:
    """`sweeps/x/best` for whoever is above it; a path from elsewhere stays whole."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def typed(path: Path) -> str:
    """The same as a word of a command, quoted where a shell would read it otherwise."""
    return shlex.quote(near(path))
