"""`report`, `compare`: what a sweep found, for people and for programs."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.options import Storage
from orchestrator.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.report.collect import SweepReport
    from orchestrator.report.table import Row
    from orchestrator.report.table import Table as ReportTable

console = Terminal()

PAGE_FILE = "report.html"


class Format(StrEnum):
    """How results are written."""

    terminal = "terminal"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="To standard output.")]


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    format: FormatOption = Format.terminal,
    html: Annotated[
        Path | None, typer.Option(help="Where to write the page (default: report.html in it).")
    ] = None,
    storage: Storage = None,
) -> None:
    """Tables beside published numbers, and one HTML page with every figure."""
    from orchestrator.report.findings import headlines
    from orchestrator.report.formats import as_csv, document, latex, markdown, study_rows
    from orchestrator.report.page import page
    from orchestrator.report.table import result_tables
    from orchestrator.support.whole_file import whole_file

    target = html or folder / PAGE_FILE
    if html and not html.parent.is_dir():
        raise ValueError(f"{html}: there is no folder {html.parent} to write the page in")
    found = _collect(folder, storage)
    with whole_file(target) as file:
        file.write(page(found).encode())
    match format:
        case Format.terminal:
            _show(headlines(found), result_tables(found))
            console.print(f"page: {target}", markup=False, soft_wrap=True)
        case Format.md:
            typer.echo(markdown(result_tables(found), headlines(found)), nl=False)
        case Format.latex:
            typer.echo(latex(result_tables(found)), nl=False)
        case Format.csv:
            typer.echo(as_csv(study_rows(found)), nl=False)
        case Format.json:
            typer.echo(json.dumps(document(found), indent=2))


def compare(
    first: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    second: Annotated[Path, typer.Argument(help="The folder of another.")],
    format: FormatOption = Format.terminal,
    storage: Storage = None,
) -> None:
    """Two sweeps side by side: results with their uncertainty, and what differed."""
    from orchestrator.report import compare as comparing
    from orchestrator.report.formats import as_csv, latex, markdown

    found = comparing.compare(_collect(first, storage), _collect(second, storage))
    sentences = comparing.comparison_sentences(found)
    tables = comparing.comparison_tables(found)
    match format:
        case Format.terminal:
            _show(sentences, tables)
        case Format.md:
            typer.echo(markdown(tables, sentences), nl=False)
        case Format.latex:
            typer.echo(latex(tables), nl=False)
        case Format.csv:
            typer.echo(as_csv(comparing.comparison_rows(found)), nl=False)
        case Format.json:
            typer.echo(json.dumps(comparing.comparison_document(found), indent=2))


def _collect(folder: Path, storage: str | None) -> "SweepReport":
    from orchestrator.plan.plan import load_plan
    from orchestrator.record.database import default_storage
    from orchestrator.record.finals import FinalRecord
    from orchestrator.record.record import open_record
    from orchestrator.report.collect import collect
    from orchestrator.report.final import read_final_results, with_test_images
    from orchestrator.tracking.snapshot import readable_databases

    plan = load_plan(folder)
    with readable_databases(folder) as databases:
        record, results = open_record(plan, databases, storage), read_final_results(folder)
        if any(result.test_accuracies and result.num_test is None for result in results):
            finals = FinalRecord(plan, record, storage or default_storage(databases))
            results = with_test_images(results, finals)
        return collect(plan, record, results)


def _show(sentences: "Sequence[str]", tables: "Sequence[ReportTable]") -> None:
    for sentence in sentences:
        console.print(f"• {sentence}", markup=False)
    for table in tables:
        console.print()
        console.print(table.title, style="bold", markup=False)
        console.print_table(_rich(table))
        for note in table.notes:
            console.print(note, style="dim", markup=False)


def _rich(table: "ReportTable") -> Table:
    drawn = Table(box=None, pad_edge=False)
    for index, name in enumerate(table.columns):
        left = index == 0 or name in table.wordy
        # Where it is narrow, a number goes on in the next line: never is one cut.
        drawn.add_column(Text(name), justify="left" if left else "right", overflow="fold")
    for before, row in zip([None, *table.rows], table.rows, strict=False):
        if row.summary and before and not before.summary:
            drawn.add_section()
        drawn.add_row(*_texts(row))
    return drawn


def _texts(row: "Row") -> list[Text]:
    return [Text(cell.text, style="bold" if cell.strong else "") for cell in row.cells]
