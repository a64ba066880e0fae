"""Score against cost: what is complete, the Pareto front, and how sure it is."""

from orchestrator.record.front import Front, Point
from orchestrator.report.collect import StudyReport
from orchestrator.report.figure import Figure
from orchestrator.report.svg import Chart, LinearScale, LogScale, across, score_scale, upward
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import config_text
from orchestrator.support.uncertainty import accuracy_text

LOG_FROM = 10
"""Costs that differ so many times are put on a logarithmic axis."""
ROOM = 1.2
"""So many times further than its values such an axis goes on both sides."""


def front_figure(front: Front, study: StudyReport) -> Figure:
    """The complete trials of a study; a bar on the front is one standard error up and down."""
    objective, cost = study.task.objective, front.cost
    title = f"{objective.words[:1].upper()}{objective.words[1:]} against {cost.words}"
    if not front.points:
        return Figure(title=title, svg=None, caption="No trial is complete yet.")
    values = [cost.shown(point.cost) for point in front.points]
    low, high = min(values), max(values)
    if low == high:
        same = f"Not shown, all complete trials cost the same: {cost.text(front.points[0].cost)}."
        return Figure(title=title, svg=None, caption=same)
    is_wide = low > 0 and high / low > LOG_FROM
    if is_wide:
        x = LogScale(low / ROOM, high * ROOM, *across())
    else:
        room = 0.05 * (high - low)
        x = LinearScale(max(0.0, low - room), high + room, *across())
    ends = [end for one in front.members for end in (one.score - one.error, one.score + one.error)]
    y = score_scale([*(point.score for point in front.points), *ends], *upward())
    axis = f"{cost.title}, logarithmic" if is_wide else cost.title
    chart = Chart(x, y, axis, f"val {objective.words}, %")
    corners = [(cost.shown(point.cost), point.score) for point in front.members]
    chart.steps([*corners, (x.high, corners[-1][1])], "best", "Pareto front")
    for point in front.members:
        at, top = x(cost.shown(point.cost)), y(point.score + point.error)
        chart.bar_at(at - 0.75, top, 1.5, y(point.score - point.error) - top, "error s1")
    on_front = set(map(id, front.members))
    for point in sorted(front.points, key=lambda point: id(point) in on_front):
        kind = "front" if id(point) in on_front else "complete"
        kind = "best" if point.trial is study.best else kind
        chart.dot(cost.shown(point.cost), point.score, kind, _name(front, point, study))
    told = f"{counted(len(front.members), 'trial')} of {len(front.points)} on the front"
    return Figure(
        title=title,
        svg=chart.draw(f"{title}: {told}"),
        caption=f"{told}, orange: no other is as cheap and better, or as good and cheaper. "
        "Bars: one standard error, for the finite number of validation images.",
    )


def _name(front: Front, point: Point, study: StudyReport) -> str:
    score = accuracy_text(point.score, point.trial.val_images(study.task))
    return (
        f"#{point.trial.number} {score} %, {front.cost.words} {front.cost.text(point.cost)} "
        f"{front.cost.unit}".rstrip()
        + f": {config_text(study.searched(point.trial))}"
    )
