"""How a report names what its numbers are, where plain accuracy does not go without saying."""

from collections.abc import Sequence

from orchestrator.plan.plan import SweepPlan, TaskPlan
from orchestrator.report.collect import StudyReport
from orchestrator.support.counted import counted
from orchestrator.training.objective import DEFAULT_METRIC, METRICS


def metrics_of(plan: SweepPlan) -> list[str]:
    """Names of the metrics of its tasks, in the order of the registry."""
    return [name for name in METRICS if name in plan.metrics.values()]


def is_told(plan: SweepPlan) -> bool:
    """Whether tables say the metric of every task."""
    return metrics_of(plan) != [DEFAULT_METRIC]


def score_words(plan: SweepPlan) -> str:
    """`accuracy`, `mean per-class accuracy`, or `score` where tasks are measured differently."""
    metrics = metrics_of(plan)
    return METRICS[metrics[0]].words if len(metrics) == 1 else "score"


def task_text(plan: SweepPlan, task: TaskPlan) -> str:
    """The task's name, with its metric where the others may have another."""
    return f"{task.name} ({task.metric})" if len(metrics_of(plan)) > 1 else task.name


def notes_on_metrics(plan: SweepPlan) -> list[str]:
    """What the numbers of a table are, and that a mean over its tasks mixes them; or nothing."""
    metrics = metrics_of(plan)
    if not is_told(plan):
        return []
    if len(metrics) == 1:
        return [f"All numbers are in {METRICS[metrics[0]].words}: {EXPLAINED[metrics[0]]}."]
    parts = [
        f"{METRICS[metric].words} for "
        f"{', '.join(task.name for task in plan.tasks if task.metric == metric)}"
        for metric in metrics
    ]
    told = "; ".join(f"{METRICS[m].words}: {EXPLAINED[m]}" for m in metrics if m in EXPLAINED)
    return [
        f"Tasks are measured differently: {', '.join(parts)} ({told}). A mean over tasks is over "
        "different metrics, and compares only with one over the same."
    ]


def notes_on_absent_classes(studies: Sequence[StudyReport]) -> list[str]:
    """Notes on tasks where a class counts as much as any, if it has images: those that have
    none."""
    found = {}
    for study in studies:
        told = study.chosen.facts.get("val_images_by_class", ()) if study.chosen else ()
        tested = study.final.test_images_by_class if study.final else ()
        for split, images in (("val", told), ("test", tested)):
            absent = sum(not number for number in images)
            if absent and study.task.metric != DEFAULT_METRIC:
                found[study.plan.task, split] = (
                    f"{study.plan.task}: {absent} of {counted(len(images), 'class')} have no "
                    f"{split} image, and the mean is over the other {len(images) - absent}."
                )
    return list(found.values())


EXPLAINED = {"mean_per_class": "the mean of the accuracies of all classes"}
