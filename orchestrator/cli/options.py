"""Options and exit codes that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.slots import Slots

INTERRUPTED = 130
SOME_FAILED = 1

Folder = Annotated[Path, typer.Argument(help="The folder of a sweep.")]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="ORCHESTRATOR_STORAGE",
        help="Optuna storage instead of the folder's SQLite file, e.g. postgresql://host/studies.",
    ),
]
MaxHours = Annotated[
    float | None, typer.Option(help="Stop after this long; `resume` goes on.", min=0)
]
NumSlots = Annotated[int | None, typer.Option("--slots", help="Trials side by side.")]
CpusPerTrial = Annotated[int | None, typer.Option(help="CPU threads of a trial.")]
GpusPerTrial = Annotated[float | None, typer.Option(help="GPUs of a trial, fractions allowed.")]
RayAddress = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="A running Ray cluster, e.g. auto.")
]


def slots_of(
    num_slots: int | None,
    cpu_threads: int | None,
    gpus_per_trial: float | None,
    ray_address: str | None,
) -> "Slots":
    from orchestrator.slots import Slots, available_cpus, choose_slots

    if ray_address:
        if num_slots and cpu_threads and gpus_per_trial is not None:
            # All said: a cluster that has not grown so far yet is waited for.
            return Slots(
                num_slots=num_slots, cpu_threads=cpu_threads, gpus_per_trial=gpus_per_trial
            )
        from orchestrator.schedule import cluster_size

        cpus, gpus = cluster_size(ray_address)
    else:
        import torch

        cpus, gpus = available_cpus(), torch.cuda.device_count()
    return choose_slots(
        cpus=cpus,
        gpus=gpus,
        num_slots=num_slots,
        cpu_threads=cpu_threads,
        gpus_per_trial=gpus_per_trial,
    )
