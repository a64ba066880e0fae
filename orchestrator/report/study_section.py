"""What a page says of one study, before anybody decides how it looks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.plan.final_protocol import times_opened
from orchestrator.record.record import TrialRecord
from orchestrator.report.bundle_files import Bundle
from orchestrator.report.by_class import NOT_KEPT, class_table
from orchestrator.report.collect import StudyReport
from orchestrator.report.confusion import NOT_KEPT as NO_CONFUSION
from orchestrator.report.confusion import confused_table, confusion_matrix, confusion_of
from orchestrator.report.convergence import convergence
from orchestrator.report.figure import Figure
from orchestrator.report.figures import study_figures
from orchestrator.report.final import caveats
from orchestrator.report.findings import remarks
from orchestrator.report.front_table import front_sentences
from orchestrator.report.table import Cell, Row, Table
from orchestrator.report.tested import cautions_on_test
from orchestrator.report.wording import duration_text, percent
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import NOTHING, config_text, value_text, with_origin

LR_NOTE = (
    "lr: as drawn, for 256 images; the step size of an epoch (scaled_lr) is what batch size and "
    "schedule make of it."
)


@dataclass(frozen=True, kw_only=True)
class StudySection:
    """What the page says of a study."""

    name: str
    space: str
    anchor: str
    best: str
    sentences: Sequence[str]
    figures: Sequence[Figure]
    bundle: Bundle | None
    """Of its best trial, if it is there."""
    trials: Table
    classes: Table | None
    confused: Table | None
    no_confusion: str
    """Why there is no table of classes that are confused, where one would be."""
    no_classes: str
    """Why there is no table of classes, where one would be."""


def study_section(
    study: StudyReport, *, by_class: bool, bundle: Bundle | None = None
) -> StudySection:
    """With the accuracies by class only where asked for: they would make a large page larger."""
    best = study.best
    classes = class_table(study) if by_class else None
    confusion = confusion_of(study) if by_class else None
    figures = study_figures(study)
    if confusion and (matrix := confusion_matrix(confusion)):
        figures.insert(0, matrix)
    no_confusion = ""
    if by_class and study.test_accuracy is not None and not (confusion and confusion.wrong):
        no_confusion = confusion.why_none if confusion else NO_CONFUSION
    if best is None:
        told = "no complete trial yet"
        sentences = [convergence(study).sentence]
    else:
        told = f"val {study.val_text} {study.task.objective.unit}"
        searched = config_text(study.searched(best)) or "nothing searched"
        found = with_origin(searched, best.origin)
        unit = study.task.objective.unit
        sentences = [
            f"Best in the search: trial #{best.number}, {study.val_text} {unit} on validation"
            f"{_majority(study.task.val_majority_share)}, with {found}.",
            convergence(study).sentence,
            *front_sentences(study),
            *_final_sentence(study),
            *remarks(study),
        ]
    return StudySection(
        name=study.name,
        space=study.plan.space,
        anchor=study.anchor,
        best=told,
        sentences=sentences,
        figures=figures,
        bundle=bundle,
        trials=_trials(study),
        classes=classes,
        confused=confused_table(confusion) if confusion and confusion.wrong else None,
        no_confusion=no_confusion,
        no_classes=NOT_KEPT if by_class and best is not None and classes is None else "",
    )


def _final_sentence(study: StudyReport) -> Iterator[str]:
    if study.final is None or study.chosen is None:
        return
    if study.final.why:
        yield f"Finalists: {study.final.why}."
    if study.final.cross_validation_interval is not None:
        low, high = study.final.cross_validation_interval
        finalists = counted(len(study.final.finalists), "finalist")
        trials = counted(study.final.num_trials_at_choice or len(study.trials), "trial")
        yield (
            f"The 95 % interval of its mean over folds, "
            f"{percent(study.final.cross_validation)} {study.task.objective.unit}, is "
            f"{percent(low)} to {percent(high)} %. The mean may be a little high: it chose the "
            f"winner among {finalists}, and these are the best of {trials} on validation images "
            "that are part of the folds."
        )
    runs = study.final.test_accuracies
    if runs:
        each = ", ".join(f"{percent(value)} (seed {seed})" for seed, value in runs.items())
        yield (
            f"Trial #{study.chosen.number} on test images"
            f"{_majority(study.final.test_majority_share)}: {study.test_text} "
            f"{study.task.objective.unit}, by seed {each}."
        )
        if study.final.num_openings == 1:
            yield times_opened(1)
    if study.test_interval is not None:
        low, high = study.test_interval
        assert study.final is not None
        yield (
            f"For {counted(len(runs), 'seed')} and "
            f"{counted(study.final.num_test or 0, 'test image')} the 95 % interval of "
            f"that mean is {percent(low)} to {percent(high)} %."
        )
    yield from caveats(study.final)
    if not study.final_is_current:
        yield from cautions_on_test([study])


def _majority(share: float | None) -> str:
    told = f"always answering the most frequent class: {percent(share)} %"
    return "" if share is None else f" ({told})"


def _trials(study: StudyReport) -> Table:
    names = [dimension.name for dimension in study.space.dimensions]
    told = any(trial.origin for trial in study.trials)
    ranked = sorted(study.trials, key=lambda t: (t.state != "complete", -(t.val_accuracy or 0.0)))
    return Table(
        title=counted(len(study.trials), "trial"),
        columns=["trial", "state", "val %", "epochs", "time", *names, *(["from"] if told else [])],
        notes=[LR_NOTE] if "lr" in names else [],
        rows=[Row(cells=_trial_row(t, names, says_origin=told)) for t in ranked],
        wordy=frozenset({"state", "from"}),
    )


def _trial_row(trial: TrialRecord, names: Sequence[str], *, says_origin: bool) -> list[Cell]:
    seconds = trial.facts.get("wall_seconds")
    time = NOTHING if seconds is None else duration_text(seconds)
    return [
        Cell(text=f"#{trial.number}"),
        Cell(text=trial.state),
        Cell(text=percent(trial.val_accuracy)),
        Cell(text=str(len(trial.curve))),
        Cell(text=time, value=None if seconds is None else round(seconds, 1)),
        *(Cell(text=value_text(trial.config.get(name))) for name in names),
        *([Cell(text=trial.origin or "sampler")] if says_origin else []),
    ]
