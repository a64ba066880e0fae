"""What is to be run and what came of it: the seam between those who decide and those who train.

A queue hands out runs and takes in reports; it decides what counts and writes it down. An engine
trains. Neither knows the other's ways: queues know no Ray, engines no Optuna.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:  # a worker that trains something else needs no torch
    from orchestrator.training.config import TrialConfig
    from orchestrator.training.facts import EpochRow, TrialFacts
    from orchestrator.training.trial import Trial

WORKER_DEATHS_ALLOWED = 2
"""A run whose worker died goes again this often before the engine gives it up."""


@dataclass(frozen=True)
class Run:
    """What a worker is given to train."""

    kind: "type[Trial]"
    config: "TrialConfig"
    files: str
    """Its checkpoint and its tuned weights are this path with a suffix of their own."""
    memory_share: float = 1.0
    """The share of what a worker may keep in memory; halved whenever the run died for want of
    it."""
    goes_on_after: int = 0
    """The epoch after which it had been frozen, with a checkpoint; 0 if it was not."""

    @property
    def checkpoint(self) -> Path:
        return Path(f"{self.files}.checkpoint")

    @property
    def tensors(self) -> Path:
        return Path(f"{self.files}.safetensors")


@dataclass(frozen=True)
class Finished:
    """The run came to its last epoch, and its tuned weights are on the driver's disk."""


@dataclass(frozen=True)
class Failed:
    """The run cannot be finished here."""

    reason: str
    fault: Literal["config", "unexpected", "machine"]
    """config: these values cannot be trained. unexpected: an error nobody foresaw, which may lie in
    the values or in where they ran. machine: nothing could have been trained here, as on a full
    disk; the values are not to blame."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a worker says of a run."""

    rows: "Sequence[EpochRow]"
    """One row per epoch since the last report."""
    facts: "TrialFacts"
    """What is known of the run so far."""
    end: Finished | Failed | None = None
    """How the run ended; None: it goes on, if the queue lets it."""


class RunQueue(Protocol):
    """What is to be run, and what came of it. An engine names each run as it likes (`run_id`)."""

    @property
    def num_left(self) -> int:
        """Runs that may still be handed out: all of them, or more."""
        ...

    @property
    def num_slots(self) -> int | None:
        """How many are to run side by side now, 0 in a pause; None: as many as there are slots."""
        ...

    def next_run(self, run_id: str, held: Sequence[str] = ()) -> Run | Literal["finished"] | None:
        """What to run next; None: nothing for now; "finished": nothing any more.

        `held` are tasks that the worker which is to run it has already, the latest first.
        """
        ...

    def reported(self, run_id: str, report: Report) -> bool:
        """Take in what a worker said; whether the run ends here."""
        ...

    def worker_died(self, run_id: str, reason: str) -> None:
        """The worker of the run died; it is run again if that did not happen too often."""
        ...

    def worker_lost(self, run_id: str, reason: str) -> None:
        """The worker died more than WORKER_DEATHS_ALLOWED times: the engine gives the run up."""
        ...

    def forget(self, run_id: str) -> None:
        """The engine is done with the run."""
        ...


def rank(task: str, held: Sequence[str]) -> int:
    """Smaller for a task that a worker had more lately, largest for one that it never had."""
    return held.index(task) if task in held else len(held)
