"""The wait from the start of a search until its first epoch: workers begin, images are loaded."""

import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from orchestrator.record.record import TrialRecord
from orchestrator.record.steering import Steering
from orchestrator.support.phases import phase
from orchestrator.training.facts import EpochRow


class UntilTheFirstEpoch:
    """An observer of the schedule that tells this wait as a phase, from when it is entered."""

    def __init__(self) -> None:
        self._phase = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._phase.enter_context(phase("starting workers, until the first epoch is over"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._phase.close()

    def trial_started(self, trial: TrialRecord) -> None:
        """Its worker begins."""

    def trial_epochs(self, study: str, number: int, rows: Sequence[EpochRow]) -> None:
        self._phase.close()

    def trial_frozen(self, trial: TrialRecord) -> None:
        self._phase.close()

    def trial_ended(self, trial: TrialRecord) -> None:
        self._phase.close()

    def steered(self, steering: Steering, num_trials: Mapping[str, int]) -> None:
        if steering.paused:
            self._phase.close()  # nobody waits for a worker
