"""What a pruner is: a frozen dataclass whose fields are its options, and when it may stop a trial.

Optuna decides; the dataclass says how it is made and after which epochs it is asked. Optuna is
imported where its object is made and nowhere else, since trials know this rule, too.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Flag:
    """In the annotation of a field: its option of `orchestrator sweep`, where another is shorter
    than the field's own name."""

    name: str


class Pruner(Protocol):
    """How weak trials are stopped. The docstrings of its fields are the help of its options.

    A field `first_rung_epochs` without a default gets one at planning: a share of the epochs, and
    never before learning rates can be told apart, some epochs after the warm-up of the recipes.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    name: str
    """The name in the command and in sweep.yaml; a field that nobody can set."""
    not_for_epochs: ClassVar[str] = ""
    """Why it cannot judge a trial by its epochs; empty: it can."""
    first_rung_share: ClassVar[float] = 0.0
    """Of the epochs of a trial, where nothing else is asked for."""
    against_complete: ClassVar[bool] = False
    """It compares the best epoch so far with complete trials; else the score of this epoch with all
    that reached it."""

    @property
    def rule(self) -> str:
        """When a trial stops, in a sentence for people."""
        return (inspect.getdoc(type(self)) or "").partition("\n")[0]

    @property
    def trials_before(self) -> int:
        """How many other trials of a study must be there before one can be stopped."""
        return 1

    @property
    def first_epoch(self) -> int | None:
        """No trial is stopped before this epoch; None: no trial is stopped."""
        ...

    @property
    def freezes(self) -> bool:
        """Whether a trial that it stops may go on later, if its rank says so then."""
        return False

    def asked_at(self, epoch: int) -> bool:
        """Whether it may stop a trial after this epoch (1, 2, ...)."""
        return self.first_epoch is not None and epoch >= self.first_epoch

    def must_be_validated(self, epoch: int) -> bool:
        """Whether it needs the accuracy after this epoch even where `--eval-every` skips it."""
        return False

    def needed(self, own: float, others: Sequence[float]) -> float | None:
        """The least score with which a trial goes on beside these, to tell people afterwards; None:
        its rule has no such number."""
        return None

    def make(self) -> "optuna.pruners.BasePruner":
        """Optuna's object."""
        ...
