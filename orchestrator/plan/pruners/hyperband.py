"""Hyperband: Li et al. 2018, https://arxiv.org/abs/1603.06560."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from orchestrator.plan.pruners.pruner import Flag, Pruner
from orchestrator.support.document import Between

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class Hyperband(Pruner):
    """Several successive halvings side by side, with early and with late first rungs."""

    name: str = field(default="hyperband", init=False)
    reduction_factor: Annotated[int, Between(2, 10**6), Flag("--reduction")] = 2
    """Keep one in this many trials at each rung; each rung has this many times the epochs of the
    one before."""
    first_rung_epochs: Annotated[int, Between(1, 10**6), Flag("--first-rung")]
    """First epoch at which a trial may be stopped."""

    @property
    def first_epoch(self) -> int:
        return self.first_rung_epochs

    def make(self) -> "optuna.pruners.BasePruner":
        import optuna

        return optuna.pruners.HyperbandPruner(
            min_resource=self.first_rung_epochs, reduction_factor=self.reduction_factor
        )
