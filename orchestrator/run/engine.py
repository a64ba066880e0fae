"""The engines: what a sweep needs of whatever trains its runs, and the choice among those we have.

`ray` trains side by side, here or on a cluster, in workers that may die. `local` trains in this
process, one run after the other: where a debugger can stop, and where Ray cannot start.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.cluster.slots import Machine, Slots, choose_slots
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.processors import available_cpus

if TYPE_CHECKING:  # the options of `sweep` are read without torch
    from orchestrator.data.cache import DecodedSplit, ImageCache
    from orchestrator.plan.plan import SweepPlan
    from orchestrator.plan.precision import PrecisionChooser
    from orchestrator.run.queue import RunQueue
    from orchestrator.training.context import TrialContext
    from orchestrator.training.driver_files import DriverFiles

logger = logging.getLogger(__name__)

RAY, LOCAL = "ray", "local"
ENGINES = (RAY, LOCAL)


class Engine(Protocol):
    """Trains what a queue hands out. Nothing of it is started before it is needed."""

    @property
    def slots(self) -> Slots:
        """How many runs it trains at a time, and what each of them gets."""
        ...

    @property
    def is_apart(self) -> bool:
        """Whether it trains in other processes, so that no trial uses our terminal."""
        ...

    def precision_chooser(
        self, sweep: str, *, deadline: float | None, dry_run: bool
    ) -> "PrecisionChooser":
        """Measures the precision where runs will be trained.

        A place to measure is waited for until the `deadline` of the monotonic clock; in a
        `dry_run` nothing is started.
        """
        ...

    def start(self) -> None:
        """What takes a while before the first run can begin; `run` does it where nobody did."""
        ...

    def driver_files(
        self,
        plan: "SweepPlan",
        decoded: "Callable[[], Mapping[str, Mapping[str, DecodedSplit]]]",
        *,
        cache: "ImageCache",
        kept_below: Path,
    ) -> "DriverFiles | None":
        """How workers get the decoded splits (by task) and the weights; None: from our own disk.

        What workers give back is written below `kept_below`.
        """
        ...

    def run(
        self,
        queue: "RunQueue",
        context: "TrialContext",
        *,
        sweep: str,
        max_seconds: float | None = None,
    ) -> None:
        """Run what is left in the queue; returns when done, out of time, or stopped by a signal.

        Runs that were not finished by then stay running in the record, to be run again. Other
        sweeps know this one as `sweep`.
        """
        ...


def choose_engine(
    name: str = RAY,
    *,
    num_slots: int | None = None,
    cpu_threads: int | None = None,
    gpus_per_trial: float | None = None,
    gpu_kind: str | None = None,
    ray_address: str | None = None,
) -> Engine:
    """The engine of this name, with slots as wished and else as the machines suggest.

    ValueError where a wish cannot be met.
    """
    refuse_unsuited(name, num_slots, ray_address, gpu_kind)
    if name == LOCAL:
        num_slots = 1
    if ray_address:
        slots = _slots_of_cluster(ray_address, num_slots, cpu_threads, gpus_per_trial, gpu_kind)
    else:
        slots = choose_slots(
            [_this_machine()],
            num_slots=num_slots,
            cpu_threads=cpu_threads,
            gpus_per_trial=gpus_per_trial,
        )
    if name == LOCAL:
        from orchestrator.run.in_process import InProcess

        return InProcess(slots)
    from orchestrator.run.ray.engine import RayEngine

    return RayEngine(slots, ray_address)


def refuse_unsuited(
    name: str, num_slots: int | None, ray_address: str | None, gpu_kind: str | None = None
) -> None:
    """ValueError if there is no such engine, or it can do nothing with these options."""
    if name not in ENGINES:
        raise ValueError(unknown("--engine", name, ENGINES))
    if gpu_kind and not ray_address:
        raise ValueError("--gpu-kind chooses among the machines of a cluster: --ray-address")
    if name != LOCAL:
        return
    if ray_address:
        raise ValueError(
            f"--engine local trains in this process, not on the cluster {ray_address} of "
            "--ray-address or RAY_ADDRESS: leave one of them out"
        )
    if num_slots not in (None, 1):
        raise ValueError(
            f"--engine local trains one trial after the other, found --slots {num_slots}: "
            "leave one of them out"
        )


def _this_machine() -> Machine:
    import torch

    return Machine(cpus=available_cpus(), gpus=torch.cuda.device_count())


def _slots_of_cluster(
    address: str,
    num_slots: int | None,
    cpu_threads: int | None,
    gpus_per_trial: float | None,
    gpu_kind: str | None,
) -> Slots:
    from orchestrator.run.ray.start import machines_of

    if not (num_slots and cpu_threads and gpus_per_trial is not None):
        return choose_slots(
            machines_of(address, gpu_kind),
            num_slots=num_slots,
            cpu_threads=cpu_threads,
            gpus_per_trial=gpus_per_trial,
            gpu_kind=gpu_kind,
        )
    # All said: a cluster that has not grown so far yet is waited for.
    chosen = Slots(
        num_slots=num_slots,
        cpu_threads=cpu_threads,
        gpus_per_trial=gpus_per_trial,
        gpu_kind=gpu_kind,
    )
    if gpu_kind:
        try:
            machines_of(address, gpu_kind)
        except ValueError as error:
            logger.warning("%s; machines of this kind are waited for", error)
    return chosen
