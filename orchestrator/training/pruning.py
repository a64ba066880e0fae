"""When a pruner may stop a trial, as far as the trial itself must know it."""

from dataclasses import dataclass
from typing import Protocol


class RungRule(Protocol):
    """After which epochs the driver judges a trial. The pruners of a plan are such rules."""

    @property
    def freezes(self) -> bool:
        """Whether a trial that is stopped may go on later, from its checkpoint of that epoch."""
        ...

    def asked_at(self, epoch: int) -> bool:
        """Whether the trial may be stopped after this epoch (1, 2, ...)."""
        ...

    def must_be_validated(self, epoch: int) -> bool:
        """Whether the accuracy after this epoch is needed even where `--eval-every` skips it."""
        ...


@dataclass(frozen=True)
class NeverPruned:
    """The pruning rule of a trial that runs to its last epoch whatever it finds: in the last stage,
    or anew."""

    @property
    def freezes(self) -> bool:
        return False

    def asked_at(self, epoch: int) -> bool:
        return False

    def must_be_validated(self, epoch: int) -> bool:
        return False
