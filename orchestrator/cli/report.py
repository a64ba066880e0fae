"""`report`, `compare`: what a sweep found, for people and for programs."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.options import Folder, Json, Storage
from orchestrator.cli.terminal import Terminal
from orchestrator.support.near import near
from orchestrator.support.phases import phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.report.table import Row
    from orchestrator.report.table import Table as ReportTable

console = Terminal()


class Format(StrEnum):
    """How results are written."""

    terminal = "terminal"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        "-f",
        help="How to print it; --json is --format json.",
        rich_help_panel="Output",
    ),
]


def report(
    folder: Folder,
    format: FormatOption = Format.terminal,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write the page.",
            show_default="default: report.html in the sweep's folder",
            rich_help_panel="Output",
        ),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show tables beside published numbers, and write one HTML page with every figure.

    orchestrator report SWEEP
    orchestrator report SWEEP --format csv > results.csv
    """
    with phase("loading libraries"):
        from orchestrator.api.sweep import Sweep

    if html and not html.parent.is_dir():
        raise ValueError(f"{html}: there is no folder {html.parent} to write the page in")
    found = Sweep.open(folder, storage=storage)
    made = found.report()
    page = made.write(html) if html or found.has_folder else None
    match Format.json if as_json else format:
        case Format.terminal:
            _show(made.headlines, made.tables)
            told = (
                f"page: {near(page)}"
                if page
                else f"no page: {folder} is not here; name one: --html"
            )
            console.say(told)
        case Format.md:
            typer.echo(made.markdown, nl=False)
        case Format.latex:
            typer.echo(made.latex, nl=False)
        case Format.csv:
            typer.echo(made.csv, nl=False)
        case Format.json:
            typer.echo(json.dumps(made.document, indent=2))


def compare(
    first: Folder,
    second: Annotated[
        Path, typer.Argument(metavar="SWEEP", help="The folder, or the name, of another.")
    ],
    format: FormatOption = Format.terminal,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show two sweeps side by side: results with their uncertainty, and what differed.

    orchestrator compare sweeps/photos-a sweeps/photos-b
    """
    with phase("loading libraries"):
        from orchestrator.api.sweep import Sweep
    from orchestrator.report import compare as comparing
    from orchestrator.report.formats import as_csv, latex, markdown

    found = comparing.compare(
        *(Sweep.open(one, storage=storage).report().found for one in (first, second))
    )
    sentences = comparing.comparison_sentences(found)
    tables = comparing.comparison_tables(found)
    match Format.json if as_json else format:
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
