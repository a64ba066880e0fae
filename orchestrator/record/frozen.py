"""Trials that fell behind and wait: how samplers see them, and which of them goes on.

Promotion that may come late, as in asynchronous successive halving (Li et al. 2020,
https://arxiv.org/abs/1810.05934): a trial that is not among the best share of its rung waits there,
and goes on once it is, since the share grows with every trial that comes so far.
"""

import copy
from collections import defaultdict
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.held_back import HeldBack
from orchestrator.record.order import freezes_of, is_frozen


def seen_by_samplers(plan: SweepPlan) -> Callable[[FrozenTrial], FrozenTrial] | None:
    """How trials look to the sampler of a plan; None: as they are.

    One that waits looks pruned, as it would be if it could not go on: so they learn from its
    score. As a running one TPE would take it for a bad one, however good that is.
    """
    return _pruned_if_frozen if plan.pruner.freezes else None


def first_to_go_on(study: optuna.Study) -> FrozenTrial | None:
    """The trial that waits and that the pruner would let go on now; None: there is none.

    Of several the one at the latest rung, there the best, of equals the earliest.
    """
    waiting: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_frozen(trial):
            waiting[rung_of(trial)].append(trial)
    for epoch in sorted(waiting, reverse=True):
        # Where the best may not go on, none of its rung may: the rule is a least score.
        best = min(waiting[epoch], key=lambda t: (-t.intermediate_values[epoch], t.number))
        if _goes_on(study, best):
            return best
    return None


def rung_of(trial: FrozenTrial) -> int:
    """The epoch after which it was frozen last."""
    return freezes_of(trial)[-1][0]


def _goes_on(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Ask the pruner again, as if the trial came to its rung only now."""
    rungs = trial.user_attrs["decision"]["rungs"]

    def shown(other: FrozenTrial) -> FrozenTrial:
        if other.number != trial.number:
            return other
        before = copy.copy(other)
        attributes = other.system_attrs.items()
        before.system_attrs = {name: value for name, value in attributes if name not in rungs}
        return before

    again = HeldBack(study, shown=shown)
    judged = again.study(study)
    return not judged.pruner.prune(judged, again.get_trial(trial._trial_id))


def _pruned_if_frozen(trial: FrozenTrial) -> FrozenTrial:
    if not is_frozen(trial):
        return trial
    seen = copy.copy(trial)
    seen.state = TrialState.PRUNED
    return seen
