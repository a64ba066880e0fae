"""The best found so far by each method, over what it cost."""

import math
from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean

from orchestrator.report.collect import StudyReport, SweepReport
from orchestrator.report.figure import Figure
from orchestrator.report.method_looks import Look, looks
from orchestrator.report.metric_names import score_words
from orchestrator.report.svg import (
    Chart,
    LinearScale,
    LogScale,
    Point,
    across,
    score_scale,
    upward,
)
from orchestrator.report.wording import percent
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import number_text

WIDTH, HEIGHT = 440, 300
LOG_FROM = 30
"""Methods whose costs differ so many times are put on a logarithmic axis."""


def best_over_compute(report: SweepReport) -> Figure:
    """The best score found so far by each method, over the time its trials took."""
    title = "Best so far over compute"
    begun = [look for look in looks(report) if any(s.best for s in _of(report, look))]
    tasks = [
        task.name
        for task in report.plan.tasks
        if all(_has_best(report, task.name, look.space) for look in begun)
    ]
    if not begun or not tasks:
        reason = "Not shown yet: no task has a complete trial of each method."
        return Figure(title=title, svg=None, caption=reason)
    studies = {
        look: [report.by_task_and_space[task, look.space] for task in tasks] for look in begun
    }
    timed = all(_is_timed(study) for every in studies.values() for study in every)
    lines = {look: _mean_of_bests(every, timed=timed) for look, every in studies.items()}
    end = max(points[-1][0] for points in lines.values())
    unit, size = _unit(end) if timed else ("epochs trained", 1)
    lines = {look: [(x / size, y) for x, y in points] for look, points in lines.items()}
    start, end = min(points[0][0] for points in lines.values()), end / size
    is_wide = start > 0 and end / start > LOG_FROM
    scale = LogScale if is_wide else LinearScale
    many = len(tasks) > 1
    values = [y for points in lines.values() for _, y in points]
    chart = Chart(
        scale(start if is_wide else 0, end, *across(WIDTH)),
        score_scale(values, *upward(HEIGHT)),
        f"{unit}{' per study' if many else ''}{', logarithmic' if is_wide else ''}",
        f"best val {score_words(report.plan)} so far, %{', mean over tasks' if many else ''}",
        width=WIDTH,
        height=HEIGHT,
    )
    for look, points in lines.items():
        x, best = points[-1]
        told = f"{look.space}: {percent(best)} % after {number_text(x)} {unit}"
        chart.steps(points, look.line, told)
        chart.mark(chart.x(x), chart.y(best), look.shape, f"mark {look.colour}", told)
    shown = "" if len(tasks) == len(report.plan.tasks) else f" {_not_over(report, tasks)}"
    how = "Trials of a study one after the other, in the order in which they ended; "
    return Figure(
        title=title,
        svg=chart.draw(
            "Best so far: "
            + ", ".join(f"{look.space} {percent(p[-1][1])} %" for look, p in lines.items())
        ),
        caption=f"{how}a line begins with the first complete trial and ends, at its mark, with the "
        f"last one of the search.{shown}",
    )


def _of(report: SweepReport, look: Look) -> list[StudyReport]:
    return [study for study in report.studies if study.plan.space == look.space]


def _has_best(report: SweepReport, task: str, space: str) -> bool:
    study = report.by_task_and_space.get((task, space))
    return study is not None and study.best is not None


def _is_timed(study: StudyReport) -> bool:
    complete = [trial for trial in study.finished if trial.state == "complete"]
    return all(trial.facts.get("wall_seconds", 0.0) > 0 for trial in complete)


def _mean_of_bests(studies: Sequence[StudyReport], *, timed: bool) -> list[Point]:
    """(compute per study, mean of the best scores), from where all of them have one."""
    curves = [_bests(study, timed=timed) for study in studies]
    moments = sorted({x for curve in curves for x, _ in curve})
    begin = max(curve[0][0] for curve in curves)
    points: list[Point] = []
    for moment in (moment for moment in moments if moment >= begin):
        now = fmean(max(best for x, best in curve if x <= moment) for curve in curves)
        if not points or now > points[-1][1]:
            points.append((moment, now))
    return [*points, (moments[-1], points[-1][1])]


def _bests(study: StudyReport, *, timed: bool) -> list[Point]:
    """(compute spent, best so far) wherever it gets better, and at the end."""
    costs = [
        trial.facts.get("wall_seconds", 0.0) if timed else float(len(trial.curve))
        for trial in study.finished
    ]
    points: list[Point] = []
    spent = 0.0
    for trial, spent in zip(study.finished, accumulate(costs), strict=True):
        score = trial.val_accuracy
        if trial.state != "complete" or score is None or not math.isfinite(score):
            continue
        if not points or score > points[-1][1]:
            points.append((spent, score))
    return [*points, (spent, points[-1][1])]


def _unit(seconds: float) -> tuple[str, int]:
    """Of time in workers."""
    if seconds < 90:
        return "seconds in workers", 1
    return ("minutes in workers", 60) if seconds < 90 * 60 else ("hours in workers", 3600)


def _not_over(report: SweepReport, tasks: Sequence[str]) -> str:
    return (
        f"Over the {len(tasks)} of {counted(len(report.plan.tasks), 'task')} on which each method "
        "has a complete trial."
    )
