"""Predictions as rows: of a table on a terminal, of a CSV file, of JSON."""

import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from orchestrator.cli.terminal import Terminal
from orchestrator.support.foreign_text import table_cell, visible
from orchestrator.support.whole_file import whole_file

if TYPE_CHECKING:
    from orchestrator.bundle.prediction import Prediction
    from orchestrator.data.image_paths import Unreadable

STDOUT = Path("-")
WIDEST_NAME = 60
"""Cells that a name is padded to; none is cut."""

Write = Callable[["Prediction | Unreadable", str | None], None]
"""Takes what was found for an image, and the name of its true class if that is known."""


@contextmanager
def csv_rows(path: Path, top: int) -> Iterator[Write]:
    """Write a row for each image; the file is there when all were written, and not before.

    Columns: image, label, class_name, probability, true_class, error; then for the second to the
    last of the `top` classes label_2, class_name_2, probability_2 and so on.
    """
    if path == STDOUT:
        yield _csv_writer(sys.stdout, top)
        return
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--csv {path}: there is no folder {path.parent}")
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        try:
            yield _csv_writer(text, top)
        finally:
            text.detach()  # whose closing would close the file before it is on the disk


def _csv_writer(file: Any, top: int) -> Write:
    fields = ("label", "class_name", "probability")
    ranked = [[*fields], *([f"{field}_{rank}" for field in fields] for rank in range(2, top + 1))]
    first, *more = ranked
    columns = ["image", *first, "true_class", "error", *(name for names in more for name in names)]
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()

    def write(one: "Prediction | Unreadable", true_class: str | None) -> None:
        found = asdict(one)
        row = {"image": one.image, "true_class": true_class or "", "error": found.get("error", "")}
        for names, candidate in zip(ranked, found.get("top", ()), strict=False):
            row |= {name: candidate[field] for name, field in zip(names, fields, strict=True)}
        writer.writerow({name: table_cell(value) for name, value in row.items()})

    return write


def json_row(one: "Prediction | Unreadable", true_class: str | None) -> dict[str, Any]:
    """What is known of an image, for programs."""
    return {**asdict(one), **({"true_class": true_class} if true_class is not None else {})}


def table_rows(
    console: Terminal,
    images: Sequence[str],
    class_names: Sequence[str],
    *,
    top: int = 1,
    with_truth: bool = False,
) -> Write:
    """Print each row when it is known; names are long, so that no table may cut them."""
    image_width = _width(["image", *images])
    class_width = _width(["class", *class_names])

    def padded(text: str, width: int) -> str:
        shown = visible(text)
        return shown + " " * (width - cell_len(shown))

    head = [padded("image", image_width)]
    if with_truth:
        head.append(padded("true class", class_width))
    for rank in range(1, top + 1):
        name = "class" if rank == 1 else f"class {rank}"
        head += [padded(name, class_width), "probability"]
    console.print("  ".join(head), soft_wrap=True)

    def write(one: "Prediction | Unreadable", true_class: str | None) -> None:
        row = [padded(one.image, image_width)]
        error = getattr(one, "error", None)
        if error is not None:
            row.append(f"error: {error}")
        else:
            if with_truth:
                row.append(padded("" if true_class is None else true_class, class_width))
            for candidate in one.top:  # type: ignore[union-attr]
                probability = f"{candidate.probability:.3f}"
                row += [padded(candidate.class_name, class_width), f"{probability:<11}"]
        console.print("  ".join(row).rstrip(), soft_wrap=True)

    return write


def _width(names: Sequence[str]) -> int:
    return min(WIDEST_NAME, max(cell_len(visible(name)) for name in names))
