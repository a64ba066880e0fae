"""No pruning."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.plan.pruners.pruner import Pruner

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class NoPruner(Pruner):
    """Every trial runs to its last epoch."""

    name: str = field(default="none", init=False)

    @property
    def first_epoch(self) -> None:
        return None

    def make(self) -> "optuna.pruners.BasePruner":
        import optuna

        return optuna.pruners.NopPruner()
