"""Two sweeps, study by study: what changed in the results, and what differed in the making."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.plan.plan import SweepPlan
from orchestrator.report.collect import StudyReport, SweepReport
from orchestrator.report.difference import (
    Difference,
    mean_difference,
    test_difference,
    val_difference,
)
from orchestrator.report.metric_names import notes_on_metrics
from orchestrator.report.table import MAJORITY, Cell, Row, Table
from orchestrator.report.tested import notes_on_test
from orchestrator.report.wording import percent
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import NOTHING
from orchestrator.support.uncertainty import CLEAR, EXPLAINED
from orchestrator.training.objective import DEFAULT_METRIC

NOT_COMPARED = {
    "": {"name", "created", "studies", "data_root", "split", "split_seed"},
    "backbone": {"weights", "part", "num_heads", "activation", "norm_eps"}
    | {"assumed", "normalised_by", "architecture", "arguments", "revision"},
    "tasks": {"name", "root", "val_majority", "class_names"}
    | {"val_baseline", "val_effective_images"},
}
"""By section of a plan: what names a sweep, says where files lie, or is not in older plans; hashes
of images and weights, which cover splits and the network, say what was in them."""


@dataclass(frozen=True, kw_only=True)
class StudyPair:
    """The same space on the same task in both sweeps."""

    first: StudyReport
    second: StudyReport

    @property
    def same_images(self) -> bool:
        return self.first.task.fingerprint == self.second.task.fingerprint

    @property
    def same_metric(self) -> bool:
        return self.first.task.metric == self.second.task.metric

    @cached_property
    def val(self) -> Difference | None:
        """Second minus first."""
        return val_difference(self.second, self.first)

    @cached_property
    def test(self) -> Difference | None:
        """Second minus first."""
        return test_difference(self.second, self.first)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something that was not the same in both sweeps."""

    kind: str
    """data, versions or configuration."""
    name: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two sweeps beside each other."""

    first: SweepReport
    second: SweepReport
    pairs: Sequence[StudyPair]
    only_first: Sequence[str]
    """Names of studies that the other sweep does not have."""
    only_second: Sequence[str]
    changes: Sequence[Change]

    @property
    def names(self) -> tuple[str, str]:
        """The names of the sweeps, or `first` and `second` where they are called alike."""
        names = self.first.plan.name, self.second.plan.name
        return ("first", "second") if names[0] == names[1] else names


def compare(first: SweepReport, second: SweepReport) -> Comparison:
    """Studies are the same if task and space have the same names; spaces are then compared too."""
    before, after = first.by_task_and_space, second.by_task_and_space
    return Comparison(
        first=first,
        second=second,
        pairs=[
            StudyPair(first=study, second=after[key])
            for key, study in before.items()
            if key in after
        ],
        only_first=[study.name for key, study in before.items() if key not in after],
        only_second=[study.name for key, study in after.items() if key not in before],
        changes=_changes(first.plan, second.plan),
    )


def comparison_sentences(comparison: Comparison) -> list[str]:
    """The comparison in a few sentences."""
    verdicts = [pair.val.verdict for pair in comparison.pairs if pair.val]
    names = comparison.names
    found = [
        f"{names[1]} against {names[0]}, on validation "
        f"images: better on {verdicts.count('better')}, worse on {verdicts.count('worse')}, "
        f"unclear on {verdicts.count('unclear')} of {counted(len(verdicts), 'study')} that both "
        "have finished trials of."
        if verdicts
        else "There is no study of which both have finished trials."
    ]
    for name, studies in zip(names, (comparison.only_first, comparison.only_second), strict=True):
        if studies:
            found.append(f"Only in {name}: {', '.join(studies)}.")
    kinds = dict.fromkeys(change.kind for change in comparison.changes)
    if kinds:
        found.append(f"They differ in {', '.join(kinds)}, listed below.")
    else:
        found.append("Same configuration, data and versions.")
    measured = [pair.first.plan.task for pair in comparison.pairs if not pair.same_metric]
    if measured:
        tasks = ", ".join(dict.fromkeys(measured))
        found.append(f"Not by the same metric, so there is no difference to tell: {tasks}.")
    unlike = [pair.first.plan.task for pair in comparison.pairs if not pair.same_images]
    if unlike:
        tasks = ", ".join(dict.fromkeys(unlike))
        found.append(f"Not the same images, so a difference may be the data's: {tasks}.")
    return found


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Results side by side, then what differed."""
    tables = [_result_table(comparison)] if comparison.pairs else []
    return tables + ([_change_table(comparison)] if comparison.changes else [])


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per pair of studies; accuracies in [0, 1]."""
    return [
        {
            "task": pair.first.plan.task,
            "space": pair.first.plan.space,
            "same_images": pair.same_images,
            "first_metric": pair.first.task.metric,
            "second_metric": pair.second.task.metric,
            "first_val_accuracy": pair.first.val_accuracy,
            "second_val_accuracy": pair.second.val_accuracy,
            "first_val_majority_share": pair.first.task.val_majority_share,
            "second_val_majority_share": pair.second.task.val_majority_share,
            "val_difference": pair.val.value if pair.val else None,
            "val_difference_error": pair.val.error if pair.val else None,
            "val_counts_from": pair.val.counts_from if pair.val else None,
            "val_verdict": pair.val.verdict if pair.val else None,
            "first_test_accuracy": pair.first.test_accuracy,
            "second_test_accuracy": pair.second.test_accuracy,
            "first_test_openings": pair.first.final.num_openings if pair.first.final else 0,
            "second_test_openings": pair.second.final.num_openings if pair.second.final else 0,
            "test_difference": pair.test.value if pair.test else None,
            "test_difference_error": pair.test.error if pair.test else None,
            "test_counts_from": pair.test.counts_from if pair.test else None,
            "test_verdict": pair.test.verdict if pair.test else None,
        }
        for pair in comparison.pairs
    ]


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "first": comparison.first.plan.name,
        "second": comparison.second.plan.name,
        "studies": comparison_rows(comparison),
        "only_first": list(comparison.only_first),
        "only_second": list(comparison.only_second),
        "changes": [dataclasses.asdict(change) for change in comparison.changes],
    }


def _result_table(comparison: Comparison) -> Table:
    names = comparison.names
    tested = any(pair.test for pair in comparison.pairs)
    columns = ["task", "method"]
    for kind in ("val", "test") if tested else ("val",):
        columns += [*(f"{name} {kind} %" for name in names), f"{kind} majority %"]
        columns += [f"{kind} difference", f"{kind} verdict"]
    rows = [Row(cells=list(_pair_cells(pair, tested))) for pair in comparison.pairs]
    for space in dict.fromkeys(pair.first.plan.space for pair in comparison.pairs):
        pairs = [pair for pair in comparison.pairs if pair.first.plan.space == space]
        if len(pairs) > 1:
            rows.append(_mean_row(space, pairs, tested))
    notes = [
        "val difference: second minus first, in points, ± its standard error, as if measured on "
        "different validation images (on the same ones it is smaller); from "
        f"{CLEAR:.0f} standard errors on it counts.",
        f"{MAJORITY} {EXPLAINED}",
        *dict.fromkeys(
            note
            for report in (comparison.first, comparison.second)
            for note in notes_on_metrics(report.plan)
        ),
    ]
    if tested:
        notes.append(
            "test difference: mean over the seeds that both used, ± its standard error for seeds "
            f"and test images; from {CLEAR:.0f} standard errors on it counts, more where few seeds "
            "say how far runs lie apart."
        )
        for name, report in zip(names, (comparison.first, comparison.second), strict=True):
            notes += [f"{name}: {note}" for note in notes_on_test(report.studies)]
    return Table(
        title=f"{names[0]} and {names[1]}",
        columns=columns,
        rows=rows,
        notes=notes,
        wordy=frozenset({"method", "val verdict", "test verdict"}),
    )


def _pair_cells(pair: StudyPair, tested: bool) -> Iterator[Cell]:
    both = pair.first, pair.second
    metrics = dict.fromkeys(study.task.metric for study in both)
    told = "" if list(metrics) == [DEFAULT_METRIC] else f" ({' against '.join(metrics)})"
    told += "" if pair.same_images else " (other images)"
    yield Cell(text=pair.first.plan.task + told)
    yield Cell(text=pair.first.plan.space)
    for study in both:
        yield Cell(text=study.val_text)
    yield Cell(text=_shares([study.task.val_majority_share for study in both]))
    yield from _difference_cells(pair.val)
    if tested:
        for study in both:
            yield Cell(text=study.test_text)
        finals = [study.final for study in both]
        yield Cell(text=_shares([final and final.test_majority_share for final in finals]))
        yield from _difference_cells(pair.test)


def _shares(shares: Sequence[float | None]) -> str:
    """`12.5`, or `12.5, 13.0` where the sweeps have different images."""
    known = dict.fromkeys(percent(share) for share in shares if share is not None)
    return ", ".join(known) or NOTHING


def _difference_cells(found: Difference | None) -> Iterator[Cell]:
    yield Cell(text=str(found or NOTHING), strong=bool(found and found.verdict != "unclear"))
    yield Cell(text=found.verdict if found else NOTHING)


def _mean_row(space: str, pairs: Sequence[StudyPair], tested: bool) -> Row:
    val = [pair.val for pair in pairs]
    cells = [Cell(text=f"mean of {counted(len(pairs), 'task')}"), Cell(text=space)]
    cells += [*[Cell(text="")] * 3, *_difference_cells(_mean(val))]
    if tested:
        test = [pair.test for pair in pairs]
        cells += [*[Cell(text="")] * 3, *_difference_cells(_mean(test))]
    return Row(cells=cells, summary=True)


def _mean(differences: Sequence[Difference | None]) -> Difference | None:
    """None unless all are known: a mean over some of the tasks would pass for one over all."""
    known = [found for found in differences if found]
    if len(known) < len(differences):
        return None
    return mean_difference(known)


def _change_table(comparison: Comparison) -> Table:
    names = comparison.names
    return Table(
        title="What differed",
        columns=["what", "kind", *names],
        rows=[
            Row(cells=[Cell(text=text) for text in (c.name, c.kind, c.first, c.second)])
            for c in comparison.changes
        ],
        wordy=frozenset({"kind", *names}),
    )


def _changes(first: SweepPlan, second: SweepPlan) -> list[Change]:
    """What differs between two plans; of tasks and spaces only those that both have, studies are
    listed on their own."""
    before, after = dict(_leaves(_comparable(first))), dict(_leaves(_comparable(second)))
    tasks = {task.name for task in first.tasks} & {task.name for task in second.tasks}
    studies = {study.name for study in first.studies} & {study.name for study in second.studies}
    spaces = first.spaces.keys() & second.spaces.keys()
    shared = {"tasks": tasks, "spaces": spaces, "trials of": studies}
    found = []
    for path in dict.fromkeys((*before, *after)):
        section = path[0]
        if section in shared and path[1] not in shared[section]:
            continue
        mine, theirs = before.get(path, NOTHING), after.get(path, NOTHING)
        if mine != theirs:
            kind = {"tasks": "data", "versions": "versions"}.get(section, "configuration")
            found.append(Change(kind=kind, name=" ".join(path), first=mine, second=theirs))
    return found


def _comparable(plan: SweepPlan) -> dict[str, Any]:
    document = _without(dataclasses.asdict(plan), "")
    return {
        **document,
        "backbone": _without(document["backbone"], "backbone"),
        "tasks": {task["name"]: _without(task, "tasks") for task in document["tasks"]},
        "trials of": {study.name: study.num_trials for study in plan.studies},
    }


def _without(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in NOT_COMPARED[section]}


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Path and text of every value; lists count as one value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        # What was computed, such as a share of the epochs, has digits that say nothing.
        yield path, f"{value:.12g}" if isinstance(value, float) else str(value)
