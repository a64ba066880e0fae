"""Where and how long trials shall run, as the user asked for it."""

import time
from dataclasses import dataclass
from typing import Annotated, Literal

from orchestrator.run.engine import Engine, choose_engine
from orchestrator.support.options import Option


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The options that every command has which trains; None: what suits the machines."""

    engine: Annotated[
        Literal["ray", "local"],
        Option(
            "ray: trials side by side, here or on a cluster. local: in this process, one after "
            "the other, where a debugger can stop."
        ),
    ] = "ray"
    slots: Annotated[int | None, Option("How many trials run side by side.")] = None
    cpus_per_trial: Annotated[int | None, Option("CPU threads for each trial.")] = None
    gpus_per_trial: Annotated[
        float | None, Option("GPUs for each trial; 0.5 puts two trials on one GPU.")
    ] = None
    gpu_kind: Annotated[
        str | None,
        Option("Where a cluster has several kinds of GPUs: use only these, e.g. L4 or H100."),
    ] = None
    max_hours: Annotated[
        float | None,
        Option("Stop in order after so many hours; `resume` goes on.", at_least=0),
    ] = None
    ray_address: Annotated[
        str | None,
        Option(
            "Run on the Ray cluster at this address, e.g. auto (default: on this machine).",
            envvar="RAY_ADDRESS",
        ),
    ] = None

    @property
    def max_seconds(self) -> float | None:
        return None if self.max_hours is None else 3600 * self.max_hours

    def chosen_engine(self) -> Engine:
        """The engine, with slots as asked for and else as the machines suggest.

        ValueError where what is asked for cannot be.
        """
        return choose_engine(
            self.engine,
            num_slots=self.slots,
            cpu_threads=self.cpus_per_trial,
            gpus_per_trial=self.gpus_per_trial,
            gpu_kind=self.gpu_kind,
            ray_address=self.ray_address,
        )

    def deadline(self) -> float | None:
        """By the monotonic clock, if the time begins now."""
        return None if self.max_seconds is None else time.monotonic() + self.max_seconds


def hours_until(deadline: float | None) -> float | None:
    """By the monotonic clock; at least a second."""
    return None if deadline is None else max(1.0, deadline - time.monotonic()) / 3600
