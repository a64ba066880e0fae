"""The score of each method on each task, how sure it is, and what was published."""

from dataclasses import dataclass

from orchestrator.report.collect import StudyReport, SweepReport
from orchestrator.report.figure import Figure
from orchestrator.report.method_looks import looks
from orchestrator.report.metric_names import score_words
from orchestrator.report.svg import Chart, clipped, score_scale
from orchestrator.report.wording import percent
from orchestrator.support.counted import counted

WIDTH = 440
NAMES_WIDTH = 118
"""Where the names of the tasks stand."""
TOP, BOTTOM = 8, 36


def scores_by_task(report: SweepReport) -> Figure:
    """The score of each method on each task with its 95 % interval, beside published ones."""
    kind = "Test" if report.has_final else "Validation"
    title = f"{kind} {score_words(report.plan)} of each method"
    rows = {
        task.name: [(look, _score(report, task.name, look.space)) for look in looks(report)]
        for task in report.plan.tasks
    }
    known = [score for row in rows.values() for _, score in row if score]
    if not known:
        return Figure(title=title, svg=None, caption="Not shown yet: no trial is complete.")
    published = {study.name: study.published for study in report.studies if study.published}
    ends = [end for score in known for end in (*score.interval, score.value)]
    ends += [each.accuracy for each in published.values()]
    pitch = 9 if len(report.spaces) < 5 else 7
    height_of_row = pitch * (len(report.spaces) - 1) + 20
    height = TOP + height_of_row * len(rows) + BOTTOM
    scale = score_scale(ends, NAMES_WIDTH, WIDTH - 14)
    bottom = height - BOTTOM
    chart = Chart(scale, scale, "", "", width=WIDTH, height=height)
    for value, name in scale.ticks():
        chart.rule((scale(value), TOP), (scale(value), bottom))
        chart.label(scale(value), bottom + 15, name, "tick", "middle")
    for index, (task, row) in enumerate(rows.items()):
        top = TOP + height_of_row * index
        chart.label(NAMES_WIDTH - 8, top + height_of_row / 2 + 4, clipped(task, 18), "tick", "end")
        if index:
            chart.rule((4, top), (WIDTH - 14, top))
        for place, (look, score) in enumerate(row):
            y = top + 10 + pitch * place
            printed = published.get(f"{task}.{look.space}")
            if printed:
                told = f"{task}.{look.space}: published test {percent(printed.accuracy)} %"
                x = scale(printed.accuracy)
                chart.mark(x, y, look.shape, f"mark hollow {look.colour}", told)
            if score is None:
                continue
            low, high = (scale(end) for end in score.interval)
            chart.bar_at(low, y - 0.75, high - low, 1.5, f"error {look.colour}")
            told = f"{task}.{look.space}: {score.text} %"
            chart.mark(scale(score.value), y, look.shape, f"mark {look.colour}", told)
    missing = [study.name for study in report.studies if _score_of(report, study) is None]
    chart.label(
        (NAMES_WIDTH + WIDTH) / 2, height - 5, f"{score_words(report.plan)}, %", "axis", "middle"
    )
    return Figure(
        title=title,
        svg=chart.draw(f"{title} on {counted(len(rows), 'task')}, in numbers below", axes=False),
        caption=_scores_caption(report, is_beside=bool(published), num_missing=len(missing)),
    )


@dataclass(frozen=True, kw_only=True)
class _Score:
    value: float
    interval: tuple[float, float]
    """95 %; without width where the number of images is not known."""
    text: str


def _score(report: SweepReport, task: str, space: str) -> _Score | None:
    study = report.by_task_and_space.get((task, space))
    return None if study is None else _score_of(report, study)


def _score_of(report: SweepReport, study: StudyReport) -> _Score | None:
    """On test images if the sweep has test numbers, else on validation images."""
    value = study.test_accuracy if report.has_final else study.val_accuracy
    if value is None:
        return None
    ends = study.test_interval if report.has_final else study.val_interval
    text = study.test_text if report.has_final else study.val_text
    return _Score(value=value, interval=ends or (value, value), text=text)


def _scores_caption(report: SweepReport, *, is_beside: bool, num_missing: int) -> str:
    parts = []
    if report.has_final:
        parts.append("Mean over seeds, with the 95 % interval for seeds and images.")
    else:
        parts.append(
            "The best trial of each study on validation images, with the 95 % interval for their "
            "number; the best of many flatters. Test numbers come from `orchestrator finalize`."
        )
    if is_beside:
        images = "" if report.has_final else ", which are on test images,"
        parts.append(f"Hollow: published numbers{images} of the same method.")
    if num_missing:
        lack = "test number" if report.has_final else "complete trial"
        parts.append(f"{counted(num_missing, 'study')} without a {lack} not shown.")
    return " ".join(parts)
