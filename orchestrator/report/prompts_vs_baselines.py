"""Whether prompts were worth it: the best prompt method against the baselines of the same sweep.

Judged on test images where both sides were finalized, else on validation images. Which prompt
method is the best one is never decided on test images.
"""

from collections import Counter
from collections.abc import Sequence

from orchestrator.report.collect import StudyReport, SweepReport, highest
from orchestrator.report.difference import Difference, test_difference, val_difference
from orchestrator.report.wording import percent
from orchestrator.support.counted import counted
from orchestrator.support.uncertainty import CLEAR

BASELINES = {"linear": "the linear probe", "full": "full fine-tuning"}


def best_with_prompts(report: SweepReport, task: str) -> StudyReport | None:
    """The best of the task's studies whose method learns prompts."""
    return highest(study for study in report.of_task(task) if study.has_prompts)


def prompts_against(report: SweepReport, task: str, method: str) -> Difference | None:
    """Best prompts minus the study of a baseline; None where the sweep has only one of them."""
    prompted = best_with_prompts(report, task)
    other = next((s for s in report.of_task(task) if s.space.method == method), None)
    if prompted is None or other is None:
        return None
    return test_difference(prompted, other) or val_difference(prompted, other)


def prompts_verdict(report: SweepReport, task: str) -> str | None:
    """Whether prompts were worth it on a task."""
    prompted = best_with_prompts(report, task)
    if prompted is None:
        return None
    found = {name: prompts_against(report, task, method) for method, name in BASELINES.items()}
    accuracies = {
        "test": prompted.test_accuracy,
        "validation": prompted.val_accuracy,
    }
    sentences = []
    for images, accuracy in accuracies.items():
        said = [
            f"{_SAID[known.verdict]} {name} ({known} points)"
            for name, known in found.items()
            if known and known.images == images
        ]
        if said:
            sentences.append(
                f"On {images} images prompts ({prompted.plan.space}, {percent(accuracy)} "
                f"{prompted.task.objective.unit}) are "
                f"{' and '.join(said)}."
            )
    return " ".join(sentences) or None


def prompt_headlines(report: SweepReport) -> Sequence[str]:
    """A sentence per baseline and kind of images, over all tasks."""
    sentences = []
    for method, name in BASELINES.items():
        every = [prompts_against(report, task.name, method) for task in report.plan.tasks]
        for images in ("test", "validation"):
            known = [found for found in every if found and found.images == images]
            if not known:
                continue
            verdicts = Counter(difference.verdict for difference in known)
            sentences.append(
                f"Prompts against {name}, on {images} images: better on {verdicts['better']}, "
                f"worse on {verdicts['worse']}, unclear on {verdicts['unclear']} of "
                f"{counted(len(known), 'task')} {_COUNTS[images]}."
            )
    return sentences


_COUNTS = {
    "test": f"(a difference counts from {CLEAR:.0f} standard errors on, for seeds and images; "
    "from more where there are few seeds)",
    "validation": f"(a difference of {CLEAR:.0f} standard errors counts)",
}

_SAID = {"better": "better than", "worse": "worse than", "unclear": "not told apart from"}
