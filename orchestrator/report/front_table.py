"""The Pareto front in words: a table over the sweep, sentences of a study, rows for programs."""

from collections.abc import Sequence
from typing import Any

from orchestrator.plan.costs import Cost
from orchestrator.record.front import Front, Point, front_of
from orchestrator.report.collect import StudyReport, SweepReport
from orchestrator.report.table import Cell, Row, Table
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import NOTHING, config_text
from orchestrator.support.uncertainty import accuracy_text

AS_GOOD = "as good for less"


def front_tables(report: SweepReport) -> list[Table]:
    """One with the front of every study; none in a sweep of one objective."""
    return [_front_table(report, report.plan.also.cost)] if report.plan.also else []


def _front_table(report: SweepReport, cost: Cost) -> Table:
    """What is also on the front of its task stands out."""
    rows, num_near = [], 0
    for task in report.plan.tasks:
        studies = [study for study in report.of_task(task.name) if study.front]
        trials = [trial for study in studies for trial in study.trials]
        of_task = {_key(point) for point in front_of(trials, task, cost).members}
        for study in studies:
            assert study.front is not None
            num_near += len(study.front.near)
            for point in study.front.members:
                is_strong = len(studies) > 1 and _key(point) in of_task
                rows.append(_row(study, study.front, point, is_strong=is_strong))
    notes = [
        "On the front of a study: complete trials that no other beats in both; val %: ± standard "
        f"error. {_AS_GOOD_MEANS}"
    ]
    if any(cell.strong for row in rows for cell in row.cells):
        notes.append("Bold: on the front of the task as well, over all its methods.")
    if cost.is_measured:
        notes.append(f"{cost.words}: measured, and a little different each time.")
    if num_near:
        notes.append(
            f"{counted(num_near, 'other complete trial')} would be on a front with a score that is "
            "one standard error higher: other validation images might put them there."
        )
    return Table(
        title=f"Pareto front: val % against {cost.words}",
        columns=["task", "method", "trial", "val %", cost.title, AS_GOOD, "configuration"],
        rows=rows,
        notes=notes,
        wordy=frozenset({"method", "configuration"}),
    )


_AS_GOOD_MEANS = (
    f"{AS_GOOD}: the cheapest of them within one standard error, whose score these validation "
    "images do not show to be worse."
)


def front_sentences(study: StudyReport) -> list[str]:
    """Where its front is, and what of it the validation images do not tell apart."""
    front, best = study.front, study.best
    if front is None or best is None or not front.points:
        return []
    costs = {point.cost for point in front.points}
    if len(costs) == 1:
        return [
            f"Pareto front: every complete trial has {_cost_text(front.cost, costs.pop())}: there "
            "is nothing to weigh up."
        ]
    on_it = f"{len(front.members)} of {counted(len(front.points), 'complete trial')}"
    found = [f"Pareto front of {study.task.objective.words} and {front.cost.words}: {on_it}."]
    top = front.members[-1]
    if (cheaper := front.as_good(top)) is None:
        found.append(
            f"No cheaper one is within one standard error of its best, #{top.trial.number} with "
            f"{_cost_text(front.cost, top.cost)}."
        )
    else:
        found.append(
            f"Within one standard error of its best, #{top.trial.number} with "
            f"{_cost_text(front.cost, top.cost)}, the cheapest is #{cheaper.trial.number}: "
            f"{_score_text(study, cheaper)} % with {_cost_text(front.cost, cheaper.cost)}."
        )
    return found


def front_rows(study: StudyReport) -> list[dict[str, Any]] | None:
    """The points of the front, the cheapest first; None in a sweep of one objective."""
    front = study.front
    if front is None:
        return None
    return [
        {
            "trial": point.trial.number,
            "val_accuracy": point.score,
            "val_standard_error": point.error,
            front.cost.name: point.cost,
            "as_good_for_less": _number(front.as_good(point)),
            "config": dict(point.trial.config),
        }
        for point in front.members
    ]


def _row(study: StudyReport, front: Front, point: Point, *, is_strong: bool) -> Row:
    as_good = _number(front.as_good(point))
    cells: Sequence[Cell] = [
        Cell(text=study.plan.task, anchor=study.anchor),
        Cell(text=study.plan.space),
        Cell(text=f"#{point.trial.number}"),
        Cell(text=_score_text(study, point), strong=is_strong),
        Cell(text=front.cost.text(point.cost)),
        Cell(text=NOTHING if as_good is None else f"#{as_good}"),
        Cell(text=config_text(study.searched(point.trial))),
    ]
    return Row(cells=cells)


def _number(point: Point | None) -> int | None:
    return None if point is None else point.trial.number


def _key(point: Point) -> tuple[str, int]:
    return point.trial.study, point.trial.number


def _score_text(study: StudyReport, point: Point) -> str:
    return accuracy_text(point.score, point.trial.val_images(study.task))


def _cost_text(cost: Cost, value: float) -> str:
    """`1,290 trained parameters`, `0.21 ms training time per image`."""
    return " ".join(part for part in (cost.text(value), cost.unit, cost.words) if part)
