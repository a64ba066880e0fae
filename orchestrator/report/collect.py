"""A sweep as the report sees it: studies with their trials, read once from the record."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from typing import Any

from methods.catalogue import declaration
from orchestrator.plan.costs import Cost
from orchestrator.plan.plan import StudyPlan, SweepPlan, TaskPlan
from orchestrator.plan.space import SearchSpace
from orchestrator.record.front import Front, front_of
from orchestrator.record.record import FINISHED, Record, TrialRecord, best_of
from orchestrator.report.final import FinalResult, is_current
from orchestrator.report.importance import Importance, importance
from orchestrator.report.published import (
    PUBLISHED_METRIC,
    PublishedResult,
    is_official,
    published,
    published_backbone,
    published_method,
)
from orchestrator.support.counted import counted
from orchestrator.support.phases import each
from orchestrator.support.shown_values import NOTHING
from orchestrator.support.uncertainty import (
    accuracy_text,
    interval,
    interval_over_seeds,
    mean_and_deviation,
    seeds_text,
    standard_error,
)
from orchestrator.training.config import num_epochs

TIME_PARTS: tuple[str, ...] = ("setup", "train", "eval", "other")


def learning_curve(trial: TrialRecord) -> list[tuple[int, float]]:
    """(epoch, val accuracy), without epochs whose accuracy is unknown or not a number."""
    rows = ((int(row["epoch"]), row.get("val_accuracy", math.nan)) for row in trial.curve)
    return [(epoch, accuracy) for epoch, accuracy in rows if math.isfinite(accuracy)]


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """One study: its trials and what follows from them."""

    plan: StudyPlan
    task: TaskPlan
    space: SearchSpace
    trials: Sequence[TrialRecord]
    """By number."""
    final: FinalResult | None
    published: PublishedResult | None
    importance: Importance
    cost: Cost | None = None
    """What the sweep minimizes beside the score, if it does."""

    @cached_property
    def front(self) -> Front | None:
        """Its trials between score and cost."""
        return self.cost and front_of(self.trials, self.task, self.cost)

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def anchor(self) -> str:
        """A name for links, of plain characters whatever the task is called."""
        return "study-" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):x}_", self.name)

    @cached_property
    def best(self) -> TrialRecord | None:
        return best_of(self.trials)

    @property
    def chosen(self) -> TrialRecord | None:
        """The winner of the finalists if there is one, else the best on val."""
        if self.final is None or self.final.winner is None:
            return self.best
        return next(trial for trial in self.trials if trial.number == self.final.winner)

    @property
    def final_is_current(self) -> bool:
        """No test number, or one of the finalists that the search has now."""
        return self.final is None or is_current(self.final, self.trials, self.task)

    @property
    def standing(self) -> tuple[bool, float] | None:
        """What studies of a task are ranked by: mean over folds where there is one, else val."""
        if self.final is not None and self.final.cross_validation is not None:
            return True, self.final.cross_validation
        return None if self.val_accuracy is None else (False, self.val_accuracy)

    @property
    def val_accuracy(self) -> float | None:
        return self.best.val_accuracy if self.best else None

    @property
    def val_images(self) -> float:
        """On as many an accuracy equal to the best score is as sure."""
        return self.best.val_images(self.task) if self.best else self.task.val_images

    @property
    def val_error(self) -> float | None:
        """Standard error of the best accuracy, for the finite number of val images."""
        accuracy = self.val_accuracy
        return None if accuracy is None else standard_error(accuracy, self.val_images)

    @property
    def val_interval(self) -> tuple[float, float] | None:
        """95 %, of the best accuracy."""
        accuracy = self.val_accuracy
        return None if accuracy is None else interval(accuracy, self.val_images)

    @property
    def val_text(self) -> str:
        """`95.5 ± 1.5`, of the best."""
        accuracy = self.val_accuracy
        return NOTHING if accuracy is None else accuracy_text(accuracy, self.val_images)

    @property
    def test_accuracy(self) -> float | None:
        return self.test_mean_and_deviation[0]

    @property
    def test_interval(self) -> tuple[float, float] | None:
        """95 %, for seeds and images; None where the number of images is not known."""
        if self.final is None or not self.final.test_accuracies or not self.final.test_images:
            return None
        return interval_over_seeds(
            list(self.final.test_accuracies.values()), self.final.test_images
        )

    @property
    def test_text(self) -> str:
        """`95.5 ± 1.0`, mean and standard deviation over seeds."""
        if self.final is None or not self.final.test_accuracies:
            return NOTHING
        return seeds_text(list(self.final.test_accuracies.values()), self.final.test_images)

    @cached_property
    def test_mean_and_deviation(self) -> tuple[float | None, float | None]:
        """Over the seeds; None where the study was not finalized."""
        if self.final is None or not self.final.test_accuracies:
            return None, None
        return mean_and_deviation(list(self.final.test_accuracies.values()))

    @cached_property
    def states(self) -> Mapping[str, int]:
        return Counter(trial.state for trial in self.trials)

    @cached_property
    def finished(self) -> list[TrialRecord]:
        """In the order in which they ended, or were frozen for the last time."""
        ended = [trial for trial in self.trials if trial.state in FINISHED]
        events = {trial.number: trial.trained_until for trial in ended}
        if None not in events.values():
            return sorted(ended, key=lambda t: events[t.number] or 0)
        return sorted(ended, key=lambda t: (t.finished or datetime.max, t.number))

    def searched(self, trial: TrialRecord) -> dict[str, Any]:
        """Values of the trial that were drawn, not fixed."""
        return self.space.searched(trial.config)

    def planned_epochs(self, trial: TrialRecord) -> int:
        return num_epochs(self.space.method, trial.config, source=self.name)

    @cached_property
    def epochs_run_and_planned(self) -> tuple[int, int]:
        """Epochs that were run and that were planned, of trials that completed or were pruned."""
        whole = [trial for trial in self.finished if trial.state != "failed"]
        return (
            sum(len(trial.curve) for trial in whole),
            sum(self.planned_epochs(trial) for trial in whole),
        )

    @property
    def saved_share(self) -> float | None:
        """The share of the planned epochs that pruning spared."""
        run, planned = self.epochs_run_and_planned
        return 1 - run / planned if planned else None

    @cached_property
    def seconds(self) -> Mapping[str, float]:
        """Time in workers, by TIME_PARTS."""
        total = dict.fromkeys(TIME_PARTS, 0.0)
        for trial in self.trials:
            known = {name: trial.facts.get(f"{name}_seconds", 0.0) for name in TIME_PARTS[:-1]}
            for name, seconds in known.items():
                total[name] += seconds
            rest = trial.facts.get("wall_seconds", 0.0) - sum(known.values())
            total["other"] += max(0.0, rest)
        return total

    @property
    def tuned_share(self) -> float | None:
        """Trained parameters of the chosen trial, head included, over those of the backbone."""
        tuned = self.chosen.facts.get("num_tuned_parameters") if self.chosen else None
        return tuned / self.backbone_parameters if tuned else None

    backbone_parameters: int

    @property
    def has_prompts(self) -> bool:
        return declaration(self.space.method).learns_prompts


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """All studies of a sweep."""

    plan: SweepPlan
    studies: Sequence[StudyReport]
    """In the order of the plan."""
    published_as: tuple[str, str] | str
    """Backbone and pretraining in the words of the papers, or why nothing published compares."""

    @property
    def spaces(self) -> list[str]:
        """In the order of the plan."""
        return list(dict.fromkeys(study.plan.space for study in self.studies))

    @cached_property
    def by_task_and_space(self) -> Mapping[tuple[str, str], StudyReport]:
        return {(study.plan.task, study.plan.space): study for study in self.studies}

    def of_task(self, task: str) -> list[StudyReport]:
        return [study for study in self.studies if study.plan.task == task]

    def best_of_task(self, task: str) -> StudyReport | None:
        """The study that stands highest, never by test accuracy; the first of equals."""
        return highest(self.of_task(task))

    @property
    def has_final(self) -> bool:
        return any(study.test_accuracy is not None for study in self.studies)

    @cached_property
    def span(self) -> tuple[datetime, datetime] | None:
        """From the first start to the last end."""
        trials = [trial for study in self.studies for trial in study.trials]
        starts = [trial.started for trial in trials if trial.started]
        ends = [end for trial in trials for _, end in trial.in_work if end]
        return (min(starts), max(ends)) if starts and ends else None

    @cached_property
    def busy(self) -> list[tuple[float, int]]:
        """(seconds since the first start, trials in work from then on) wherever that changes."""
        if self.span is None:
            return []
        changes: Counter[float] = Counter()
        for study in self.studies:
            for trial in study.trials:
                for begin, end in trial.in_work:
                    if end is not None:
                        changes[(begin - self.span[0]).total_seconds()] += 1
                        changes[(end - self.span[0]).total_seconds()] -= 1
        running, steps = 0, []
        for moment in sorted(changes):
            running += changes[moment]
            steps.append((moment, running))
        return steps

    @property
    def num_slots(self) -> int:
        """The most trials that were ever in work at once."""
        return max((running for _, running in self.busy), default=0)

    @property
    def idle_share(self) -> float | None:
        """The share of the time of all slots, from the first start to the last end, in which none
        was in work."""
        if not self.num_slots or not self.busy[-1][0]:
            return None
        worked = sum(
            running * (after - moment) for (moment, running), (after, _) in pairwise(self.busy)
        )
        return max(0.0, 1 - worked / (self.num_slots * self.busy[-1][0]))

    @property
    def failures(self) -> list[TrialRecord]:
        return [t for study in self.studies for t in study.trials if t.state == "failed"]


def highest(studies: Iterable[StudyReport]) -> StudyReport | None:
    """The study that stands highest; None if none has a complete trial."""
    known = [(study.standing, study) for study in studies if study.standing is not None]
    return max(known, key=lambda pair: pair[0], default=(None, None))[1]


def collect(plan: SweepPlan, record: Record, finals: Sequence[FinalResult] = ()) -> SweepReport:
    """Read a sweep; `finals` are its test results, if it was finalized."""
    known = {(study.task, study.space) for study in plan.studies}
    for final in finals:
        if (final.task, final.space) not in known:
            raise ValueError(f"final result for {final.task}.{final.space}, not in this sweep")
    by_study = {(final.task, final.space): final for final in finals}
    studies = [
        collect_study(plan, record, study, by_study.get((study.task, study.space)))
        for study in each("reading the studies", plan.studies, len(plan.studies))
    ]
    published_as = published_backbone(plan.backbone)
    return SweepReport(plan=plan, studies=studies, published_as=published_as)


def collect_study(
    plan: SweepPlan, record: Record, study: StudyPlan, final: FinalResult | None = None
) -> StudyReport:
    """Read one study of a sweep."""
    space = plan.parsed_spaces[study.space]
    trials = record.trials(study.name)
    winner = None if final is None else final.winner
    if winner is not None and winner not in [trial.number for trial in trials]:
        raise ValueError(f"final result of {study.name}: the search has no trial #{winner}")
    if final is not None:
        _refuse_other_classes(final, plan.task(study.task).num_classes)
    return StudyReport(
        plan=study,
        task=plan.task(study.task),
        space=space,
        trials=trials,
        final=final,
        published=_published(plan, study, space),
        importance=importance(record.optuna_study(study.name), space),
        backbone_parameters=plan.backbone.num_parameters,
        cost=plan.also and plan.also.cost,
    )


def _refuse_other_classes(final: FinalResult, num_classes: int) -> None:
    """A file that was damaged or written by hand may count other classes than the task has."""
    there, where = counted(num_classes, "class"), f"final result of {final.task}.{final.space}"
    for images in (final.test_images_by_class, *final.test_correct_by_class.values()):
        if images and len(images) != num_classes:
            raise ValueError(f"{where}: counts {len(images)} classes, where there are {there}")
    if final.test_correct_by_class and not final.test_images_by_class:
        raise ValueError(f"{where}: has right images by class, but not how many there are of each")
    for label, answer, _ in (pair for told in final.test_confused.values() for pair in told):
        if label >= num_classes or answer >= num_classes:
            raise ValueError(
                f"{where}: confuses classes {label} and {answer}, where there are {there}"
            )


def _published(plan: SweepPlan, study: StudyPlan, space: SearchSpace) -> PublishedResult | None:
    published_as, method = published_backbone(plan.backbone), published_method(space)
    if isinstance(published_as, str) or method is None or not is_official(plan, study.task):
        return None
    if plan.task(study.task).metric != PUBLISHED_METRIC:
        return None
    return published(method, *published_as, study.task)
