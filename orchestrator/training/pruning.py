"""When a pruner may stop a trial, as far as the trial itself must know it."""

import math
from dataclasses import dataclass
from typing import Annotated

from orchestrator.support.document import Between, OneOf

PRUNERS = ("successive_halving", "median", "hyperband", "none")


@dataclass(frozen=True, kw_only=True)
class PrunerPlan:
    """How weak trials are stopped: the name of an Optuna pruner and when it is asked."""

    name: Annotated[str, OneOf(PRUNERS)] = "successive_halving"
    """successive_halving, median, hyperband, or none."""
    reduction_factor: Annotated[int, Between(2, 10**6)] = 4
    """Of the trials at a rung, one in this many goes on (successive halving, hyperband)."""
    first_rung_epochs: Annotated[int, Between(1, 10**6)]
    """No trial is stopped before this epoch."""

    def asked_at(self, epoch: int) -> bool:
        """Whether the pruner may decide after this epoch (1, 2, ...)."""
        if self.name == "none" or epoch < self.first_rung_epochs:
            return False
        if self.name != "successive_halving":
            return True
        rung = self.first_rung_epochs
        while rung < epoch:
            rung *= self.reduction_factor
        return rung == epoch


def default_first_rung_epochs(epochs: int, warmup_epochs: float) -> int:
    """After the warm-up, when learning rates can be told apart, plus a twentieth of the epochs."""
    return min(epochs, math.ceil(warmup_epochs) + max(1, round(0.05 * epochs)))
