"""What the methods of `Sweep` are asked for, where it is more than one request."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.request import FinalRequest, NearTiesRequest, SweepRequest
from orchestrator.run.request import RunRequest
from orchestrator.support.options import Option

STORAGE = Option(
    "Database that holds the studies, instead of a file in the folder: "
    "postgresql://host/studies or sqlite:////path/studies.db.",
    "Output",
    default="studies.db in the sweep's folder",
    metavar="ADDRESS",
    envvar="ORCHESTRATOR_STORAGE",
)


@dataclass(frozen=True, kw_only=True)
class PlanRequest(SweepRequest):
    """What is searched, and where it is kept."""

    out: Annotated[
        Path | None,
        Option("Where to make the sweep's folder.", "Output", default="sweeps/<suite>-<time>"),
    ] = None
    storage: Annotated[str | None, STORAGE] = None
    again: Any = None
    """The `SweepPlan` that it was read from, if it plans the same search again."""


@dataclass(frozen=True, kw_only=True)
class PriceRequest:
    """What machines cost."""

    price_per_hour: Annotated[
        float | None,
        Option(
            "Price of an hour of one GPU, or without GPUs of one slot: the forecast of what a "
            "sweep will cost says it in money, too.",
            "Machine",
            default="hours alone",
            at_least=0,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ForecastRequest(PriceRequest, RunRequest):
    """What a sweep will cost, and where."""


@dataclass(frozen=True, kw_only=True)
class StartRequest(NearTiesRequest):
    """What `orchestrator sweep` does with the plan."""

    finalize: Annotated[
        bool,
        Option(
            "After the search, compare the finalists and test once.",
            "Output",
            flag="--finalize",
        ),
    ] = False
    detach: Annotated[
        bool,
        Option("Run it on the cluster's head, and return at once.", "Machine", flag="--detach"),
    ] = False
    dry_run: Annotated[
        bool,
        Option(
            "Check everything, show the plan and what it will cost, start nothing.",
            "Output",
            flag="--dry-run",
        ),
    ] = False
    yes: Annotated[
        bool,
        Option(
            "Start without a question, whatever it will cost. At a terminal one is asked above a "
            "day of slots, or a price of 10.",
            "Output",
            flag="--yes",
        ),
    ] = False

    @property
    def final(self) -> FinalRequest | None:
        """What the last stage that follows is to do; None: none follows.

        ValueError names what no last stage can be done with, before anything is searched.
        """
        if self.finalize:
            FinalProtocol(**self.protocol)
            return FinalRequest(most_finalists=self.most_finalists, repeats=self.repeats)
        if self.protocol:
            flag = f"--{next(iter(self.protocol)).replace('_', '-')}"
            raise ValueError(
                f"{flag} is of the last stage: it goes with --finalize, or later with "
                "`orchestrator finalize`"
            )
        return None


@dataclass(frozen=True, kw_only=True)
class ResumeRequest(RunRequest):
    """How to go on with a search."""

    accept_versions: Annotated[
        bool,
        Option(
            "Go on although the software changed since the sweep was begun; it is recorded.",
            "Machine",
            flag="--accept-versions",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class SetRequest:
    """What a sweep is to do otherwise from now on."""

    slots: Annotated[
        int | None,
        Option("How many trials run side by side.", default="as it is", at_least=1),
    ] = None
    trials: Annotated[
        str | None,
        Option(
            "Trials of each study: 40, or +10 for ten more than now.",
            default="as it is",
            metavar="N or +N",
        ),
    ] = None
    pause: Annotated[
        bool,
        Option("Begin no trial; those that run go on to their end.", flag="--pause"),
    ] = False
    go_on: Annotated[bool, Option("End the pause.", flag="--go-on")] = False
    stop_study: Annotated[
        Sequence[str] | None,
        Option(
            "Begin no trial of this study, TASK.METHOD; those that run go on to their end.",
            metavar="STUDY",
            commas=True,
        ),
    ] = None
    go_on_study: Annotated[
        Sequence[str] | None,
        Option("Go on with a study that was stopped.", metavar="STUDY", commas=True),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FinalizeRequest(FinalRequest, RunRequest):
    """What the last stage is to do, and where."""
