"""Where the time of a whole sweep went, drawn."""

import math
from collections.abc import Sequence
from itertools import pairwise

from orchestrator.report.collect import TIME_PARTS, SweepReport
from orchestrator.report.figure import Figure
from orchestrator.report.svg import TOP, WIDTH, Chart, LinearScale, across, clipped, upward
from orchestrator.report.wording import duration_text


def time_figures(report: SweepReport) -> list[Figure]:
    """How many trials were in work, and what their time went into."""
    return [slots_over_time(report), time_by_study(report)]


def slots_over_time(report: SweepReport) -> Figure:
    """How many trials were in work, from the first start to the last end."""
    title = "Trials in work over time"
    if not report.num_slots or not report.busy[-1][0]:
        return Figure(title=title, svg=None, caption="Not shown, no trial has ended yet.")
    end = report.busy[-1][0]
    unit, seconds = ("hours", 3600) if end > 2 * 3600 else ("minutes", 60)
    points = [(moment / seconds, running) for moment, running in _averaged(report.busy, end)]
    chart = Chart(
        LinearScale(0, end / seconds, *across(2 * WIDTH)),
        LinearScale(0, report.num_slots, *upward()),
        f"{unit} since the first start",
        "trials",
        width=2 * WIDTH,
    )
    chart.steps(points, "complete")
    idle = report.idle_share
    return Figure(
        title=title,
        svg=chart.draw(f"Trials in work over {duration_text(end)}"),
        caption=f"{duration_text(end)} from first start to last end, at most {report.num_slots} "
        f"at once; idle {100 * (idle or 0):.0f} % of the time of so many places "
        "(a pause before a resume counts as work of the trials that were interrupted).",
    )


def time_by_study(report: SweepReport) -> Figure:
    """Setup, training, validation and the rest, per study."""
    title = "Time in workers by study"
    totals = {study.name: sum(study.seconds.values()) for study in report.studies}
    longest = max(totals.values(), default=0.0)
    if not longest:
        return Figure(title=title, svg=None, caption="Not shown, no trial told its times.")
    left, row = 210, 16
    height = TOP + 20 + row * len(report.studies)
    scale = LinearScale(0, longest, left, 2 * WIDTH - 60)
    chart = Chart(scale, scale, "", "", width=2 * WIDTH, height=height)
    x = left
    for part in TIME_PARTS:
        chart.bar_at(x, TOP, 10, 10, f"time-{part}")
        chart.label(x + 14, TOP + 9, part, "tick")
        x += 70
    for index, study in enumerate(report.studies):
        x, y = float(left), TOP + 20 + row * index
        chart.label(left - 6, y + 10, clipped(study.name, 34), "tick", "end")
        for part in TIME_PARTS:
            seconds = study.seconds[part]
            width = scale(seconds) - left
            if width >= 0.1:
                name = f"{study.name}: {part} {duration_text(seconds)}"
                chart.bar_at(x, y, width, row - 4, f"time-{part}", name)
            x += width
        chart.label(x + 5, y + 10, duration_text(totals[study.name]), "tick")
    return Figure(
        title=title,
        svg=chart.draw(
            f"Time in workers by study, {duration_text(sum(totals.values()))} together", axes=False
        ),
        caption="Time in workers. setup: model, images, prototypes; other: between these.",
    )


def _averaged(
    steps: Sequence[tuple[float, int]], end: float, most: int = 200
) -> list[tuple[float, float]]:
    """Means over stretches of equal length when there are more steps than one can see."""
    if len(steps) <= most:
        return list(steps)
    length = end / most
    means = [0.0] * most
    for (start, running), (stop, _) in pairwise(steps):
        for index in range(int(start / length), min(most, math.ceil(stop / length))):
            inside = min(stop, (index + 1) * length) - max(start, index * length)
            means[index] += running * inside / length
    return [*((index * length, mean) for index, mean in enumerate(means)), (end, 0.0)]
