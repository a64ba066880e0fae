"""When a pruner decides about the trials of a study, in words; or why it never can."""

from orchestrator.plan.pruners.pruner import Pruner
from orchestrator.support.counted import counted

MOST_EPOCHS = 10_000
"""No decision after more epochs is looked for."""


def decisions(pruner: Pruner, *, epochs: int, num_trials: int) -> str:
    """`may stop a trial after epochs 3, 12 of 20`, of a study with so many trials so long."""
    if (reason := why_never(pruner, epochs=epochs, num_trials=num_trials)) is not None:
        return reason
    # After its last epoch nothing is left to be stopped.
    asked = [epoch for epoch in range(1, min(epochs, MOST_EPOCHS)) if pruner.asked_at(epoch)]
    first, last = asked[0], asked[-1]
    if len(asked) > 2 and len(asked) == last - first + 1:
        return f"may stop a trial after every epoch from {first} on, of {epochs}"
    word = "epoch" if len(asked) == 1 else "epochs"
    return f"may stop a trial after {word} {', '.join(map(str, asked))} of {epochs}"


def why_never(pruner: Pruner, *, epochs: int, num_trials: int) -> str | None:
    """Why no trial of such a study can be stopped; None: one can."""
    if pruner.first_epoch is None:
        return "every trial runs to its last epoch"
    if pruner.first_epoch >= epochs:
        return (
            f"can never stop a trial: it decides after epoch {pruner.first_epoch} at the earliest, "
            f"and a trial has {counted(epochs, 'epoch', 'epochs')}"
        )
    if num_trials <= pruner.trials_before:
        others = counted(pruner.trials_before, "earlier trial")
        return (
            f"can never stop a trial: it compares with {others}, and a study has "
            f"{counted(num_trials, 'trial')}"
        )
    return None
