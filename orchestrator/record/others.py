"""What a study sees of the others of its space: the trials that have ended there, up to an event.

The studies of a sweep have an order of events each, and none among them. So a trial that was
proposed by what others found keeps how far each of them was, from which the same is seen again.
"""

from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial

from orchestrator.record.order import ended_at
from orchestrator.support.document import shown

SAW = "saw_of_others"
"""Attribute of a trial: by study the number of the last end that it was proposed by."""

Others = Callable[[Sequence[str]], Mapping[str, Sequence[FrozenTrial]]]
"""By study those trials of the named ones that have ended, in the order of their numbers."""


Ended = Callable[[str], Sequence[tuple[FrozenTrial, int]]]
"""Of the study of this name those trials that have ended, each with the number of its end."""


def others_now(studies: Mapping[str, optuna.Study]) -> Others:
    """As they stand in the storage."""
    return lambda names: {name: [trial for trial, _ in ended_in(studies[name])] for name in names}


def others_then(ended: Ended, drawn: FrozenTrial) -> Others:
    """As they stood when a trial was drawn. ValueError if what it saw is not as we write it."""
    saw = drawn.user_attrs.get(SAW, {})
    if not isinstance(saw, Mapping) or any(type(last) is not int for last in saw.values()):
        raise ValueError(
            f"trial #{drawn.number}: {SAW}: expected studies with numbers, found {shown(saw)}"
        )
    return lambda names: {
        name: [trial for trial, event in ended(name) if event <= saw.get(name, -1)]
        for name in names
    }


def ended_in(study: optuna.Study) -> list[tuple[FrozenTrial, int]]:
    """The trials that have ended, each with the number of its end."""
    return _ended(study.get_trials(deepcopy=False))


def last_ends(others: Mapping[str, Sequence[FrozenTrial]]) -> dict[str, int]:
    """How far they are, of those that have ended any trial."""
    return {
        name: max(event for _, event in _ended(trials)) for name, trials in others.items() if trials
    }


def _ended(trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, int]]:
    return [(trial, event) for trial in trials if (event := ended_at(trial)) is not None]
