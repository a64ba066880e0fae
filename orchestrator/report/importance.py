"""Which hyper-parameters mattered, by Optuna's PED-ANOVA."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import optuna

from orchestrator.plan.space import SearchSpace
from orchestrator.support.counted import counted

BEST_SHARE = 0.25
"""What sets this share of the complete trials apart is called important."""
MIN_COMPLETE = 12
"""Below this the best quarter has fewer than three trials."""
STEADY_COMPLETE = 20
"""From here on the best quarter has five trials, as Optuna recommends."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares that add up to 1, greatest first, or none and the reason."""

    shares: Mapping[str, float]
    note: str
    num_needed: int = 0
    """Complete trials from which on it could be told; 0 where more would not help."""


def importance(study: optuna.Study, space: SearchSpace) -> Importance:
    """What set the best quarter of the complete trials apart. Draws no random numbers."""
    if len(space.dimensions) < 2:
        return Importance(
            shares={}, note="nothing to weigh up: the space searches one name at most"
        )
    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    enough = counted(len(trials), "complete trial")
    if len(trials) < MIN_COMPLETE:
        return Importance(
            shares={},
            note=f"too few: {enough}, at least {MIN_COMPLETE} are needed to say anything",
            num_needed=MIN_COMPLETE,
        )
    best_first = sorted((trial.value or 0.0 for trial in trials), reverse=True)
    if best_first[-1] == best_first[math.ceil(BEST_SHARE * len(trials)) - 1]:
        return Importance(shares={}, note=f"the {enough} hardly differ in accuracy")
    # Brings scikit-learn.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    shares = get_param_importances(study, evaluator=evaluator)
    unsteady = ": a hint, not more" if len(trials) < STEADY_COMPLETE else ""
    return Importance(shares=shares, note=f"from {enough}{unsteady}")
