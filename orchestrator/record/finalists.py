"""Which trials of a search are compared once more, and which of them wins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Any

from orchestrator.record.record import TrialRecord
from orchestrator.support.collapsed import collapsed_text
from orchestrator.support.uncertainty import clear_from, paired_error
from orchestrator.training.facts import EpochRow
from orchestrator.training.objective import together

CLEARLY_WORSE = 0.1
"""A finalist is stopped when Wilcoxon's signed-rank test, paired by fold, has a smaller p."""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One of the best trials of a study, and how it did on the folds."""

    trial: TrialRecord
    """The trial as the search knows it."""
    state: str
    """running, complete, pruned or failed."""
    fold_accuracies: Mapping[int, float]
    fold_facts: Mapping[int, Mapping[str, Any]]
    fold_curves: Mapping[int, Sequence[EpochRow]]
    failure: str | None
    started: datetime | None
    finished: datetime | None

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def accuracy(self) -> float:
        """Mean over the folds so far."""
        return fmean(self.fold_accuracies.values()) if self.fold_accuracies else math.nan

    def num_images(self, labelled: int) -> float:
        """What the mean over all folds is as sure as an accuracy on: all of the `labelled` images,
        where the metric counts them alike."""
        told = [facts.get("val_effective_images") for facts in self.fold_facts.values()]
        known = [images for images in told if images is not None]
        if not told or len(known) < len(told):
            return labelled
        return len(known) * together(known)


@dataclass(frozen=True, kw_only=True)
class Winner:
    """Which finalist is retrained, and why."""

    number: int
    why: str


def choose_finalists(trials: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """The best complete trials with different configurations.

    Ties go to the smaller learning rate, then to the earlier trial, as everywhere.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    chosen: list[TrialRecord] = []
    for trial in sorted(complete, key=_search_rank):
        if len(chosen) < count and trial.config not in [other.config for other in chosen]:
            chosen.append(trial)
    return chosen


def choose_winner(
    finalists: Sequence[Finalist], num_folds: int, num_images: int, unit: str = "%"
) -> Winner | None:
    """The complete finalist with the highest mean over the folds of `num_images` images.

    `unit` is what stands behind its number, in words.

    Ties go to the better in the search, then to the smaller learning rate and the earlier trial.
    """
    complete = [f for f in finalists if f.state == "complete"]
    if not complete:
        return None
    best = min(complete, key=lambda f: (-round(f.accuracy, 9), *_search_rank(f.trial)))
    parts = [f"trial #{best.number} has {100 * best.accuracy:.1f} {unit} over {num_folds} folds"]
    parts += [_against(best, other, num_images) for other in finalists if other is not best]
    if len(finalists) == 1:
        parts.append("it was the only finalist")
    for finalist in finalists:
        if fell := collapsed_text(finalist.fold_accuracies, "folds"):
            parts.append(f"#{finalist.number} {fell}")
    return Winner(number=best.number, why="; ".join(parts))


def _against(best: Finalist, other: Finalist, num_images: int) -> str:
    name = f"#{other.number}"
    if other.state == "failed":
        return f"{name} failed: {other.failure}"
    shared = sorted(best.fold_accuracies.keys() & other.fold_accuracies.keys())
    differences = [best.fold_accuracies[k] - other.fold_accuracies[k] for k in shared]
    lead = fmean(differences)
    if other.state == "pruned":
        return (
            f"{name} was stopped after {len(shared)} folds, {100 * lead:.1f} points behind "
            f"(Wilcoxon, p < {CLEARLY_WORSE})"
        )
    if round(lead, 9) == 0:
        return (
            f"{name} has the same, and the tie went by the search "
            f"(on validation {_percent(best.trial.val_accuracy)} against "
            f"{_percent(other.trial.val_accuracy)}), "
            "then by the smaller learning rate and the earlier trial"
        )
    error = paired_error(differences, best.num_images(num_images))
    is_clear = lead >= clear_from(len(differences) - 1) * error
    told = "" if is_clear else ", which the folds cannot tell apart"
    return (
        f"{name} has {_percent(other.accuracy)}, "
        f"{100 * lead:.1f} ± {100 * error:.1f} points less{told}"
    )


def _search_rank(trial: TrialRecord) -> tuple[float, float, int]:
    return (-(trial.val_accuracy or 0.0), trial.config.get("lr", 0.0), trial.number)


def _percent(accuracy: float | None) -> str:
    return f"{100 * (accuracy or 0.0):.1f} %"
