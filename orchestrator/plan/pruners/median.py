"""The median rule: Golovin et al. 2017, Google Vizier, section 3.2."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Annotated, ClassVar

from orchestrator.plan.pruners.pruner import Flag, Pruner
from orchestrator.support.document import Between

if TYPE_CHECKING:
    import optuna

MEDIAN_OF = 5
"""So many complete trials are needed for a median to mean something; Optuna's own default."""


@dataclass(frozen=True, kw_only=True)
class Median(Pruner):
    """A trial stops when its best epoch so far is below the median of the others at this epoch."""

    name: str = field(default="median", init=False)
    against_complete: ClassVar[bool] = True
    first_rung_share: ClassVar[float] = 0.5
    first_rung_epochs: Annotated[int, Between(1, 10**6), Flag("--first-rung")]
    """First epoch at which a trial may be stopped."""

    @property
    def trials_before(self) -> int:
        return MEDIAN_OF

    @property
    def first_epoch(self) -> int:
        return self.first_rung_epochs

    def needed(self, own: float, others: Sequence[float]) -> float | None:
        return median(others) if others else None

    def make(self) -> "optuna.pruners.BasePruner":
        import optuna

        return optuna.pruners.MedianPruner(
            n_startup_trials=MEDIAN_OF, n_warmup_steps=self.first_rung_epochs
        )
