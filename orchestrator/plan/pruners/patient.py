"""Patience: a trial that still improves is left alone, whatever its rank."""

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from orchestrator.plan.pruners.median import MEDIAN_OF, Median
from orchestrator.plan.pruners.pruner import Flag, Pruner
from orchestrator.support.document import Between, OneOf

if TYPE_CHECKING:
    import optuna

_ALONE = "A trial stops when it got worse for some epochs, whatever the others have."


@dataclass(frozen=True, kw_only=True)
class Patient(Pruner):
    """A trial stops when it got worse for some epochs and the median rule would stop it too.

    The rungs of successive halving and hyperband are not waited at: a trial that passed one because
    it still improved would be compared at another epoch than those before it.
    """

    name: str = field(default="patient", init=False)
    against_complete: ClassVar[bool] = True
    patience: Annotated[int, Between(0, 10**6)] = 5
    """Epochs, counted where they are validated, that the best accuracy may lie back."""
    min_delta: Annotated[float, Between(0, 1)] = 0.0
    """By how much, in [0, 1], these epochs must stay below that accuracy."""
    wrapped: Annotated[str, OneOf(("median", "none"))] = "median"
    """Who decides then: median, or none for early stopping by the trial's own curve."""
    first_rung_epochs: Annotated[int, Between(1, 10**6), Flag("--first-rung")]
    """First epoch at which a trial may be stopped."""

    @property
    def rule(self) -> str:
        return super().rule if self.wrapped == "median" else _ALONE

    @property
    def trials_before(self) -> int:
        return MEDIAN_OF if self.wrapped == "median" else 0

    @property
    def first_epoch(self) -> int:
        return self.first_rung_epochs

    def make(self) -> "optuna.pruners.BasePruner":
        import optuna

        others = Median(first_rung_epochs=self.first_rung_epochs)
        with warnings.catch_warnings():
            # It is marked experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.pruners.PatientPruner(
                others.make() if self.wrapped == "median" else None, self.patience, self.min_delta
            )
