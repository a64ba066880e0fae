"""How many trials run side by side, and what each of them gets."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Trials that run at the same time, and the share of the machine of each."""

    num_slots: int
    cpu_threads: int
    gpus_per_trial: float

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_trial else "cpu"

    def __str__(self) -> str:
        threads = f"{self.cpu_threads} CPU thread{'s' if self.cpu_threads > 1 else ''}"
        gpu = f" and {self.gpus_per_trial:g} GPU" if self.gpus_per_trial else ""
        return f"{self.num_slots} slot{'s' if self.num_slots > 1 else ''} of {threads}{gpu}"


def available_cpus() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def choose_slots(
    *,
    cpus: float,
    gpus: float,
    num_slots: int | None = None,
    cpu_threads: int | None = None,
    gpus_per_trial: float | None = None,
) -> Slots:
    """Slots for a machine or cluster with so many cores and GPUs; what is given is kept.

    Without GPUs every core trains (one thread each on small machines: threads of one trial wait
    for each other, trials do not). With GPUs a trial has one of them.
    """
    for name, value in (("--slots", num_slots), ("--cpus-per-trial", cpu_threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}")
    if gpus_per_trial is not None and gpus_per_trial < 0:
        raise ValueError(f"--gpus-per-trial must not be negative, found {gpus_per_trial:g}")
    if gpus_per_trial and gpus_per_trial > gpus:
        raise ValueError(f"--gpus-per-trial {gpus_per_trial:g}, but there are {gpus:g} GPUs")
    if cpu_threads is not None and cpu_threads > cpus:
        raise ValueError(f"--cpus-per-trial {cpu_threads}, but there are {cpus:g} CPUs")
    share = gpus_per_trial if gpus_per_trial is not None else (1.0 if gpus >= 1 else 0.0)
    if share:
        # The small number guards against 1 / 0.1 = 9.99...
        fit = int(gpus / share + 1e-6)
        threads = cpu_threads or max(1, int(cpus // fit))
        fit = min(fit, int(cpus // threads))
    else:
        threads = cpu_threads or max(1, int(cpus) // (num_slots or min(int(cpus), 8)))
        fit = max(1, int(cpus) // threads)
    if num_slots is not None and num_slots > fit:
        raise ValueError(
            f"--slots {num_slots} with {threads} CPU threads"
            f"{f' and {share:g} GPU' if share else ''} each do not fit into {cpus:g} CPUs"
            f"{f' and {gpus:g} GPUs' if gpus else ''}; {fit} would"
        )
    return Slots(num_slots=num_slots or max(1, fit), cpu_threads=threads, gpus_per_trial=share)
