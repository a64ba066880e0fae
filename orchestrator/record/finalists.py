"""Which trials of a search are compared once more, and which of them wins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean
from typing import Any

from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.plan import TaskPlan
from orchestrator.record.record import TrialRecord
from orchestrator.support.collapsed import collapsed_text
from orchestrator.support.counted import counted
from orchestrator.support.uncertainty import (
    clear_from,
    interval_over_folds,
    paired_error,
    standard_error,
)
from orchestrator.training.facts import EpochRow
from orchestrator.training.objective import together

CLEARLY_WORSE = 0.1
"""A finalist is stopped when Wilcoxon's signed-rank test, paired by fold, has a smaller p."""
ROUNDING = 1e-9


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
    repeats: Sequence["Finalist"] = ()
    """How it did on the same folds with other seeds, where it was trained again."""
    first: "Finalist | None" = None
    """How it ended with the first seeds, where it was trained again."""
    void: "Finalist | None" = None
    """How it failed in a repeat that nobody completed, and that counts for nobody."""

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def accuracy(self) -> float:
        """Mean over the folds, with the first seeds and in all repeats that it completed; before
        it completed any, over the folds so far."""
        ended = [
            one.fold_accuracies
            for one in (self.first or self, *self.repeats)
            if one.state == "complete"
        ]
        found = [accuracy for one in ended or self.passes for accuracy in one.values()]
        return fmean(found) if found else math.nan

    @property
    def passes(self) -> Sequence[Mapping[int, float]]:
        """Accuracy by fold, of the first seeds and of each repeat."""
        return (self.fold_accuracies, *(one.fold_accuracies for one in self.repeats))

    @property
    def trainings(self) -> Sequence["Finalist"]:
        """How it did with the first seeds, and in each repeat that was begun, with states and
        failures of their own; also where it counts for nobody."""
        return (self.first or self, *self.repeats, *([self.void] if self.void else []))

    def done(self, repeat: int) -> Mapping[int, float]:
        """Accuracy by fold in a repeat, or with the first seeds (0)."""
        return self.passes[repeat] if repeat < len(self.passes) else {}

    def interval(self, labelled: int) -> tuple[float, float]:
        """95 %, of its mean over folds of the `labelled` images and over repeats."""
        by_fold = [
            fmean(one[fold] for one in self.passes if fold in one) for fold in self.fold_accuracies
        ]
        return interval_over_folds(by_fold, self.num_images(labelled))

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


def near_ties(trials: Sequence[TrialRecord], task: TaskPlan) -> list[TrialRecord]:
    """The best complete trials, of different configurations, that lie within one standard error of
    the best on validation; the best first.

    Breiman et al. 1984, "Classification and Regression Trees", 3.4.3: below it, rank is luck.
    """
    ranked = choose_finalists(trials, len(trials))
    if not ranked:
        return []
    best = ranked[0].val_accuracy or 0.0
    least = best - standard_error(best, ranked[0].val_images(task)) - ROUNDING
    return [trial for trial in ranked if (trial.val_accuracy or 0.0) >= least]


def finalists_by(
    trials: Sequence[TrialRecord], task: TaskPlan, *, num_finalists: int, most_finalists: int
) -> list[TrialRecord]:
    """The trials that are compared: `num_finalists`, or as many near-ties as there are up to
    `most_finalists`."""
    near = len(near_ties(trials, task)) if most_finalists > num_finalists else 0
    return choose_finalists(trials, max(num_finalists, min(near, most_finalists)))


def finalists_of(
    trials: Sequence[TrialRecord], task: TaskPlan, protocol: FinalProtocol
) -> list[TrialRecord]:
    return finalists_by(
        trials,
        task,
        num_finalists=protocol.num_finalists,
        most_finalists=protocol.most_finalists,
    )


def num_left_out(
    trials: Sequence[TrialRecord], task: TaskPlan, chosen: Sequence[TrialRecord]
) -> int:
    """Near-ties of the best that are not among the finalists."""
    return max(0, len(near_ties(trials, task)) - len(chosen))


def again(finalist: Finalist, repeat: Finalist | None) -> Finalist:
    """The finalist with what it reached in one repeat more; None: it was not begun yet."""
    first = finalist.first or finalist
    if repeat is None:
        return replace(finalist, state="running", finished=None, first=first)
    return replace(
        finalist,
        first=first,
        state=repeat.state,
        failure=repeat.failure,
        finished=repeat.finished,
        repeats=(*finalist.repeats, repeat),
    )


def contenders(finalists: Sequence[Finalist], num_images: int) -> list[Finalist]:
    """The best of the complete finalists, and those that cannot be told from it; the best first.

    Of those that were trained again only: the others were told from the best before. Unless only
    one that failed since was clearly ahead of them: then they are compared with the best of the
    others, over the seeds that both have.
    """
    complete = [f for f in finalists if f.state == "complete"]
    leading: list[Finalist] = []
    for repeats in sorted({len(f.repeats) for f in complete}, reverse=True):
        ranked = sorted(
            (f for f in complete if len(f.repeats) >= repeats), key=lambda f: _rank(f, repeats)
        )
        untold = [
            f
            for f in ranked
            if len(f.repeats) == repeats
            and (f is ranked[0] or not is_told(ranked[0], f, num_images))
        ]
        ahead = [f for f in untold if not leading or _rank(f, repeats) < _rank(leading[0], repeats)]
        leading = [*ahead, *leading, *(f for f in untold if f not in ahead)]
    return leading


def is_told(best: Finalist, other: Finalist, num_images: int) -> bool:
    """Whether the folds that both were trained on show that the first is better."""
    return _Lead.of(best, other, num_images).is_clear


def lead_text(leading: Sequence[Finalist], num_images: int) -> str:
    """`#9 from #4 (0.4 ± 1.1 points behind)`: what the folds do not tell apart, the best first."""
    best, *others = leading
    told = [
        f"#{other.number} ({_Lead.of(best, other, num_images)} points behind)" for other in others
    ]
    listed = " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)
    return f"#{best.number} from {listed}"


def repeat_sentence(reasons: Sequence[str]) -> str:
    """What is being done, while the newest of these repeats is."""
    return (
        f"the leading finalists are trained with {_nth(len(reasons))} on the same folds, since "
        f"these do not tell {reasons[-1]} so far"
    )


def choose_winner(
    finalists: Sequence[Finalist],
    num_folds: int,
    num_images: int,
    unit: str = "%",
    reasons: Sequence[str] = (),
) -> Winner | None:
    """The complete finalist with the highest mean over the folds of `num_images` images.

    Where some were trained again it is one of these, by the mean over all their repeats, unless
    `contenders` has others; `reasons` says of each repeat why it was done. `unit` is what stands
    behind its number, in words.

    Ties go to the better in the search, then to the smaller learning rate and the earlier trial.
    """
    leading = contenders(finalists, num_images)
    if not leading:
        return None
    best = leading[0]
    seeds = f" with {len(best.passes)} seeds each" if best.repeats else ""
    parts = [
        f"trial #{best.number} has {100 * best.accuracy:.1f} {unit} over {num_folds} folds{seeds}"
    ]
    parts += [
        _against(best, other, num_images, is_out=other not in leading)
        for other in finalists
        if other is not best
    ]
    if len(finalists) == 1:
        parts.append("it was the only finalist")
    void = [f"#{f.number} {f.void.failure}" for f in finalists if f.void]
    for repeat, reason in enumerate(reasons, start=1):
        parts.append(
            f"{_nth(repeat)} was trained on the same folds, since until then these did not tell "
            f"{reason}"
        )
        if void and repeat == len(reasons):
            parts[-1] += f"; it counts for nobody, since all failed with it: {', '.join(void)}"
    for finalist in finalists:
        if fell := _fell(finalist):
            parts.append(f"#{finalist.number} {fell}")
    return Winner(number=best.number, why="; ".join(parts))


def _against(best: Finalist, other: Finalist, num_images: int, *, is_out: bool) -> str:
    """`is_out`: it was told from the best, then or now."""
    name = f"#{other.number}"
    if other.state == "failed":
        return f"{name} failed: {other.failure}"
    lead = _Lead.of(best, other, num_images)
    if other.state == "pruned":
        return (
            f"{name} was stopped after {lead.num_folds} folds, {100 * lead.mean:.1f} points behind "
            f"(Wilcoxon, p < {CLEARLY_WORSE})"
        )
    fewer, more = (sign * (len(best.passes) - len(other.passes)) > 0 for sign in (1, -1))
    seeds = f" with {counted(len(other.passes), 'seed')}" if fewer or more else ""
    if fewer and is_out and not lead.is_clear:
        # Of another best than that of now; over the seeds that both have it may even be ahead.
        return (
            f"{name} has {_percent(other.accuracy)}{seeds}: it was told from the best then, and "
            "was not trained again"
        )
    if lead.is_none:
        return (
            f"{name} has the same, and the tie went by the search "
            f"(on validation {_percent(best.trial.val_accuracy)} against "
            f"{_percent(other.trial.val_accuracy)}), "
            "then by the smaller learning rate and the earlier trial"
        )
    told = "" if lead.is_clear else ", which the folds cannot tell apart"
    shared = "over the seeds that both have " if more else ""
    return f"{name} has {_percent(other.accuracy)}{seeds}, {shared}{lead} points less{told}"


@dataclass(frozen=True)
class _Lead:
    """By how much the mean of one finalist is higher than that of another, on the same folds with
    the same seeds."""

    mean: float
    error: float
    num_folds: int

    @classmethod
    def of(cls, best: Finalist, other: Finalist, num_images: int) -> "_Lead":
        """Repeats of a fold are one measurement of it: other seeds make no other images."""
        pairs = list(zip(best.passes, other.passes, strict=False))
        folds = sorted({fold for mine, theirs in pairs for fold in mine.keys() & theirs.keys()})
        by_fold = [
            fmean(
                mine[fold] - theirs[fold]
                for mine, theirs in pairs
                if fold in mine and fold in theirs
            )
            for fold in folds
        ]
        error = math.nan
        if len(by_fold) > 1:
            share = len(by_fold) / len(best.fold_accuracies)
            error = paired_error(by_fold, best.num_images(num_images) * share)
        return cls(fmean(by_fold), error, len(by_fold))

    @property
    def is_none(self) -> bool:
        return abs(self.mean) < ROUNDING

    @property
    def is_clear(self) -> bool:
        """Shown by the folds; NaN is not."""
        return not self.is_none and self.mean >= clear_from(self.num_folds - 1) * self.error

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.error:.1f}"


def _fell(finalist: Finalist) -> str | None:
    """On which folds and with which of its seeds it collapsed."""
    if not finalist.repeats:
        return collapsed_text(finalist.fold_accuracies, "folds")
    runs = {
        f"{fold} with seed {number} of {len(finalist.passes)}": accuracy
        for number, one in enumerate(finalist.passes, start=1)
        for fold, accuracy in one.items()
    }
    return collapsed_text(runs, "runs on folds")


def _nth(repeat: int) -> str:
    """Which seed a repeat is."""
    return {1: "a second seed", 2: "a third seed"}.get(repeat, f"seed {repeat + 1}")


def _rank(finalist: Finalist, repeats: int) -> tuple[float, float, float, int]:
    """By what it reached with the first seeds and in so many repeats."""
    found = [accuracy for one in finalist.passes[: repeats + 1] for accuracy in one.values()]
    return (-round(fmean(found), 9), *_search_rank(finalist.trial))


def _search_rank(trial: TrialRecord) -> tuple[float, float, int]:
    return (-(trial.val_accuracy or 0.0), trial.config.get("lr", 0.0), trial.number)


def _percent(accuracy: float | None) -> str:
    return f"{100 * (accuracy or 0.0):.1f} %"
