"""What a sweep cost: hours of each device."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.plan.plan import GpuShare
from orchestrator.record.record import TrialRecord
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import number_text

CPU = "cpu"


@dataclass(frozen=True, kw_only=True)
class DeviceHours:
    """How long trials were on devices of a kind."""

    device: str
    """Name of the GPU, or cpu."""
    hours: float
    """GPU hours, a trial on a part of a GPU by its part; of a CPU those of its threads."""
    num_trials: int

    def __str__(self) -> str:
        """`1.3 GPU hours on NVIDIA H100, 24 trials`."""
        kind = "CPU hours" if self.device == CPU else f"GPU hours on {self.device}"
        return f"{number_text(self.hours)} {kind}, {counted(self.num_trials, 'trial')}"


def device_hours(trials: Iterable[TrialRecord], share: GpuShare | None) -> list[DeviceHours]:
    """By device, of the trials that say where they ran; `share` is what the plan gives a trial."""
    seconds: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for trial in trials:
        device, wall = trial.facts.get("device"), trial.facts.get("wall_seconds")
        if not device or wall is None:
            continue
        part = trial.facts.get("cpu_threads", 1)
        if device != CPU:
            part = share.gpus_per_trial if share and share.gpu == device else 1
        seconds[device] += part * wall
        counts[device] += 1
    return [
        DeviceHours(device=device, hours=seconds[device] / 3600, num_trials=counts[device])
        for device in seconds
    ]


def hours_text(found: list[DeviceHours]) -> str:
    """All of them in a sentence's part; empty where none is known."""
    return "; ".join(str(each) for each in found)
