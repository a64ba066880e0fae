"""When a pruner decides about the trials of a study, in words; or why it never can."""

from orchestrator.plan.pruners.pruner import Pruner
from orchestrator.support.counted import counted

MOST_EPOCHS = 10_000
"""Decisions are looked for in so many epochs from the first."""


def decisions(pruner: Pruner, *, epochs: int, num_trials: int, eval_every: int) -> str:
    """`may stop a trial after epochs 3, 12 of 20`, of a study with so many trials so long."""
    if (reason := why_never(pruner, epochs=epochs, num_trials=num_trials)) is not None:
        return reason
    assert pruner.first_epoch is not None
    # After its last epoch nothing is left to be stopped.
    end = min(epochs, pruner.first_epoch + MOST_EPOCHS)
    asked = [
        epoch
        for epoch in range(pruner.first_epoch, end)
        if pruner.asked_at(epoch) and (pruner.must_be_validated(epoch) or epoch % eval_every == 0)
    ]
    if not asked:
        return (
            f"can never stop a trial: it decides after epoch {pruner.first_epoch} at the earliest, "
            f"and no epoch from there to the last but one of {epochs} is validated"
        )
    first, last = asked[0], asked[-1]
    if eval_every > 1 and len(asked) > 2 and not any(map(pruner.must_be_validated, asked)):
        return f"may stop a trial after every {eval_every} epochs from {first} on, of {epochs}"
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
