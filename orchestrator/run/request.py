"""Where and how long trials shall run, as the user asked for it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from orchestrator.cluster.slots import Slots
from orchestrator.run.engine import LOCAL, Engine, choose_engine, refuse_unsuited
from orchestrator.support.options import Option
from orchestrator.support.processors import available_cpus

if TYPE_CHECKING:
    from orchestrator.plan.gpu_share import GpuShareChooser
    from orchestrator.plan.plan import GpuShare

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The options that every command has which trains; None: what suits the machines."""

    engine: Annotated[
        Literal["ray", "local"],
        Option(
            "ray: trials side by side, here or on a cluster. local: in this process, one after "
            "the other, where a debugger can stop.",
            "Machine",
        ),
    ] = "ray"
    slots: Annotated[
        int | None,
        Option("How many trials run side by side.", "Machine", default="as many as fit"),
    ] = None
    cpus_per_trial: Annotated[
        int | None,
        Option("CPU threads for each trial.", "Machine", default="an equal share"),
    ] = None
    gpus_per_trial: Annotated[
        float | None,
        Option(
            "GPUs for each trial; 0.5 puts two trials on one GPU.",
            "Machine",
            default="measured on this machine; 1 on a cluster",
        ),
    ] = None
    gpu_kind: Annotated[
        str | None,
        Option(
            "Where a cluster has several kinds of GPUs: use only these, e.g. L4 or H100.",
            "Machine",
            default="any",
            metavar="NAME",
        ),
    ] = None
    max_hours: Annotated[
        float | None,
        Option(
            "Stop in order after so many hours; `resume` goes on.",
            "Machine",
            default="no limit",
            at_least=0,
        ),
    ] = None
    ray_address: Annotated[
        str | None,
        Option(
            "Run on the Ray cluster at this address, e.g. auto.",
            "Machine",
            default="this machine",
            metavar="ADDRESS",
            envvar="RAY_ADDRESS",
        ),
    ] = None

    @property
    def max_seconds(self) -> float | None:
        return None if self.max_hours is None else 3600 * self.max_hours

    def check(self) -> None:
        """ValueError where options contradict each other, before a machine is looked at."""
        refuse_unsuited(self.engine, self.slots, self.ray_address, self.gpu_kind)

    def chosen_engine(self, planned: "GpuShare | None" = None) -> Engine:
        """The engine, with slots as asked for and else as the machines suggest.

        `planned` is what was measured on a GPU when the sweep was planned; it holds on such GPUs.
        ValueError where what is asked for cannot be.
        """
        return choose_engine(
            self.engine,
            num_slots=self.slots,
            cpu_threads=self.cpus_per_trial,
            gpus_per_trial=self._gpus_per_trial(planned),
            gpu_kind=self.gpu_kind,
            ray_address=self.ray_address,
        )

    def gpu_share_chooser(self, slots: Slots) -> "GpuShareChooser | None":
        """What says how much of a GPU a trial shall have; None: that is settled."""
        settled = self.gpus_per_trial is not None or self.slots is not None or self.engine == LOCAL
        if settled or slots.device == "cpu":
            return None
        if self.ray_address:
            return _whole_on_a_cluster
        import torch

        from orchestrator.plan.gpu_share import choose_gpu_share

        cpus = available_cpus() // (torch.cuda.device_count() * (self.cpus_per_trial or 1))
        return partial(choose_gpu_share, most=int(cpus))

    def _gpus_per_trial(self, planned: "GpuShare | None") -> float | None:
        elsewhere = self.ray_address or self.engine == LOCAL
        if self.gpus_per_trial is not None or planned is None or elsewhere:
            return self.gpus_per_trial
        import torch

        count = torch.cuda.device_count()
        if self.slots is not None and self.slots <= count:
            return None  # there is a whole one for each
        here = {torch.cuda.get_device_name(index) for index in range(count)}
        if here == {planned.gpu}:
            return planned.gpus_per_trial
        if here:
            logger.warning(
                "a whole GPU for each trial: that %g is enough was measured on %s, not on %s; "
                "--gpus-per-trial %g takes it",
                planned.gpus_per_trial,
                planned.gpu,
                " and ".join(sorted(here - {planned.gpu})),
                planned.gpus_per_trial,
            )
        return None

    def deadline(self) -> float | None:
        """By the monotonic clock, if the time begins now."""
        return None if self.max_seconds is None else time.monotonic() + self.max_seconds


def _whole_on_a_cluster(vit: Any, engine: Any, *, say: Callable[[str], None]) -> None:
    """A `GpuShareChooser` for machines that may not have been started yet."""
    say(
        "GPU share: a whole GPU for each trial, on a cluster it is not measured; "
        "--gpus-per-trial 0.5 puts two trials on one"
    )


def hours_until(deadline: float | None) -> float | None:
    """By the monotonic clock; at least a second."""
    return None if deadline is None else max(1.0, deadline - time.monotonic()) / 3600
