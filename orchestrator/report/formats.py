"""Tables as Markdown and LaTeX; all numbers of a report as plain rows, for CSV and JSON."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.report.averages import (
    Average,
    MethodColumn,
    published_column,
    test_column,
    val_column,
    wins,
)
from orchestrator.report.collect import StudyReport, SweepReport
from orchestrator.report.convergence import convergence
from orchestrator.report.findings import headlines, remarks
from orchestrator.report.front_table import front_rows
from orchestrator.report.metric_names import metrics_of
from orchestrator.report.prompts_vs_baselines import prompts_verdict
from orchestrator.report.table import Cell, Row, Table
from orchestrator.support.foreign_text import table_cell, visible


def markdown(tables: Sequence[Table], sentences: Sequence[str] = ()) -> str:
    """Pipe tables with their titles and notes, after the sentences."""
    parts = ["\n".join(f"- {_escape_markdown(sentence)}" for sentence in sentences)]
    for table in tables:
        marks = ["---" if _is_left(table, index) else "---:" for index in range(len(table.columns))]
        names = [_escape_markdown(name) for name in table.columns]
        lines = [names, marks, *([_markdown_cell(c) for c in r.cells] for r in table.rows)]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = "".join(f"\n{_escape_markdown(note)}  " for note in table.notes)
        parts.append(f"### {_escape_markdown(table.title)}\n\n{body}\n{notes}")
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """`tabular`s for booktabs, each in a `table` with its notes as caption."""
    return "\n".join(_latex_table(table) for table in tables)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line per row, with the names of the first row as header."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: table_cell(value) for name, value in row.items()} for row in rows)
    return file.getvalue()


def study_rows(report: SweepReport) -> list[dict[str, Any]]:
    """The numbers of every study; accuracies in [0, 1], None where there is none."""
    return [_study_row(study) for study in report.studies]


def document(report: SweepReport) -> dict[str, Any]:
    """All numbers of the tables, the averages with what they cover, and the sentences."""
    plan = report.plan
    backbone = asdict(plan.backbone)
    return {
        "sweep": plan.name,
        "suite": plan.suite,
        "backbone": {key: backbone[key] for key in ("name", "weights_sha256", "image_size")},
        "findings": headlines(report),
        "studies": [
            {
                **_study_row(study),
                "chosen_config": dict(study.chosen.config) if study.chosen else None,
                "test_accuracies": dict(study.final.test_accuracies) if study.final else None,
                "front": front_rows(study),
                "importance": dict(study.importance.shares),
                "convergence": convergence(study).sentence,
                "remarks": remarks(study),
            }
            for study in report.studies
        ],
        "metrics": metrics_of(plan),
        "averages": [_averages(report, space) for space in report.spaces],
        "prompts": {task.name: prompts_verdict(report, task.name) for task in plan.tasks},
    }


def _study_row(study: StudyReport) -> dict[str, Any]:
    mean, deviation = study.test_mean_and_deviation
    run, planned = study.epochs_run_and_planned
    val_interval, test_interval = study.val_interval, study.test_interval
    final = study.final
    folds_interval = final.cross_validation_interval if final else None
    return {
        "task": study.plan.task,
        "group": study.task.group,
        "space": study.plan.space,
        "method": study.space.method,
        "metric": study.task.metric,
        "best_trial": study.best.number if study.best else None,
        "chosen_trial": study.chosen.number if study.chosen else None,
        "val_accuracy": study.val_accuracy,
        "val_standard_error": study.val_error,
        "val_interval_low": val_interval and val_interval[0],
        "val_interval_high": val_interval and val_interval[1],
        "num_val": study.task.num_val,
        "val_majority_share": study.task.val_majority_share,
        "folds_accuracy": final.cross_validation if final else None,
        "folds_interval_low": folds_interval and folds_interval[0],
        "folds_interval_high": folds_interval and folds_interval[1],
        "test_accuracy_mean": mean,
        "test_accuracy_deviation": deviation,
        "num_test_seeds": len(study.final.test_accuracies) if study.final else 0,
        "test_interval_low": test_interval and test_interval[0],
        "test_interval_high": test_interval and test_interval[1],
        "num_test": study.final.num_test if study.final else None,
        "test_majority_share": study.final.test_majority_share if study.final else None,
        "num_test_openings": study.final.num_openings if study.final else 0,
        "final_round": study.final.round if study.final else None,
        "final_is_current": study.final_is_current if study.final else None,
        "published_test_accuracy": study.published.accuracy if study.published else None,
        "published_source": study.published.source if study.published else None,
        "published_doubt": study.published.doubt if study.published else None,
        "tuned_share": study.tuned_share,
        "complete": study.states["complete"],
        "pruned": study.states["pruned"],
        "failed": study.states["failed"],
        "planned": study.plan.num_trials,
        "epochs_run": run,
        "epochs_planned": planned,
    }


def _averages(report: SweepReport, space: str) -> dict[str, Any]:
    found: dict[str, Any] = {"space": space}
    for kind, make in (
        ("val", val_column),
        ("test", test_column),
        ("published_test", published_column),
    ):
        column = make(report, space)
        found[f"{kind}_mean_of_tasks"] = _average(column.over_tasks())
        found[f"{kind}_mean_of_groups"] = _average(column.over_groups())
        found[f"{kind}_mean_of_each_group"] = _by_group(column)
    found["val_wins_against_full"] = wins(report, space, val_column)
    found["test_wins_against_full"] = wins(report, space, test_column)
    return found


def _by_group(column: MethodColumn) -> dict[str, Any]:
    return {group: _average(column.over_tasks(group)) for group in column.expected.values()}


def _average(average: Average | None) -> dict[str, Any] | None:
    return asdict(average) if average else None


def _is_left(table: Table, index: int) -> bool:
    return index == 0 or table.columns[index] in table.wordy


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", visible(" ".join(text.split())))


def _markdown_cell(cell: Cell) -> str:
    text = _escape_markdown(cell.text)
    return f"**{text}**" if cell.strong else text


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "−": r"$-$",
    "–": "--",
    "†": r"\textdagger{}",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in visible(" ".join(text.split())))


def _latex_row(row: Row) -> str:
    cells = [
        rf"\textbf{{{_escape_latex(cell.text)}}}" if cell.strong else _escape_latex(cell.text)
        for cell in row.cells
    ]
    return " & ".join(cells) + r" \\"


def _latex_table(table: Table) -> str:
    align = "".join("l" if _is_left(table, i) else "r" for i in range(len(table.columns)))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        " & ".join(map(_escape_latex, table.columns)) + r" \\",
        r"\midrule",
        *(_latex_row(row) for row in table.rows if not row.summary),
    ]
    summaries = [_latex_row(row) for row in table.rows if row.summary]
    if summaries:
        lines += [r"\midrule", *summaries]
    notes = " ".join(_escape_latex(note) for note in table.notes)
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_escape_latex(table.title)}. {notes}}}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)
