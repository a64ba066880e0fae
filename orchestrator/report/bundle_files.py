"""Where the files of best trials are, as a page tells it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The files of a trial, and what is typed to use them."""

    trial: int
    path: str

    @property
    def again(self) -> str:
        """The command that trains the same trial."""
        return f"orchestrator train {shlex.quote(self.path)}"


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """Those of a sweep that are there and are of the trials that are the best now."""

    best: Mapping[str, Bundle] = field(default_factory=dict)
    """By task."""
    of_studies: Mapping[str, Bundle] = field(default_factory=dict)
    """By study."""
    why_not: str = ""
    """What is missing, and what makes it; empty where nothing is."""
