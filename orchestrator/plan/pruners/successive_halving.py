"""Successive halving, asynchronous: Li et al. 2020, https://arxiv.org/abs/1810.05934."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from orchestrator.plan.pruners.pruner import Flag, Pruner
from orchestrator.support.document import Between

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class SuccessiveHalving(Pruner):
    """At a few epochs, the rungs, only the best share of the trials so far goes on.

    By default one rung, half way: until the rate has fallen for a while accuracies say little of
    the last ones, and earlier or stricter rungs cost more than they save (docs/search.md).
    """

    first_rung_share: ClassVar[float] = 0.5

    name: str = field(default="successive_halving", init=False)
    reduction_factor: Annotated[int, Between(2, 10**6), Flag("--reduction")] = 2
    """Keep one in this many trials at each rung; each rung has this many times the epochs of the
    one before."""
    first_rung_epochs: Annotated[int, Between(1, 10**6), Flag("--first-rung")]
    """First epoch at which a trial may be stopped."""
    freeze: Annotated[bool, Flag("--freeze")] = False
    """Keep a trial that falls behind, with its checkpoint: it goes on as soon as its rank at that
    rung says so, and is pruned when nothing else is left to do."""

    @property
    def freezes(self) -> bool:
        return self.freeze

    @property
    def first_epoch(self) -> int:
        return self.first_rung_epochs

    def asked_at(self, epoch: int) -> bool:
        rung = self.first_rung_epochs
        while rung < epoch:
            rung *= self.reduction_factor
        return rung == epoch

    def must_be_validated(self, epoch: int) -> bool:
        return self.asked_at(epoch)

    def needed(self, own: float, others: Sequence[float]) -> float:
        scores = sorted([own, *others], reverse=True)
        return scores[max(1, len(scores) // self.reduction_factor) - 1]

    def make(self) -> "optuna.pruners.BasePruner":
        import optuna

        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self.first_rung_epochs, reduction_factor=self.reduction_factor
        )
