"""The tables of a report, before anybody decides how they look."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.report.averages import (
    MethodColumn,
    expected_tasks,
    has_published,
    published_column,
    test_column,
    val_column,
    wins,
)
from orchestrator.report.collect import StudyReport, SweepReport
from orchestrator.report.convergence import convergence
from orchestrator.report.metric_names import (
    is_told,
    notes_on_absent_classes,
    notes_on_metrics,
    score_words,
    task_text,
)
from orchestrator.report.prompts_vs_baselines import BASELINES, prompts_against
from orchestrator.report.published import DAGGER, PUBLISHED_METRIC
from orchestrator.report.tested import notes_on_test
from orchestrator.report.wording import percent
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import NOTHING, config_text
from orchestrator.support.uncertainty import CLEAR, EXPLAINED, accuracy_text

INCOMPLETE = "[k/n]: mean over k of n tasks only, not comparable with a mean over all."
MAJORITY = "majority %: what always answering the most frequent class of these images gives."


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What stands in a cell."""

    text: str
    strong: bool = False
    anchor: str | None = None
    """Where on the page more is said."""
    value: float | None = None
    """What it is sorted by, where its text does not begin with that number."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Cells from left to right."""

    cells: Sequence[Cell]
    summary: bool = False
    """An average of the rows above."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A title, columns (the first to the left, numbers to the right), rows, notes."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    wordy: frozenset[str] = field(default_factory=frozenset)
    """Columns that hold words, not numbers."""


def result_tables(report: SweepReport) -> list[Table]:
    """All tables with results, in the order in which they are read."""
    tables = [best_table(report), method_table(report), val_table(report)]
    if report.has_final or any(_any_published(report, space) for space in report.spaces):
        tables.append(test_table(report))
    return tables


def best_table(report: SweepReport) -> Table:
    """The best configuration of every task."""
    against = [
        (method, f"prompts − {method}")
        for method in BASELINES
        if any(prompts_against(report, task.name, method) for task in report.plan.tasks)
    ]
    numbers = _number_columns(report)
    with_metric = is_told(report.plan)
    rows = []
    for task in report.plan.tasks:
        study = report.best_of_task(task.name)
        if study is None or study.chosen is None:
            blanks = [NOTHING] * (4 + with_metric + len(numbers) + len(against))
            rows.append(Row(cells=[Cell(text=task.name), *(Cell(text=text) for text in blanks)]))
            continue
        differences = []
        for method, _ in against:
            found = prompts_against(report, task.name, method)
            text = f"{found} {found.verdict}" if found else NOTHING
            if found and report.has_final and found.images == "validation":
                text += " on val"
            differences.append(Cell(text=text, strong=bool(found and found.verdict == "better")))
        rows.append(
            Row(
                cells=[
                    Cell(text=task.name, anchor=study.anchor),
                    Cell(text=study.plan.space),
                    *([Cell(text=task.metric)] if with_metric else []),
                    *(_best_number(report, study, name) for name in numbers),
                    Cell(text=config_text(study.searched(study.chosen))),
                    Cell(text=f"#{study.chosen.number}"),
                    Cell(text=convergence(study).short),
                    *differences,
                ]
            )
        )
    notes = [f"val %: this trial on validation images ± its standard error. {EXPLAINED}"]
    if any(name.endswith("majority %") for name in numbers):
        notes.append(MAJORITY)
    if report.has_final:
        notes.append(
            "Method and trial as finalize chose them, by folds of all labelled images where it was "
            "run, never by test accuracy."
        )
        notes += notes_on_test(report.studies)
    notes += [*notes_on_metrics(report.plan), *notes_on_absent_classes(report.studies)]
    if against:
        images, how = _JUDGED_ON[report.has_final]
        more = ", from more where there are few seeds" if report.has_final else ""
        notes.append(
            "prompts − linear, − full: best prompt method minus the baseline, in points, ± "
            f"standard error; from {CLEAR:.0f} of them on it counts{more}. On {images} images, "
            f"{how}."
        )
    return Table(
        title="Best configuration of each task",
        columns=[
            *("task", "method", *(["metric"] if with_metric else []), *numbers),
            *("configuration", "trial", "converged"),
            *(name for _, name in against),
        ],
        rows=rows,
        notes=notes,
        wordy=frozenset({"method", "metric", "configuration", "converged"}),
    )


def _number_columns(report: SweepReport) -> list[str]:
    """Accuracies, each beside the share of the most frequent class where that is known."""
    finals = [study.final for study in report.studies if study.final]
    return [
        "val %",
        *(["val majority %"] if any(task.val_majority for task in report.plan.tasks) else []),
        *(["test %"] if report.has_final else []),
        *(["test majority %"] if any(final.test_majority for final in finals) else []),
    ]


def _best_number(report: SweepReport, study: StudyReport, column: str) -> Cell:
    assert study.chosen is not None
    match column:
        case "val %":
            images = study.chosen.val_images(study.task)
            text = accuracy_text(study.chosen.val_accuracy or 0.0, images)
            return Cell(text=text, strong=not report.has_final)
        case "test %":
            return Cell(text=study.test_text, strong=True)
        case "val majority %":
            return Cell(text=percent(study.task.val_majority_share))
    return Cell(text=percent(study.final.test_majority_share if study.final else None))


_JUDGED_ON = {
    False: ("validation", "as if on different ones for each side: on the same the error is less"),
    True: (
        "test",
        "by seed, for seeds and images; where one side was not finalized, on validation images",
    ),
}


def method_table(report: SweepReport) -> Table:
    """Both averages of every method, its cost, and its wins."""
    kinds = [("val", val_column)]
    if report.has_final:
        kinds.append(("test", test_column))
    is_beside = any(_any_published(report, space) for space in report.spaces)
    columns = ["method", *(f"{kind} mean of {what}" for kind, _ in kinds for what in _BOTH)]
    if is_beside:
        columns += [f"published test mean of {what}" for what in _BOTH]
    columns += ["tuned % of backbone", *(f"{kind} wins against full" for kind, _ in kinds)]
    columns += ["complete", "pruned", "failed"]
    rows = []
    for space in report.spaces:
        cells = [space]
        for _, column in kinds:
            cells += _both(column(report, space))
        if is_beside:
            cells += _both(published_column(report, space))
        studies = [study for study in report.studies if study.plan.space == space]
        shares = [study.tuned_share for study in studies if study.tuned_share is not None]
        tuned = f"{100 * sum(shares) / len(shares):.3g}" if shares else NOTHING
        cells += [tuned, *(wins(report, space, column) or NOTHING for _, column in kinds)]
        states = ("complete", "pruned", "failed")
        cells += [str(sum(study.states[state] for study in studies)) for state in states]
        rows.append(Row(cells=[Cell(text=text) for text in cells]))
    notes = [
        "tuned %: trained parameters of the best trials, head included, in percent of the "
        "backbone's, mean over tasks."
    ]
    if isinstance(report.published_as, str):
        notes.append(f"Nothing published to compare with: {report.published_as}.")
    told = [
        index
        for index in range(len(columns))
        if any(row.cells[index].text != NOTHING for row in rows)
    ]
    notes += notes_on_metrics(report.plan)
    return Table(
        title="Methods",
        columns=[columns[index] for index in told],
        rows=[Row(cells=[row.cells[index] for index in told]) for row in rows],
        notes=_labelled(notes, rows),
    )


def val_table(report: SweepReport) -> Table:
    """Best validation accuracies, a column per space."""
    known_shares = {task.name: task.val_majority_share for task in report.plan.tasks}
    shares = {task: share for task, share in known_shares.items() if share is not None}
    rows = []
    for task in report.plan.tasks:
        known = [s.val_accuracy for s in report.of_task(task.name) if s.val_accuracy is not None]
        cells = [Cell(text=task_text(report.plan, task))]
        for space in report.spaces:
            study = report.by_task_and_space.get((task.name, space))
            if study is None or study.val_accuracy is None:
                cells.append(Cell(text=NOTHING, anchor=study.anchor if study else None))
                continue
            text = study.val_text
            strong = study.val_accuracy == max(known)
            cells.append(Cell(text=text, strong=strong, anchor=study.anchor))
        rows.append(Row(cells=[*cells, *_share_cells(shares, task.name)]))
    columns = [val_column(report, space) for space in report.spaces]
    rows += _average_rows(report, [*columns, *_share_columns(report, shares)])
    num_val = sorted({task.num_val for task in report.plan.tasks})
    images = " to ".join(str(n) for n in dict.fromkeys((num_val[0], num_val[-1])))
    # Where every class counts alike, what an image is worth depends on its class.
    worth = f" (one image of {num_val[0]} is {100 / num_val[0]:.2g} points)"
    notes = [
        f"Best complete trial on {images} validation images{'' if is_told(report.plan) else worth} "
        "± its standard error. The best of many trials flatters: "
        f"these are not test numbers. {EXPLAINED}",
        *([MAJORITY] if shares else []),
        *notes_on_metrics(report.plan),
    ]
    return Table(
        title=f"Validation {score_words(report.plan)}, %",
        columns=["task", *report.spaces, *(["majority %"] if shares else [])],
        rows=rows,
        notes=_labelled(notes, rows),
    )


def test_table(report: SweepReport) -> Table:
    """Test accuracies of this sweep, if it was finalized, beside the published ones."""
    columns, sources = ["task"], []
    for space in report.spaces:
        if report.has_final:
            columns.append(f"{space} test")
            sources.append(test_column(report, space))
        if _any_published(report, space):
            columns.append(f"{space} published test")
            sources.append(published_column(report, space))
    shares = _test_majorities(report)
    if shares:
        columns.append("majority %")
    rows = [
        Row(
            cells=[
                Cell(text=task_text(report.plan, task)),
                *_test_cells(report, task.name),
                *_share_cells(shares, task.name),
            ]
        )
        for task in report.plan.tasks
    ]
    rows += _average_rows(report, [*sources, *_share_columns(report, shares)])
    notes = []
    if report.has_final:
        notes.append(
            "test: mean ± standard deviation over seeds, retrained on train and val, after the "
            f"last epoch. {EXPLAINED}"
        )
        if shares:
            notes.append(MAJORITY)
        notes += notes_on_test(report.studies)
    else:
        notes.append("This sweep has no test numbers yet: orchestrator finalize makes them.")
    notes += [*_published_notes(report), *notes_on_metrics(report.plan)]
    words = score_words(report.plan)
    return Table(
        title=f"Test {words}, %" if report.has_final else "Published test accuracy, %",
        columns=columns,
        rows=rows,
        notes=_labelled(notes, rows),
    )


def _test_majorities(report: SweepReport) -> dict[str, float]:
    """By task, of those that were finalized."""
    shares = {s.plan.task: s.final.test_majority_share for s in report.studies if s.final}
    return {task: share for task, share in shares.items() if share is not None}


def _share_cells(shares: Mapping[str, float], task: str) -> list[Cell]:
    return [Cell(text=percent(shares.get(task)))] if shares else []


def _share_columns(report: SweepReport, shares: Mapping[str, float]) -> list[MethodColumn]:
    expected = expected_tasks(report.plan)
    return [MethodColumn(space="", values=shares, expected=expected)] if shares else []


_BOTH = ("tasks", "groups")


def _both(column: MethodColumn) -> list[str]:
    return [str(mean or NOTHING) for mean in (column.over_tasks(), column.over_groups())]


def _any_published(report: SweepReport, space: str) -> bool:
    return has_published(published_column(report, space))


def _test_cells(report: SweepReport, task: str) -> Iterator[Cell]:
    for space in report.spaces:
        study = report.by_task_and_space.get((task, space))
        if report.has_final:
            yield Cell(text=_test_text(report, study) if study else NOTHING)
        if _any_published(report, space):
            yield Cell(text=_published_text(study))


def _test_text(report: SweepReport, study: StudyReport) -> str:
    """With the number of seeds where it is not that of the others."""
    seeds = [len(s.final.test_accuracies) for s in report.studies if s.final]
    own = len(study.final.test_accuracies) if study.final else 0
    text = study.test_text
    return f"{text} ({counted(own, 'seed')})" if 0 < own < max(seeds) else text


def _published_text(study: StudyReport | None) -> str:
    if study is None or study.published is None:
        return NOTHING
    return percent(study.published.accuracy) + (DAGGER if study.published.doubt else "")


def _published_notes(report: SweepReport) -> Iterator[str]:
    if isinstance(report.published_as, str):
        return
    yield f"published: {' '.join(report.published_as)}, test images, as printed by their authors."
    known = [study.published for study in report.studies if study.published]
    for space in report.spaces:
        rows = [s.published for s in report.studies if s.plan.space == space and s.published]
        rows += published_column(report, space).told_as_printed
        for source in dict.fromkeys(row.source for row in rows):
            yield f"{space}: {source}."
        for doubt in dict.fromkeys(row.doubt for row in rows if row.doubt):
            yield f"{DAGGER} {space}: {doubt}."
    unlike = [task for task in report.plan.tasks if _is_unlike(report, task.name)]
    others = [task.name for task in unlike if task.metric != PUBLISHED_METRIC]
    unofficial = [task.name for task in unlike if task.metric == PUBLISHED_METRIC]
    if others:
        yield f"Not in the metric of the papers, top-1 accuracy: {', '.join(others)}."
    if known and unofficial:
        yield f"Not the classes that papers report on: {', '.join(unofficial)}."


def _is_unlike(report: SweepReport, task: str) -> bool:
    return not any(study.published for study in report.of_task(task))


def _average_rows(report: SweepReport, columns: Sequence[MethodColumn]) -> list[Row]:
    groups = list(dict.fromkeys(expected_tasks(report.plan).values()))
    rows = []
    if len(groups) > 1:
        for group in groups:
            means = [column.over_tasks(group) for column in columns]
            if any(means):
                rows.append(_average_row(f"mean of {group or 'other'} tasks", means))
    rows.append(_average_row("mean of tasks", [column.over_tasks() for column in columns]))
    if len(groups) > 1:
        rows.append(_average_row("mean of groups", [column.over_groups() for column in columns]))
    return rows


def _average_row(name: str, means: Sequence[object]) -> Row:
    return Row(
        cells=[Cell(text=name), *(Cell(text=str(mean or NOTHING)) for mean in means)], summary=True
    )


def _labelled(notes: list[str], rows: Sequence[Row]) -> list[str]:
    if any("/" in cell.text and "[" in cell.text for row in rows for cell in row.cells[1:]):
        return [*notes, INCOMPLETE]
    return notes
