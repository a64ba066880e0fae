"""A study as sampler and pruner see it: what they want to write is kept back.

They decide by the storage; what they decide is written by the record, at once and in its own order,
so that a driver that is killed in between leaves no half of a decision.
"""

import copy
from collections.abc import Callable, Container
from typing import Any

import optuna
from optuna import pruners
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from orchestrator.record.write_tables import Param


class HeldBack:
    """A storage whose reads are those of a study's own, and whose writes stay here."""

    def __init__(
        self, study: optuna.Study, *, shown: Callable[[FrozenTrial], FrozenTrial] | None = None
    ) -> None:
        """`shown` says what each trial looks like, without changing it; None: as it is stored."""
        self._storage = study._storage
        self._shown = shown
        self.attributes: dict[str, Any] = {}
        self.params: dict[str, Param] = {}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        # Optuna notes in it what it draws; a storage in memory hands out the one that it keeps.
        trial = copy.deepcopy(self._storage.get_trial(trial_id))
        return trial if self._shown is None else self._shown(trial)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if self._shown is None:
            return self._storage.get_all_trials(study_id, deepcopy, states)
        trials = map(self._shown, self._storage.get_all_trials(study_id, deepcopy))
        return [trial for trial in trials if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.attributes[key] = value

    def set_trial_param(
        self, trial_id: int, name: str, value: float, distribution: BaseDistribution
    ) -> None:
        self.params[name] = (value, distribution)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def study(self, study: optuna.Study) -> optuna.Study:
        """The same study on this storage."""
        seen = copy.copy(study)
        seen._storage = self  # type: ignore[assignment]
        return seen


def judged_with(study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """The trials among which the study's pruner judges one: hyperband's only its own bracket."""
    return pruners._filter_study(study, trial).get_trials(deepcopy=False)
