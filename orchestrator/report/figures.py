"""The figures of a study. Each says what it shows, and why when it is empty."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.plan.space import Dimension
from orchestrator.record.record import FROZEN_STATE, TrialRecord
from orchestrator.report.collect import StudyReport, learning_curve
from orchestrator.report.convergence import what_would_help
from orchestrator.report.figure import Figure
from orchestrator.report.front_figure import front_figure
from orchestrator.report.loss_figure import losses
from orchestrator.report.svg import (
    BOTTOM,
    HEIGHT,
    TOP,
    WIDTH,
    Chart,
    LinearScale,
    LogScale,
    Scale,
    StepScale,
    across,
    score_scale,
    upward,
)
from orchestrator.report.wording import percent
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import config_text, value_text

SHADES = 5
"""Shades of the colour that stands for accuracy, from poor to good."""


def study_figures(study: StudyReport) -> list[Figure]:
    """All figures of a study."""
    if not any(learning_curve(trial) for trial in study.trials):
        reason = "No trial has finished an epoch yet."
        return [Figure(title="Learning curves", svg=None, caption=reason)]
    return [
        *([front_figure(study.front, study)] if study.front else []),
        learning_curves(study),
        losses(study),
        best_so_far(study),
        pruning(study),
        importance_bars(study),
        parallel_coordinates(study),
        *(against(study, dimension) for dimension in study.space.dimensions),
    ]


def learning_curves(study: StudyReport) -> Figure:
    """Validation accuracy by epoch, every trial to where it ended."""
    curves = {trial.number: learning_curve(trial) for trial in study.trials}
    drawn = [trial for trial in study.trials if curves[trial.number]]
    points = [point for curve in curves.values() for point in curve]
    y = score_scale([accuracy for _, accuracy in points], *upward())
    last = max(epoch for epoch, _ in points)
    chart = Chart(LinearScale(0, last, *across()), y, "epoch", _score_axis(study))
    for trial in sorted(drawn, key=lambda trial: _layer(study, trial)):
        curve = curves[trial.number]
        chart.line(curve, _kind(study, trial), _name(study, trial))
    for trial in sorted(drawn, key=lambda trial: trial.state):
        if trial.state in ("pruned", "failed"):
            chart.dot(
                *curves[trial.number][-1], f"{trial.state} end", _name(study, trial, short=True)
            )
    states = ", ".join(f"{study.states[s]} {s}" for s in _STATES if study.states[s])
    return Figure(
        title="Learning curves",
        svg=chart.draw(f"Learning curves of {counted(len(drawn), 'trial')}: {states}"),
        caption=f"{states}. A pruned trial ends at its dot, where it was stopped.",
    )


def best_so_far(study: StudyReport) -> Figure:
    """The best accuracy found, by epochs spent."""
    title, spent, best = "Best so far over compute", 0, -1.0
    points: list[tuple[float, float]] = []
    for trial in study.finished:
        spent += len(trial.curve)
        if trial.state == "complete" and (trial.val_accuracy or 0.0) > best:
            best = trial.val_accuracy or 0.0
            points.append((spent, best))
    if not points:
        return Figure(title=title, svg=None, caption="No trial is complete yet.")
    values = [accuracy for trial in study.finished for accuracy in _last(trial)]
    words = study.task.objective.words
    chart = Chart(
        LinearScale(0, spent, *across()),
        score_scale(values, *upward()),
        "epochs trained, all trials",
        f"best val {study.task.objective.unit}",
    )
    position = 0
    for trial in study.finished:
        position += len(trial.curve)
        for accuracy in _last(trial):
            chart.dot(position, accuracy, _kind(study, trial), _name(study, trial, short=True))
    chart.steps([*points, (spent, best)], "best")
    return Figure(
        title=title,
        svg=chart.draw(
            f"Best val {words} over {counted(spent, 'epoch')}, in the end {percent(best)} %"
        ),
        caption="In the order in which trials ended; dots are the trials' last val accuracies, "
        "the line is the best complete one.",
    )


def pruning(study: StudyReport) -> Figure:
    """How far every trial came, and what was spared."""
    title = "Pruning timeline"
    trials = [trial for trial in study.trials if trial.curve]
    planned = {trial.number: study.planned_epochs(trial) for trial in trials}
    top = max(*planned.values(), *(len(trial.curve) for trial in trials))
    last = max(trial.number for trial in trials) + 1
    chart = Chart(
        LinearScale(0, last, *across()),
        LinearScale(0, top, *upward()),
        "trial, in the order of their start",
        "epochs",
    )
    chart.bars(
        (
            ((trial.number + 0.1, len(trial.curve)), (trial.number + 0.9, planned[trial.number]))
            for trial in trials
            if planned[trial.number] > len(trial.curve)
        ),
        "spared",
    )
    for trial in sorted(trials, key=lambda trial: _layer(study, trial)):
        left, right = trial.number + 0.1, trial.number + 0.9
        told = _name(study, trial, short=True)
        chart.bar((left, 0), (right, len(trial.curve)), _kind(study, trial), told)
    run, should = study.epochs_run_and_planned
    saved = study.saved_share
    told = "nothing has ended yet"
    if saved is not None:
        trained = f"{run:,} of {counted(should, 'planned epoch')} were trained"
        told = f"{trained}, {100 * saved:.0f} % spared"
    return Figure(
        title=title,
        svg=chart.draw(f"Epochs of every trial; {told}"),
        caption=f"Bars: epochs trained; pale: spared by stopping early. "
        f"{told[0].upper()}{told[1:]}.",
    )


def importance_bars(study: StudyReport) -> Figure:
    """Optuna's importance of each searched name."""
    title, shares = "Importance of hyper-parameters", study.importance.shares
    if not shares:
        told = [study.importance.note]
        if needed := study.importance.num_needed:
            told.append(what_would_help(study, complete=needed))
        return Figure(title=title, svg=None, caption=f"Not shown, {'; '.join(told)}.")
    height = TOP + 22 * len(shares) + BOTTOM
    left = 130
    scale = LinearScale(0, 1, left, WIDTH - 48)
    chart = Chart(
        scale, StepScale(list(shares), TOP, height), "", "", height=TOP + 22 * len(shares) + 4
    )
    for index, (name, share) in enumerate(shares.items()):
        y = TOP + 22 * index
        chart.bar_at(left, y, scale(share) - left, 16, "complete", f"{name} {share:.2f}")
        chart.label(left - 6, y + 12, name, "tick", "end")
        chart.label(scale(share) + 5, y + 12, f"{share:.2f}", "tick")
    told = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    return Figure(
        title=title,
        svg=chart.draw(f"Importance: {told}", axes=False),
        caption="What set the best quarter of the complete trials apart (PED-ANOVA, shares of 1), "
        f"{study.importance.note}.",
    )


def parallel_coordinates(study: StudyReport) -> Figure:
    """A line per trial through its values and its accuracy."""
    title = "Parallel coordinates"
    trials = [t for t in study.trials if t.state in ("complete", "pruned") and _last(t)]
    dimensions = study.space.dimensions
    if len(dimensions) < 2 or len(trials) < 2:
        reason = "Not shown, it needs two trials and two searched names."
        return Figure(title=title, svg=None, caption=reason)
    bottom, top = HEIGHT - 44, 12
    scales = [_scale(dimension, bottom, top) for dimension in dimensions]
    accuracies = [trial.val_accuracy or 0.0 for trial in trials]
    scales.append(_Axis(scale=score_scale(accuracies, bottom, top), value=lambda a: a))
    columns = LinearScale(0, len(dimensions), 26, WIDTH - 26)
    chart = Chart(columns, LinearScale(0, 1, 0, 1), "", "")
    ranked = sorted({t.val_accuracy or 0.0 for t in trials if t.state == "complete"})
    for trial in sorted(trials, key=lambda trial: (_layer(study, trial), trial.val_accuracy)):
        values = [*(trial.config.get(d.name, _ABSENT) for d in dimensions), trial.val_accuracy]
        points = [
            (index, bottom + 10 if value is _ABSENT else axis.scale(axis.value(value)))
            for index, (axis, value) in enumerate(zip(scales, values, strict=True))
        ]
        kind = _kind(study, trial)
        if kind == "complete":
            rank = ranked.index(trial.val_accuracy or 0.0)
            kind = f"shade{rank * (SHADES - 1) // max(1, len(ranked) - 1)}"
        chart.line(points, kind, _name(study, trial))
    for index, (axis, name) in enumerate(
        zip(scales, [*(d.name for d in dimensions), "val %"], strict=True)
    ):
        x = columns(index)
        chart.bar_at(x - 0.5, top, 1, bottom - top, "frame")
        anchor = "start" if index == 0 else "end" if index == len(dimensions) else "middle"
        edge = {"start": x - 24, "end": x + 24, "middle": x}[anchor]
        row = 26 if index % 2 and len(dimensions) > 3 else 12
        chart.label(edge, HEIGHT - 30 + row, name, "tick", anchor)
        ticks = axis.scale.ticks()
        for value, text in (ticks[0], ticks[-1]) if len(ticks) > 7 else ticks:
            chart.label(x + 4, axis.scale(value) + 3.5, text, "tick halo")
    return Figure(
        title=title,
        svg=chart.draw(
            f"Values and {study.task.objective.words} of {counted(len(trials), 'trial')}",
            axes=False,
        ),
        caption="Strong lines: complete trials with high accuracy, faint: low; orange: the best; "
        "dashed: pruned. A line that leaves below an axis has no value there.",
    )


def against(study: StudyReport, dimension: Dimension) -> Figure:
    """Accuracy against one searched name."""
    words = study.task.objective.words
    title = f"{words[:1].upper()}{words[1:]} against {dimension.name}"
    trials = [t for t in study.trials if _last(t) and dimension.name in t.config]
    if not trials:
        reason = "Not shown, no trial had a value here."
        return Figure(title=title, svg=None, caption=reason)
    axis = _scale(dimension, *across())
    accuracies = [trial.val_accuracy or 0.0 for trial in trials]
    y = score_scale(accuracies, *upward())
    chart = Chart(axis.scale, y, dimension.name, _score_axis(study))
    together = Counter(trial.config[dimension.name] for trial in trials)
    drawn: Counter[Any] = Counter()
    for trial in sorted(trials, key=lambda trial: _layer(study, trial)):
        own = trial.config[dimension.name]
        value = axis.value(own)
        # Equal values lie beside each other, around the middle of their column.
        shift = (drawn[own] - (together[own] - 1) / 2) * min(7.0, axis.spread / together[own])
        drawn[own] += 1
        kind, name = _kind(study, trial), _name(study, trial, short=True)
        chart.dot(value, trial.val_accuracy or 0.0, kind, name, shift)
    return Figure(
        title=title,
        svg=chart.draw(f"{title}, {counted(len(trials), 'trial')}"),
        caption="Filled: complete; hollow: pruned, at the accuracy where it was stopped; "
        "orange: the best.",
    )


_STATES = ("complete", "pruned", "failed", "running", "frozen")
_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """A scale for the values of one searched name."""

    scale: Scale
    value: Any
    """From a value to the number that the scale places."""
    spread: float = 0.0
    """Pixels over which equal values may be scattered."""


def _scale(dimension: Dimension, start: float, end: float) -> _Axis:
    match dimension.distribution:
        case CategoricalDistribution(choices=choices):
            numbers = [c for c in choices if isinstance(c, int | float) and c is not True]
            ordered = sorted(numbers) if len(numbers) == len(choices) else list(choices)
            names = [value_text(choice) for choice in ordered]
            room = abs(end - start) / len(names)
            return _Axis(scale=StepScale(names, start, end), value=ordered.index, spread=0.6 * room)
        case (
            FloatDistribution(low=low, high=high, log=log)
            | IntDistribution(low=low, high=high, log=log)
        ):
            kind = LogScale if log else LinearScale
            return _Axis(scale=kind(low, high, start, end), value=float)
    raise AssertionError(dimension.distribution)


def _score_axis(study: StudyReport) -> str:
    return f"val {study.task.objective.words}, %"


def _last(trial: TrialRecord) -> list[float]:
    """The trial's last accuracy, if it has one."""
    accuracy = trial.val_accuracy
    return [] if accuracy is None or not math.isfinite(accuracy) else [accuracy]


def _kind(study: StudyReport, trial: TrialRecord) -> str:
    if trial.state == FROZEN_STATE:
        return "pruned"  # it looks like one; what it is called is told beside it
    return "best" if trial is study.best else trial.state


def _layer(study: StudyReport, trial: TrialRecord) -> int:
    order = ("failed", "pruned", "running", "waiting", "complete", "best")
    return order.index(_kind(study, trial))


def _name(study: StudyReport, trial: TrialRecord, *, short: bool = False) -> str:
    end = f" after {counted(len(trial.curve), 'epoch')}" if trial.state != "complete" else ""
    told = f"#{trial.number} {percent(trial.val_accuracy)} %, {trial.state}{end}"
    return told if short else f"{told}: {config_text(study.searched(trial))}"
