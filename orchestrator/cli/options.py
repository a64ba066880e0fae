"""Options and exit codes that several commands share."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.cluster.slots import Slots

logger = logging.getLogger(__name__)

INTERRUPTED = 130
SOME_FAILED = 1

Folder = Annotated[Path, typer.Argument(help="The folder of a sweep.")]


def _with_its_driver(url: str | None) -> str | None:
    """Asked before anything is planned or started."""
    if not url:
        return None
    from orchestrator.record.database import with_driver

    return with_driver(url)


Storage = Annotated[
    str | None,
    typer.Option(
        envvar="ORCHESTRATOR_STORAGE",
        callback=_with_its_driver,
        help="Optuna storage instead of the folder's SQLite file, e.g. postgresql://host/studies.",
    ),
]
MaxHours = Annotated[
    float | None, typer.Option(help="Stop after this long; `resume` goes on.", min=0)
]
SplitFractions = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Of folders that come unsplit: train/val/test in per cent, e.g. 60/20/20, the "
        "default; 80/20 makes no test split.",
    ),
]
SplitSeed = Annotated[
    int, typer.Option(help="Of folders that come unsplit; the seed of the search is another.")
]
NumSlots = Annotated[int | None, typer.Option("--slots", help="Trials side by side.")]
CpusPerTrial = Annotated[int | None, typer.Option(help="CPU threads of a trial.")]
GpusPerTrial = Annotated[float | None, typer.Option(help="GPUs of a trial, fractions allowed.")]


def expanded(text: str) -> Path:
    """A path whose ~ no shell has expanded, as in --data=~/images."""
    return Path(text).expanduser()


DataOption = Annotated[
    Path | None,
    typer.Option(
        parser=expanded,
        metavar="PATH",
        help="Where the images are now, if not where they were: the suite's folder, or the one "
        "that it lies in.",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        parser=expanded,
        metavar="PATH",
        help="Where the backbone's weights are now, if not where they were.",
    ),
]
GpuKind = Annotated[
    str | None,
    typer.Option(help="Of a cluster with several: only GPUs of this kind, e.g. L4 or H100."),
]
RayAddress = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="A running Ray cluster, e.g. auto.")
]


def names_in(text: str | None) -> list[str] | None:
    """`"a, b"` as a list; None where the option is not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def slots_of(
    num_slots: int | None,
    cpu_threads: int | None,
    gpus_per_trial: float | None,
    gpu_kind: str | None,
    ray_address: str | None,
) -> "Slots":
    from orchestrator.cluster.slots import Machine, Slots, choose_slots
    from orchestrator.support.processors import available_cpus

    if ray_address and num_slots and cpu_threads and gpus_per_trial is not None:
        # All said: a cluster that has not grown so far yet is waited for.
        chosen = Slots(
            num_slots=num_slots,
            cpu_threads=cpu_threads,
            gpus_per_trial=gpus_per_trial,
            gpu_kind=gpu_kind,
        )
        if gpu_kind:
            _warn_if_there_is_none(gpu_kind, ray_address)
        return chosen
    if ray_address:
        from orchestrator.run.ray.engine import machines_of

        machines = machines_of(ray_address, gpu_kind)
    elif gpu_kind:
        raise ValueError("--gpu-kind chooses among the machines of a cluster: --ray-address")
    else:
        import torch

        machines = [Machine(cpus=available_cpus(), gpus=torch.cuda.device_count())]
    return choose_slots(
        machines,
        num_slots=num_slots,
        cpu_threads=cpu_threads,
        gpus_per_trial=gpus_per_trial,
        gpu_kind=gpu_kind,
    )


def _warn_if_there_is_none(gpu_kind: str, ray_address: str) -> None:
    from orchestrator.run.ray.engine import machines_of

    try:
        machines_of(ray_address, gpu_kind)
    except ValueError as error:
        logger.warning("%s; machines of this kind are waited for", error)
