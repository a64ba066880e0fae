"""Which values of a trial stand on its own run, and which on the run of its study.

A table of fifty trials with twenty-five parameters, twenty of which are the same in every row,
hides the five that were searched. So a trial's run shows what differs within the sweep, and the run
of its study what all trials of the study share.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.plan.plan import SweepPlan
from orchestrator.plan.space import build
from orchestrator.record.record import TrialRecord


def shared_params(plan: SweepPlan, space: str) -> dict[str, Any]:
    """Every value, fixed or default, that no trial of the space draws."""
    searched = {dimension.name for dimension in plan.parsed_spaces[space].dimensions}
    told = plan.parsed_spaces[space].unsearched
    return {name: value for name, value in told.items() if name not in searched}


def varied_params(plan: SweepPlan, trial: TrialRecord) -> dict[str, Any]:
    """What the trial drew, in what its space differs from the others of the sweep, and its seed."""
    space = plan.parsed_spaces[plan.study(trial.study).space]
    searched = {d.name for other in plan.parsed_spaces.values() for d in other.dimensions}
    used = {"seed": trial.seed, **_values(space.method, trial)}
    return {
        name: value
        for name, value in used.items()
        if name == "seed"
        or name in searched
        or any(other.unsearched.get(name, value) != value for other in plan.parsed_spaces.values())
    }


def _values(method: str, trial: TrialRecord) -> Mapping[str, Any]:
    """Every value the trial ran with, whether searched, fixed or default."""
    try:
        parts = build(method, trial.config, source=f"{trial.study} #{trial.number}")
    except ValueError:
        return trial.config  # a trial that failed for this very reason
    return {**asdict(parts[0]), **asdict(parts[1])}
