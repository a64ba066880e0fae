"""A sweep in a line per study: how many trials ended how, and the best so far."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import Record, TrialRecord, best_of
from orchestrator.support.shown_values import config_text, with_origin
from orchestrator.support.uncertainty import accuracy_text, interval, standard_error


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """One study in a line."""

    study: str
    task: str
    group: str
    space: str
    metric: str
    """What its accuracies are."""
    planned: int
    ended: str | None
    """Why it gets no more trials, where the sweep decided so."""
    complete: int
    pruned: int
    failed: int
    running: int
    frozen: int
    seconds: float
    """In workers, over all trials."""
    best_number: int | None
    best_val_accuracy: float | None
    """The score of the best complete trial, in [0, 1]."""
    best_standard_error: float | None
    """The standard error of that score, for the finite number of val images."""
    best_interval: tuple[float, float] | None
    """95 %, likewise."""
    best_images: float
    """On as many an accuracy equal to the best is as sure."""
    num_val: int
    majority_share: float | None
    """The val score of always answering the most frequent class; None in older plans."""
    best_config: Mapping[str, Any] | None
    """Its searched values."""
    best_origin: str | None
    """Where they come from, if not from the sampler alone."""

    @property
    def best_text(self) -> str:
        """`93.5 ± 1.7`, in percent."""
        if self.best_val_accuracy is None:
            return ""
        return accuracy_text(self.best_val_accuracy, self.best_images)

    @property
    def majority_text(self) -> str:
        """`12.5`, in percent."""
        return "" if self.majority_share is None else f"{100 * self.majority_share:.1f}"

    @property
    def config_text(self) -> str:
        """`lr 0.0123, num_tokens 10`, and where that comes from."""
        return with_origin(config_text(self.best_config or {}), self.best_origin)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def summary_table(plan: SweepPlan, record: Record) -> list[StudySummary]:
    """A line per study, in the order of the plan."""
    return [_summary(plan, study.name, record.trials(study.name)) for study in plan.studies]


def _summary(plan: SweepPlan, name: str, trials: Sequence[TrialRecord]) -> StudySummary:
    study = plan.study(name)
    task = plan.task(study.task)
    states = Counter(trial.state for trial in trials)
    best = best_of(trials)
    accuracy = best.val_accuracy if best else None
    images = best.val_images(task) if best else task.val_images
    return StudySummary(
        study=name,
        task=task.name,
        group=task.group,
        space=study.space,
        metric=task.metric,
        planned=study.num_trials,
        ended=study.ended or None,
        complete=states["complete"],
        pruned=states["pruned"],
        failed=states["failed"],
        running=states["running"],
        frozen=states["frozen"],
        seconds=sum(trial.facts.get("wall_seconds", 0.0) for trial in trials),
        best_number=best.number if best else None,
        best_val_accuracy=accuracy,
        best_standard_error=None if accuracy is None else standard_error(accuracy, images),
        best_interval=None if accuracy is None else interval(accuracy, images),
        best_images=images,
        num_val=task.num_val,
        majority_share=task.val_majority_share,
        best_config=plan.parsed_spaces[study.space].searched(best.config) if best else None,
        best_origin=best.origin if best else None,
    )
