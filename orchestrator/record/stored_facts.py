"""What a storage says of a trial, checked before anything is computed from it.

A database is a file like any other: somebody else may have written it.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from orchestrator.plan.space import SearchSpace, holds
from orchestrator.record.order import is_frozen
from orchestrator.support.document import INT64, is_number, shown
from orchestrator.training.facts import TrialFacts, described
from orchestrator.training.objective import BOUNDS, is_score

_KINDS = {name: kind for name, (kind, _) in described(TrialFacts).items()}
_COUNTS = [name for name, kind in _KINDS.items() if kind is int]
_AMOUNTS = [name for name, kind in _KINDS.items() if kind in (float, int)]
_TEXTS = [name for name, kind in _KINDS.items() if kind in (str, str | None)]


def refuse_other_facts(trial: FrozenTrial, space: SearchSpace, *, source: str) -> None:
    """ValueError if this is no trial of the space that our workers have told the end of."""
    try:
        complaint = _of_params(trial, space) or complaint_about_values(trial)
        if not complaint and (trial.state.is_finished() or is_frozen(trial)):
            complaint = complaint_about_end(trial.user_attrs)
    except (ValueError, TypeError, OverflowError) as error:
        complaint = str(error)
    if complaint:
        raise ValueError(f"{source}: trial #{trial.number}: {complaint}")


def complaint_about_end(told: Mapping[str, Any]) -> str | None:
    """What is wrong with curve, facts or failure of a run that has ended."""
    if not isinstance(told.get("failure", ""), str):
        return f"failure: expected a text, found {shown(told['failure'])}"
    return _of_curve(told.get("curve", {})) or _of_facts(told.get("facts", {}))


def _of_params(trial: FrozenTrial, space: SearchSpace) -> str | None:
    searched = {dimension.name: dimension.distribution for dimension in space.dimensions}
    for name, value in trial.params.items():
        if name not in searched:
            return f"{shown(name)} is not searched in space {space.name}"
        if not holds(searched[name], value):
            return f"{name}: {shown(value)} is not in space {space.name}"
    return None


def complaint_about_values(trial: FrozenTrial) -> str | None:
    """What is wrong with the accuracies and times of a trial."""
    for value in trial.intermediate_values.values():
        if not is_number(value):
            return f"an accuracy: expected a number, found {shown(value)}"
    if not trial.state.is_finished():
        return None
    if trial.datetime_start is None or trial.datetime_complete is None:
        return "it has ended without a time"
    if trial.state is TrialState.COMPLETE and not (
        is_number(trial.value) and is_score(trial.value or 0.0)
    ):
        low, high = BOUNDS
        return (
            f"its accuracy: expected a number from {low:g} to {high:g}, found {shown(trial.value)}"
        )
    return None


def _of_curve(columns: Any) -> str | None:
    if not isinstance(columns, Mapping):
        return f"curve: expected columns, found {shown(columns)}"
    lengths = set()
    for name, column in columns.items():
        if not isinstance(column, list) or not set(map(type, column)) <= {int, float, type(None)}:
            return f"curve: {shown(name)}: expected numbers, found {shown(column)}"
        lengths.add(len(column))
    if len(lengths) > 1:
        return f"curve: its columns have {' or '.join(map(str, sorted(lengths)))} rows"
    if columns and not _rises(columns.get("epoch")):
        return f"curve: epoch: expected 1, 2, ..., found {shown(columns.get('epoch'))}"
    return None


def _rises(epochs: Any) -> bool:
    if not isinstance(epochs, list) or not all(is_number(e) and e % 1 == 0 for e in epochs):
        return False
    return all(before < after for before, after in pairwise([0, *epochs]))


def _of_facts(facts: Any) -> str | None:
    if not isinstance(facts, Mapping):
        return f"facts: expected names with values, found {shown(facts)}"
    for name in _AMOUNTS:
        value = facts.get(name, 0)
        if not is_number(value) or not 0 <= value < INT64 or math.isinf(value):
            return f"{name}: expected a number of at least 0, found {shown(value)}"
        if name in _COUNTS and not isinstance(value, int):
            return f"{name}: expected a whole number, found {shown(value)}"
    for name, value in facts.items():
        if name.endswith("_effective_images") and not (is_number(value) and 0 < value < INT64):
            return f"{shown(name)}: expected a number above 0, found {shown(value)}"
        if name.endswith("_baseline") and not (is_number(value) and is_score(value)):
            return f"{shown(name)}: expected a number from 0 to 1, found {shown(value)}"
        if name.startswith("num_") and not _are_counts([value]):
            return f"{shown(name)}: expected a whole number of at least 0, found {shown(value)}"
        if name.endswith("_by_class") and not _are_counts(value):
            return f"{shown(name)}: expected counts, found {shown(value)}"
        if name.endswith("_confused") and not _are_pairs(value):
            return f"{shown(name)}: expected [label, answer, images], found {shown(value)}"
    for name in _TEXTS:
        value = facts.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > 10_000):
            return f"{name}: expected a text, found {shown(value)}"
    return None


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < INT64 for value in values
    )


def _are_pairs(values: Any) -> bool:
    return isinstance(values, list) and all(_are_counts(one) and len(one) == 3 for one in values)
