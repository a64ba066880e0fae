"""A study of two objectives, as a sampler sees a stored study of one.

Optuna neither reports nor prunes in a study of several objectives, so the stored one has the score
alone, and what reads it is as ever. The cost is a fact of each trial. From both a study of two
objectives is made in memory for every trial that is drawn, and asked of the same sampler, which
then prefers what no other trial beats in both (Ozaki et al. 2022, https://doi.org/10.1613/jair.1.13188,
of TPE).
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.plan.costs import Cost
from orchestrator.training.objective import DIRECTION, is_score


class SeeingCost(optuna.samplers.BaseSampler):
    """A sampler that sees the cost of trials beside their score. For the draw of one trial."""

    def __init__(self, sampler: optuna.samplers.BaseSampler, cost: Cost) -> None:
        self._sampler = sampler
        self._cost = cost
        self._seen: tuple[optuna.Study, FrozenTrial] | None = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(*self._as_seen(study, trial))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(*self._as_seen(study, trial), search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        seen = self._as_seen(study, trial)
        return self._sampler.sample_independent(*seen, param_name, param_distribution)

    def _as_seen(self, study: optuna.Study, trial: FrozenTrial) -> tuple[optuna.Study, FrozenTrial]:
        if self._seen is None:
            trials = study.get_trials(deepcopy=False)
            seen = with_cost(trials, self._cost)
            place = [one.number for one in trials].index(trial.number)
            self._seen = seen, seen.get_trials(deepcopy=False)[place]
        return self._seen


def with_cost(trials: Sequence[FrozenTrial], cost: Cost) -> optuna.Study:
    """The trials, in their order, as a study of score and cost."""
    study = optuna.create_study(directions=[DIRECTION, "minimize"])
    study.add_trials(_with_cost(trial, cost) for trial in trials)
    return study


def _with_cost(trial: FrozenTrial, cost: Cost) -> FrozenTrial:
    drawn: dict[str, Any] = {"params": trial.params, "distributions": trial.distributions}
    if trial.state is TrialState.COMPLETE:
        value = cost.of(trial.user_attrs.get("facts", {}))
        if value is not None:
            return create_trial(values=[trial.values[0], value], **drawn)
    if trial.state is TrialState.PRUNED:
        # Its score is of fewer epochs and compares with no other, so it stands behind all that are
        # complete, as with one objective: nearer to them the further it came, then by its score.
        # In a study of two objectives that order can only be said by a constraint.
        epoch, score = max(trial.intermediate_values.items(), default=(0, 0.0))
        behind = 1 / (1 + epoch + (score if is_score(score) else 0.0))
        return create_trial(state=TrialState.PRUNED, constraints={"pruned": behind}, **drawn)
    if trial.state is TrialState.RUNNING:
        return create_trial(state=TrialState.RUNNING, **drawn)
    return create_trial(state=TrialState.FAIL, **drawn)
