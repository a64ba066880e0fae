"""The two averages in circulation, over tasks and over groups, and which tasks they cover.

Published tables print one or the other (VPT-Deep: 69.4 over 19 tasks, 72.0 over 3 groups), so both
are given, and one over an incomplete suite always says so.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.data.suites import PUBLISHED_SUITES
from orchestrator.plan.plan import SweepPlan
from orchestrator.report.collect import StudyReport, SweepReport
from orchestrator.report.published import (
    DAGGER,
    PUBLISHED_METRIC,
    PublishedResult,
    published,
    published_method,
)
from orchestrator.report.wording import percent

PRINTED_MEANS = {
    "natural": "mean_natural7",
    "specialized": "mean_specialized4",
    "structured": "mean_structured8",
}


@dataclass(frozen=True, kw_only=True)
class Average:
    """A mean, and of how many of the tasks it should cover it is one."""

    value: float
    num_tasks: int
    num_expected: int
    doubtful: bool = False
    """Whether a number in it is one that should not be leaned on."""

    @property
    def complete(self) -> bool:
        return self.num_tasks == self.num_expected

    def __str__(self) -> str:
        """`71.2`, or `68.0 [3/19]` when tasks are missing; with a dagger where it is doubtful."""
        missing = "" if self.complete else f" [{self.num_tasks}/{self.num_expected}]"
        return percent(self.value) + (DAGGER if self.doubtful else "") + missing


def expected_tasks(plan: SweepPlan) -> Mapping[str, str]:
    """Group by task, of the whole suite that the tasks of the plan belong to."""
    planned = {task.name: task.group for task in plan.tasks}
    for suite in PUBLISHED_SUITES.values():
        if planned.keys() <= suite.tasks.keys():
            return {task.name: task.group for task in suite.tasks.values()}
    return planned


def mean_over_tasks(
    values: Mapping[str, float], expected: Mapping[str, str], group: str | None = None
) -> Average | None:
    """The mean of all tasks, or of those of one group."""
    wanted = [task for task, its in expected.items() if group in (None, its)]
    found = [values[task] for task in wanted if task in values]
    if not found:
        return None
    return Average(value=statistics.fmean(found), num_tasks=len(found), num_expected=len(wanted))


def mean_over_groups(values: Mapping[str, float], expected: Mapping[str, str]) -> Average | None:
    """The mean of the means of the groups; None where there is only one group."""
    groups = list(dict.fromkeys(expected.values()))
    means = [mean_over_tasks(values, expected, group) for group in groups]
    known = [mean for mean in means if mean is not None]
    if len(groups) < 2 or not known:
        return None
    return Average(
        value=statistics.fmean(mean.value for mean in known),
        num_tasks=sum(mean.num_tasks for mean in known),
        num_expected=len(expected),
    )


@dataclass(frozen=True, kw_only=True)
class MethodColumn:
    """One kind of number (val, test or published) of one space, for every task."""

    space: str
    values: Mapping[str, float]
    expected: Mapping[str, str]
    printed: Mapping[str, PublishedResult] = field(default_factory=dict)
    """Means as a paper printed them, used where its numbers per task are not known."""
    doubtful: frozenset[str] = frozenset()
    """Tasks whose number should not be leaned on."""

    def over_tasks(self, group: str | None = None) -> Average | None:
        found = mean_over_tasks(self.values, self.expected, group)
        wanted = [task for task, its in self.expected.items() if group in (None, its)]
        if found:
            return replace(found, doubtful=bool(self.doubtful & {*wanted}))
        key = f"mean_{len(wanted)}tasks" if group is None else PRINTED_MEANS.get(group)
        return self._printed(len(wanted), key)

    def over_groups(self) -> Average | None:
        found = mean_over_groups(self.values, self.expected)
        if found:
            return replace(found, doubtful=bool(self.doubtful))
        if len(set(self.expected.values())) < 2:
            return None
        each_group = self._printed(len(self.expected), *PRINTED_MEANS.values())
        return each_group or self._printed(len(self.expected), "mean_3groups")

    @property
    def told_as_printed(self) -> list[PublishedResult]:
        """The means of papers that stand in for numbers of tasks."""
        without = {*self.expected.values()} - {self.expected[task] for task in self.values}
        keys = [PRINTED_MEANS[group] for group in PRINTED_MEANS if group in without]
        if not self.values:
            keys += [f"mean_{len(self.expected)}tasks", *(["mean_3groups"] if keys else [])]
        return [self.printed[key] for key in keys if key in self.printed]

    def _printed(self, num_tasks: int, *keys: str | None) -> Average | None:
        """The mean of what stands under these keys, if all of them are known."""
        found = [self.printed[key] for key in keys if key and key in self.printed]
        if len(found) < len(keys):
            return None
        return Average(
            value=statistics.fmean(row.accuracy for row in found),
            num_tasks=num_tasks,
            num_expected=num_tasks,
            doubtful=any(row.doubt for row in found),
        )


def val_column(report: SweepReport, space: str) -> MethodColumn:
    """Best accuracies on val."""
    return _column(report, space, lambda study: study.val_accuracy)


def test_column(report: SweepReport, space: str) -> MethodColumn:
    """Means over seeds on test."""
    return _column(report, space, lambda study: study.test_accuracy)


def published_column(report: SweepReport, space: str) -> MethodColumn:
    """What papers report, on the tasks of this sweep; their printed means for a whole suite."""
    column = _column(report, space, lambda study: study.published and study.published.accuracy)
    of_space = [study for study in report.studies if study.plan.space == space]
    doubtful = {s.plan.task for s in of_space if s.published and s.published.doubt}
    column = replace(column, doubtful=frozenset(doubtful))
    tasks = {task.name for task in report.plan.tasks}
    others = [task for task in report.plan.tasks if task.metric != PUBLISHED_METRIC]
    if isinstance(report.published_as, str) or tasks != column.expected.keys() or others:
        return column
    method = published_method(report.plan.parsed_spaces[space])
    keys = (*PRINTED_MEANS.values(), f"mean_{len(column.expected)}tasks", "mean_3groups")
    rows = {key: published(method, *report.published_as, key) for key in keys} if method else {}
    return replace(column, printed={key: row for key, row in rows.items() if row})


def has_published(column: MethodColumn) -> bool:
    """Whether anything is known: a number of a task, or a mean over the suite."""
    return bool(column.values or column.printed)


def wins(report: SweepReport, space: str, column: Callable[..., MethodColumn]) -> str | None:
    """`19 of 24`: tasks on which a space is better than full fine-tuning in the same sweep."""
    full = [s for s in report.spaces if report.plan.parsed_spaces[s].method == "full"]
    if not full or space == full[0]:
        return None
    ours, theirs = column(report, space).values, column(report, full[0]).values
    common = ours.keys() & theirs.keys()
    if not common:
        return None
    return f"{sum(ours[task] > theirs[task] for task in common)} of {len(common)}"


def _column(
    report: SweepReport, space: str, value: Callable[[StudyReport], float | None]
) -> MethodColumn:
    studies = (study for study in report.studies if study.plan.space == space)
    found = {study.plan.task: value(study) for study in studies}
    return MethodColumn(
        space=space,
        values={task: number for task, number in found.items() if number is not None},
        expected=expected_tasks(report.plan),
    )
