"""What the methods of `Sweep` are asked for, where it is more than one request."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from orchestrator.plan.request import FinalRequest, SweepRequest
from orchestrator.run.request import RunRequest
from orchestrator.support.options import Option

STORAGE = Option(
    "Database that holds the studies, instead of a file in the folder: "
    "postgresql://host/studies or sqlite:////path/studies.db.",
    envvar="ORCHESTRATOR_STORAGE",
)


@dataclass(frozen=True, kw_only=True)
class PlanRequest(SweepRequest):
    """What is searched, and where it is kept."""

    out: Annotated[
        Path | None, Option("Where to make the sweep's folder (default: sweeps/<suite>-<time>).")
    ] = None
    storage: Annotated[str | None, STORAGE] = None


@dataclass(frozen=True, kw_only=True)
class ResumeRequest(RunRequest):
    """How to go on with a search."""

    accept_versions: Annotated[
        bool,
        Option(
            "Go on although the software changed since the sweep was begun; it is recorded.",
            flag="--accept-versions",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class FinalizeRequest(FinalRequest, RunRequest):
    """What the last stage is to do, and where."""
