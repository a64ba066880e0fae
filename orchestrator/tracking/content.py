"""What the runs of a sweep say: names, tags, params, points and notes, from plan and record.

Nothing here knows who shows them. Equal plan and record give equal content, whenever it is
computed: that lets `reconcile` compare, and a value be sent twice without being stored twice.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from orchestrator.plan.plan import StudyPlan, SweepPlan, TaskPlan
from orchestrator.plan.pruners import entry_of
from orchestrator.record.record import FINISHED, FROZEN_STATE, TrialRecord, best_of
from orchestrator.report.cautions import cautions
from orchestrator.support.counted import counted
from orchestrator.support.foreign_text import markdown
from orchestrator.support.yaml_io import dump_yaml
from orchestrator.tracking.backend import Point, RunContent
from orchestrator.tracking.notes import trial_note
from orchestrator.tracking.params import shared_params, varied_params
from orchestrator.training.facts import EpochRow
from orchestrator.training.objective import DEFAULT_METRIC, Objective

STUDY_TAG = "orchestrator.study"
TRIAL_TAG = "orchestrator.trial"
BEST_PREFIX = "best."
CAUTION_TAG = "caution"
"""The tag of a study that says what a reader must know before the best of it is taken for a
result."""

STATES = ("running", FROZEN_STATE, *FINISHED)
"""The states of the trials that are shown."""

TOTALS = ("wall_seconds", "images_per_second", "num_tuned_parameters", "peak_memory_mib")
_FACT_TAGS = ("device", "readout")
_NOT_METRICS = ("epoch", "train_seconds", "eval_seconds")
_SCORE = "accuracy"
"""How the storage calls the score, whichever it is; a tracker shows which."""


def sweep_id(plan: SweepPlan) -> str:
    """Tells sweeps of one name apart on a server that many share."""
    return hashlib.sha256(f"{plan.name}\n{plan.created}".encode()).hexdigest()[:16]


def sweep_note(plan: SweepPlan) -> str:
    spaces = ", ".join(map(markdown, plan.spaces))
    tasks = ", ".join(markdown(task.name) for task in plan.tasks)
    return (
        f"Sweep **{markdown(plan.name)}** of suite {markdown(plan.suite)}, planned {plan.created}: "
        f"{counted(plan.num_trials, 'trial')} in {counted(len(plan.studies), 'study')}.\n\n"
        f"- tasks: {tasks}\n"
        f"- search spaces: {spaces}\n"
        f"- backbone: {markdown(plan.backbone.name)}, {plan.backbone.image_size} pixels, "
        f"{plan.backbone.num_parameters:,} parameters\n"
        f"- sampler {plan.sampler}, pruner {plan.pruner.name}, seed {plan.seed}\n\n"
        "One parent run per study (a search space on a task), one child run per trial."
    )


def shown_trials(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Those that a tracker shows: all that were begun."""
    return [trial for trial in trials if trial.state in STATES]


def study_content(plan: SweepPlan, study: StudyPlan, trials: Sequence[TrialRecord]) -> RunContent:
    """The parent run of a study, after `trials`."""
    finished = sorted(
        (trial for trial in trials if trial.state in FINISHED),
        key=lambda trial: (millis(trial.finished), trial.number),
    )
    ended = len(finished) >= study.num_trials
    space, task = plan.parsed_spaces[study.space], plan.task(study.task)
    val_key = f"val_{task.objective.key}"
    warnings = cautions(task, finished)
    tags = {
        **_common_tags(plan, study),
        "kind": "study",
        "state": "complete" if ended else "running",
        "num_trials": str(study.num_trials),
        **{
            f"num_{state}": str(sum(t.state == state for t in trials))
            for state in STATES
            if state != FROZEN_STATE or plan.pruner.freezes
        },
    }
    if task.val_majority_share is not None:
        tags["val_majority_share"] = f"{task.val_majority_share:.6g}"
    if warnings:
        tags[CAUTION_TAG] = " ".join(warnings)
    best = best_of(finished)
    if best is not None:
        searched = space.searched(best.config)
        shown = {"trial": best.number, val_key: best.val_accuracy, **searched}
        tags |= {
            f"{BEST_PREFIX}{name}": f"{value:.6g}" if isinstance(value, float) else str(value)
            for name, value in shown.items()
        }
    params = {
        "num_trials": study.num_trials,
        "sampler": plan.sampler,
        **{f"pruner_{name}": value for name, value in entry_of(plan.pruner).items()},
        "image_size": plan.backbone.image_size,
        "seed": plan.seed,
        **shared_params(plan, study.space),
    }
    document = dump_yaml(dict(plan.spaces[study.space]))
    # A millisecond apart, so that pages that sort by time show the order of the plan.
    start = millis(datetime.fromisoformat(plan.created)) + plan.studies.index(study)
    last = millis(finished[-1].finished) if finished else start  # one may be stopped before any
    return RunContent(
        key=(study.name, ""),
        name=f"{study.task} · {study.space}",
        start=start,
        end=last if ended else None,
        state=tags["state"],
        tags=tags,
        params={name: str(value) for name, value in params.items()},
        points=_best_so_far(finished, f"best_{val_key}"),
        leading=f"best_{val_key}",
        totals={},
        note=(
            f"Task **{markdown(task.name)}**"
            f"{f' ({markdown(task.group)})' if task.group else ''}: {task.num_classes} "
            f"classes, {task.num_train} train and {task.num_val} validation images"
            f"{_majority(task)}. "
            f"`best_{val_key}` is drawn over the number of finished trials; the figures of the "
            "study are in `study.html` under Artifacts. Of its trials the parameter `lr` is as "
            "drawn, for 256 images, and the metric `scaled_lr` is the step size of an epoch.\n\n"
            + "".join(f"**Caution:** {markdown(warning)}\n\n" for warning in warnings)
            + f"The search space:\n\n```yaml\n{document}```\n"
        ),
        passing_tags=(BEST_PREFIX, CAUTION_TAG),
    )


def _majority(task: TaskPlan) -> str:
    share = task.val_majority_share
    if share is None:
        return ""
    of_what = "% of these" if task.metric == DEFAULT_METRIC else task.objective.unit
    return f"; always answering the most frequent class gives {100 * share:.1f} {of_what}"


def trial_content(plan: SweepPlan, trial: TrialRecord, curve: Sequence[EpochRow]) -> RunContent:
    """The run of a trial, with the epochs of `curve`."""
    study = plan.study(trial.study)
    ended = trial.state in FINISHED
    tags = {
        **_common_tags(plan, study),
        TRIAL_TAG: str(trial.number),
        "kind": "trial",
        "state": trial.state,
    }
    if ended:
        tags["epochs_run"] = str(len(trial.curve))
    if trial.failure:
        tags["failure"] = trial.failure
    tags |= {name: str(trial.facts[name]) for name in _FACT_TAGS if trial.facts.get(name)}
    return RunContent(
        key=(trial.study, str(trial.number)),
        name=f"{study.task} · {study.space} · #{trial.number}",
        start=millis(trial.started),
        end=millis(trial.finished) if ended else None,
        state=trial.state,
        tags=tags,
        params={name: str(value) for name, value in varied_params(plan, trial).items()},
        points=_curve_points(millis(trial.started), curve, plan.objective(trial.study)),
        leading=f"val_{plan.objective(trial.study).key}",
        totals={k: trial.facts[k] for k in TOTALS if k in trial.facts} if ended else {},
        note=trial_note(plan, trial),
    )


def millis(time: datetime | None) -> int:
    """Milliseconds since 1970; without zone it is local, as Optuna gives the UTC that it keeps."""
    assert time is not None
    return round(1000 * time.timestamp())


def _common_tags(plan: SweepPlan, study: StudyPlan) -> dict[str, str]:
    task = plan.task(study.task)
    tags = {
        "orchestrator.sweep": plan.name,
        STUDY_TAG: study.name,
        "task": task.name,
        "group": task.group,
        "metric": task.metric,
        "method": plan.parsed_spaces[study.space].method,
        "space": study.space,
        "backbone": plan.backbone.name,
        "backbone_weights_sha256": plan.backbone.weights_sha256,
        "data_fingerprint": task.fingerprint,
        "versions": ", ".join(f"{name} {version}" for name, version in plan.versions.items()),
    }
    return {name: str(value) for name, value in tags.items() if value}


def shown_as(name: str, objective: Objective) -> str:
    """What a metric of the storage is called here: `val_accuracy` by what it is."""
    split, _, rest = name.rpartition("_")
    return f"{split}_{objective.key}" if split and rest == _SCORE else name


def _curve_points(start: int, curve: Sequence[EpochRow], objective: Objective) -> list[Point]:
    """A point per epoch, at the time it would have without pauses."""
    points, seconds = [], 0.0
    for row in curve:
        seconds += row.get("train_seconds", 0.0) + row.get("eval_seconds", 0.0)
        points.append(
            Point(
                step=int(row["epoch"]),
                timestamp=start + round(1000 * seconds),
                values={
                    shown_as(name, objective): row[name] for name in row if name not in _NOT_METRICS
                },
            )
        )
    return points


def _best_so_far(finished: Sequence[TrialRecord], key: str) -> list[Point]:
    """The best score of a complete trial after 1, 2, ... finished trials."""
    points, best = [], None
    for step, trial in enumerate(finished, start=1):
        best = best_of([t for t in (best, trial) if t is not None])
        if best is not None:
            value = {key: best.val_accuracy or 0.0}
            points.append(Point(step=step, timestamp=millis(trial.finished), values=value))
    return points
