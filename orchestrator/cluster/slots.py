"""How many trials run side by side, and what each of them gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.support.counted import counted

ROUNDING = 1e-6
"""Ten tenths of a GPU are one."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine that trials may run on."""

    cpus: float
    gpus: float = 0.0
    gpu_kind: str | None = None
    """The kind of GPU as Ray names it, for example L4 or H100; None: it has none, or nobody
    knows."""

    @classmethod
    def of_ray(cls, resources: Mapping[str, float]) -> "Machine":
        """From the resources of a node, or of a node type in a cluster's file."""
        kinds = [name.partition(":")[2] for name in resources if name.startswith(_KIND)]
        gpus = resources.get("GPU", 0.0)
        kind = kinds[0] if kinds and gpus else None
        return cls(cpus=resources.get("CPU", 0.0), gpus=gpus, gpu_kind=kind)


_KIND = "accelerator_type:"


def in_all(machines: Sequence[Machine]) -> dict[str, float]:
    """CPUs, GPUs, and GPUs of each kind."""
    total = {"CPU": sum(m.cpus for m in machines), "GPU": sum(m.gpus for m in machines)}
    for machine in machines:
        if machine.gpu_kind:
            name = f"GPU:{machine.gpu_kind}"
            total[name] = total.get(name, 0.0) + machine.gpus
    return total


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Trials that run at the same time, and the share of the machine of each."""

    num_slots: int
    cpu_threads: int
    gpus_per_trial: float
    gpu_kind: str | None = None
    """Only on GPUs of this kind; None: on any."""

    def __post_init__(self) -> None:
        if self.gpu_kind and not self.gpus_per_trial:
            raise ValueError(f"--gpu-kind {self.gpu_kind}, but a trial is given no GPU")

    @property
    def needs(self) -> dict[str, float]:
        """What one slot needs, in the names of `in_all`."""
        needs = {"CPU": float(self.cpu_threads), "GPU": self.gpus_per_trial}
        return {**needs, f"GPU:{self.gpu_kind}": self.gpus_per_trial} if self.gpu_kind else needs

    @property
    def ray_resources(self) -> dict[str, float]:
        """What one slot asks Ray for, in Ray's names; of a kind of GPU a trace is enough to be
        there."""
        resources = {"cpu": float(self.cpu_threads), "gpu": self.gpus_per_trial}
        return {**resources, f"{_KIND}{self.gpu_kind}": 0.001} if self.gpu_kind else resources

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    def gpu_share(self) -> float:
        """The part that a trial has of each GPU that it uses."""
        return min(1.0, self.gpus_per_trial) or 1.0

    def __str__(self) -> str:
        kind = f" {self.gpu_kind}" if self.gpu_kind else ""
        gpu = f" and {self.gpus_per_trial:g}{kind} GPU" if self.gpus_per_trial else ""
        threads = counted(self.cpu_threads, "CPU thread")
        return f"{counted(self.num_slots, 'slot')} of {threads}{gpu}"


def choose_slots(
    machines: Sequence[Machine],
    *,
    num_slots: int | None = None,
    cpu_threads: int | None = None,
    gpus_per_trial: float | None = None,
    gpu_kind: str | None = None,
) -> Slots:
    """Slots for these machines, all of `gpu_kind` if it is given; what else is given is kept.

    A trial runs within one machine. Without GPUs every core trains (one thread each on small
    machines: threads of one trial wait for each other, trials do not). With GPUs a trial has one of
    them. ValueError where a wish cannot be met.
    """
    for name, value in (("--slots", num_slots), ("--cpus-per-trial", cpu_threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}")
    if gpus_per_trial is not None and gpus_per_trial < 0:
        raise ValueError(f"--gpus-per-trial must not be negative, found {gpus_per_trial:g}")
    if not any(machine.cpus >= 1 for machine in machines):
        raise ValueError(
            "no machine has a CPU for trials; where machines come only when trials wait for them, "
            "give --slots, --cpus-per-trial and --gpus-per-trial"
        )
    most_gpus = max(machine.gpus for machine in machines)
    if gpus_per_trial and gpus_per_trial > most_gpus:
        raise ValueError(
            f"--gpus-per-trial {gpus_per_trial:g}, but there are {most_gpus:g} GPUs in a machine"
        )
    share = gpus_per_trial if gpus_per_trial is not None else (1.0 if most_gpus >= 1 else 0.0)
    machines = [m for m in machines if m.cpus >= 1 and m.gpus >= share - ROUNDING]
    most_cpus = max((machine.cpus for machine in machines), default=0.0)
    if not machines or (cpu_threads is not None and cpu_threads > most_cpus):
        raise ValueError(
            f"--cpus-per-trial {cpu_threads or 1}, but there are {most_cpus:g} CPUs in a machine"
        )
    threads = cpu_threads or _threads(machines, share, num_slots)
    fit = num_fitting(machines, cpu_threads=threads, gpus_per_trial=share)
    if num_slots is not None and num_slots > fit:
        total = in_all(machines)
        gpus = f" and {total['GPU']:g} GPUs" if total["GPU"] else ""
        raise ValueError(
            f"--slots {num_slots} with {threads} CPU threads"
            f"{f' and {share:g} GPU' if share else ''} each do not fit into {total['CPU']:g} CPUs"
            f"{gpus}; {fit} would"
        )
    return Slots(
        num_slots=num_slots or max(1, fit),
        cpu_threads=threads,
        gpus_per_trial=share,
        gpu_kind=gpu_kind,
    )


def num_fitting(machines: Sequence[Machine], *, cpu_threads: int, gpus_per_trial: float) -> int:
    """How many trials of this size these machines have room for."""
    share = gpus_per_trial
    return sum(
        min(int(m.cpus // cpu_threads), _num_shares(m, share))
        if share
        else int(m.cpus // cpu_threads)
        for m in machines
    )


def _threads(machines: Sequence[Machine], share: float, num_slots: int | None) -> int:
    """CPU threads of a trial: so many that trials fill each machine, and fit the smallest."""
    if share:
        return max(1, min(int(m.cpus // _num_shares(m, share)) for m in machines))
    cores = int(sum(machine.cpus for machine in machines))
    wanted = num_slots or min(cores, 8)
    most = min(int(machine.cpus) for machine in machines)
    fitting = [t for t in range(1, most + 1) if sum(int(m.cpus // t) for m in machines) >= wanted]
    return max(fitting, default=1)


def _num_shares(machine: Machine, share: float) -> int:
    """Trials on the GPUs of a machine; a fraction is one of a single GPU."""
    if share < 1:
        return int(machine.gpus) * int(1 / share + ROUNDING)
    return int(machine.gpus / share + ROUNDING)
