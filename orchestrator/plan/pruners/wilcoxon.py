"""Wilcoxon's signed-rank test: the steps of a trial against the same steps of the best trial.

Optuna's WilcoxonPruner. The last stage stops finalists with it, whose steps are folds.
"""

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from orchestrator.plan.pruners.pruner import Pruner
from orchestrator.support.document import Between

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class Wilcoxon(Pruner):
    """A trial stops when it is worse than the best one on folds that both were measured on."""

    name: str = field(default="wilcoxon", init=False)
    not_for_epochs: ClassVar[str] = (
        "it compares measurements that can come in any order, as of folds, where `orchestrator "
        "finalize` uses it on the finalists; it supposes that they do not depend on one another, "
        "which the epochs of a training do"
    )
    p_threshold: Annotated[float, Between(0, 1)] = 0.1
    """Stop where so great a difference would come by chance with less than this probability."""

    @property
    def first_epoch(self) -> None:
        return None

    def make(self) -> "optuna.pruners.BasePruner":
        import optuna

        with warnings.catch_warnings():
            # It is marked experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.pruners.WilcoxonPruner(p_threshold=self.p_threshold)
