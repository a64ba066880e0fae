"""Where and how long trials shall run, as the user asked for it."""

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from orchestrator.cluster.slots import Machine, Slots, choose_slots
from orchestrator.support.options import Option
from orchestrator.support.processors import available_cpus

if TYPE_CHECKING:
    from orchestrator.plan.precision import PrecisionChooser

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The options that every command has which trains; None: what suits the machines."""

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

    def chosen_slots(self) -> Slots:
        """What is asked for, filled up with what suits the machines; ValueError if it cannot be."""
        wishes = {
            "num_slots": self.slots,
            "cpu_threads": self.cpus_per_trial,
            "gpus_per_trial": self.gpus_per_trial,
            "gpu_kind": self.gpu_kind,
        }
        if not self.ray_address:
            if self.gpu_kind:
                raise ValueError(
                    "--gpu-kind chooses among the machines of a cluster: --ray-address"
                )
            import torch

            machine = Machine(cpus=available_cpus(), gpus=torch.cuda.device_count())
            return choose_slots([machine], **wishes)
        from orchestrator.run.ray.engine import machines_of

        if not (self.slots and self.cpus_per_trial and self.gpus_per_trial is not None):
            return choose_slots(machines_of(self.ray_address, self.gpu_kind), **wishes)
        # All said: a cluster that has not grown so far yet is waited for.
        chosen = Slots(
            num_slots=self.slots,
            cpu_threads=self.cpus_per_trial,
            gpus_per_trial=self.gpus_per_trial,
            gpu_kind=self.gpu_kind,
        )
        if self.gpu_kind:
            try:
                machines_of(self.ray_address, self.gpu_kind)
            except ValueError as error:
                logger.warning("%s; machines of this kind are waited for", error)
        return chosen

    def precision_chooser(
        self, slots: Slots, sweep: str, *, deadline: float | None = None, dry_run: bool = False
    ) -> "PrecisionChooser":
        """On a cluster the workers are asked, not the machine of the driver."""
        from orchestrator.plan.precision import choose_precision

        if not self.ray_address:
            return choose_precision
        from orchestrator.run.ray.precision import on_a_worker, when_it_starts

        if dry_run:
            return when_it_starts
        return on_a_worker(slots, self.ray_address, sweep, deadline=deadline)

    def deadline(self) -> float | None:
        """By the monotonic clock, if the time begins now."""
        return None if self.max_seconds is None else time.monotonic() + self.max_seconds


def hours_until(deadline: float | None) -> float | None:
    """By the monotonic clock; at least a second."""
    return None if deadline is None else max(1.0, deadline - time.monotonic()) / 3600
