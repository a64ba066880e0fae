"""Which trackers there are, and which of them an address means: the one file that names them."""

import os
from collections.abc import Mapping
from pathlib import Path

from orchestrator.support.addresses import redacted
from orchestrator.tracking.backend import TrackerKind
from orchestrator.tracking.mlflow.tracker import MLflow

TRACKERS: dict[str, TrackerKind] = {"mlflow": MLflow()}
"""By name; the first is the one of a sweep whose user names none."""


def tracker_at(address: str) -> TrackerKind:
    """The kind of tracker whose address this is; ValueError if it is of none."""
    for kind in TRACKERS.values():
        if kind.has(address):
            return kind
    known = ", ".join(kind.name for kind in TRACKERS.values())
    raise ValueError(f"{redacted(address)}: is the address of no tracker; known: {known}")


def chosen_tracker(environment: Mapping[str, str] = os.environ) -> TrackerKind:
    """The kind that has an address in the environment, or the first."""
    kinds = list(TRACKERS.values())
    return next((kind for kind in kinds if environment.get(kind.variable)), kinds[0])


def tracking_uri(folder: Path) -> str:
    """Where the sweep in `folder` is shown; ValueError if the user's environment names no place."""
    return chosen_tracker().address(folder)


def local_databases() -> list[str]:
    """Names of the files in a sweep's folder that trackers keep there."""
    return [name for kind in TRACKERS.values() for name in kind.local_databases]
