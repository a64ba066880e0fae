"""The best configuration and prompts of every task, as files that can be loaded again."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from orchestrator.bundle.bundle import Bundle, save_bundle
from orchestrator.bundle.fronts import write_fronts
from orchestrator.data.suites import Suite
from orchestrator.plan.folders import BEST_FOLDER, BY_METHOD, TRIALS_FOLDER
from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import Record, TrialRecord, best_of
from orchestrator.support.checksum import sha256_of
from orchestrator.support.commit_points import commit_point
from orchestrator.support.phases import each
from orchestrator.support.regular_file import refuse_link_below
from orchestrator.support.shown_values import config_text
from orchestrator.support.uncertainty import accuracy_text
from orchestrator.training.config import build

__all__ = [
    "BEST_FOLDER",
    "BY_METHOD",
    "TRIALS_FOLDER",
    "Exported",
    "describe",
    "export_best",
    "exported_table",
    "without_weights",
]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote, and what it could not."""

    files: dict[str, list[Path]]
    """The files written for the best trial of each study, by the name of the study."""
    best: dict[str, TrialRecord]
    """The winner of each task over all its studies, by task."""
    missing: list[str]
    """Studies and tasks without a bundle, with the reason."""
    fronts: list[Path] = field(default_factory=list)
    """The files of the Pareto fronts, in a sweep with a second objective."""


def export_best(
    plan: SweepPlan, record: Record, suite: Suite, *, trials_folder: Path, folder: Path
) -> Exported:
    """Write `<task>.yaml` and `<task>.safetensors` for each task, and for each of its studies.

    Those of a task's winner stand in `folder`, those of each method in `by_method/<space>/`. With
    a second objective the Pareto front of each study is `fronts/<study>.yaml`.
    """
    files: dict[str, list[Path]] = {}
    best: dict[str, TrialRecord] = {}
    missing: list[str] = []
    for task in each("writing best configurations, tasks", plan.tasks, len(plan.tasks)):
        studies = [study for study in plan.studies if study.task == task.name]
        winners: list[TrialRecord] = []
        for study in studies:
            trial = record.best(study.name)
            if trial is None:
                missing.append(f"{study.name}: no trial was complete")
                continue
            tensors = _tensors(trials_folder, trial)
            if not tensors.is_file():
                missing.append(f"{study.name}: {tensors} is gone; run trial #{trial.number} again")
                continue
            by_method = folder / BY_METHOD / study.space
            refuse_link_below(trials_folder, tensors)
            refuse_link_below(folder, by_method)
            bundle = describe(plan, suite, trial, tensors)
            files[study.name] = list(save_bundle(bundle, by_method, tensors))
            winners.append(trial)
        winner = best_of(winners)
        if winner is None:
            missing.append(f"{task.name}: none of its studies has a complete trial")
            continue
        tensors = _tensors(trials_folder, winner)
        save_bundle(describe(plan, suite, winner, tensors), folder, tensors)
        best[task.name] = winner
    fronts = write_fronts(plan, record, folder)
    commit_point("after export")
    return Exported(files=files, best=best, missing=missing, fronts=fronts)


def without_weights(plan: SweepPlan, record: Record, folder: Path) -> Exported:
    """What an export can say where the sweep's folder is not here, and its weights with it."""
    missing = []
    for study in plan.studies:
        trial = record.best(study.name)
        missing.append(
            f"{study.name}: no trial was complete"
            if trial is None
            else f"{study.name}: the tuned weights of trial #{trial.number} are files of {folder}, "
            f"which is not here; `orchestrator resume {folder}` trains them again"
        )
    return Exported(files={}, best={}, missing=missing)


def describe(plan: SweepPlan, suite: Suite, trial: TrialRecord, tensors: Path) -> Bundle:
    """The bundle of a complete trial whose tuned weights are in `tensors`."""
    assert trial.val_accuracy is not None
    if untold := [name for name in _NEEDED if name not in trial.facts]:
        raise ValueError(
            f"{trial.study} #{trial.number}: the storage does not say its {', '.join(untold)}"
        )
    study = plan.study(trial.study)
    space = plan.parsed_spaces[study.space]
    _, recipe = build(space.method, trial.config, source=f"{trial.study} #{trial.number}")
    task = next(task for task in suite.tasks if task.name == study.task)
    return Bundle(
        task=task.name,
        suite=plan.suite,
        data_root=plan.data_root,
        data_seed=plan.split_rule.seed,
        data_split=plan.split_rule.fractions,
        copies_together=plan.split_rule.copies_together,
        class_names=task.class_names,
        data_fingerprint=plan.task(task.name).fingerprint,
        backbone=plan.backbone,
        trial=plan.trial_config(trial.study, trial.number, trial.config, seed=trial.seed),
        recipe=asdict(replace(recipe, readout=trial.facts.get("readout", recipe.readout))),
        val_accuracy=trial.val_accuracy,
        num_tuned_parameters=trial.facts["num_tuned_parameters"],
        device=trial.facts["device"],
        cpu_threads=trial.facts["cpu_threads"],
        num_images=plan.task(task.name).num_val,
        majority=plan.task(task.name).val_majority,
        metric=plan.task(task.name).metric,
        baseline=plan.task(task.name).val_baseline,
        effective_images=trial.facts.get("val_effective_images"),
        engine=plan.engine,
        tensors_sha256=sha256_of(tensors),
        sweep=plan.name,
        versions=plan.versions,
        own_method=plan.own_methods.get(space.method),
    )


_NEEDED = ("num_tuned_parameters", "device", "cpu_threads")
"""Facts of a trial that its bundle repeats."""


def _tensors(trials_folder: Path, trial: TrialRecord) -> Path:
    return trials_folder / trial.study / f"{trial.number}.safetensors"


def exported_table(plan: SweepPlan, best: dict[str, TrialRecord]) -> Iterable[tuple[str, ...]]:
    """Per task: method, metric, validation score, that of the most frequent class, number of tuned
    parameters, searched values."""
    for task in plan.tasks:
        trial = best.get(task.name)
        if trial is None:
            yield (task.name, "none", "", "", "", "", "")
            continue
        space = plan.study(trial.study).space
        yield (
            task.name,
            space,
            task.metric,
            accuracy_text(trial.val_accuracy or 0.0, trial.val_images(task)),
            "" if task.val_majority_share is None else f"{100 * task.val_majority_share:.1f}",
            f"{trial.facts['num_tuned_parameters']:,}",
            config_text(plan.parsed_spaces[space].searched(trial.config)),
        )
