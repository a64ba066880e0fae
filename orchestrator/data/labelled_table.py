"""A table of images and labels, to measure a trained model on.

Read as a sweep reads it, but no row is split off or left out: where a column names splits, the
rows of test are measured on.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.columns import Columns, find_columns
from orchestrator.data.image_places import find_place, written_path
from orchestrator.data.known_classes import labels_of
from orchestrator.data.layout import names, split_of
from orchestrator.data.reading import Problems, brief, check_overlap
from orchestrator.data.table import Table, read_table
from orchestrator.data.table_task import label_in
from orchestrator.data.task import DataError, Example, Held, Split, data_error
from orchestrator.support.counted import counted


@dataclass(frozen=True, kw_only=True)
class _Row:
    line: int
    file: str
    held: Held | None
    label: str
    """As the table has it: a name, or a number."""


def examples_in_table(path: Path, class_names: Sequence[str]) -> tuple[list[Example], list[str]]:
    """The labelled images of a table, and what there is to say about how it was understood.

    DataError names the lines that cannot be used.
    """
    table, found = read_table(path), Problems(path.name)
    for line, fault in table.faults:
        found.add("", path, line, fault)
    columns = find_columns(table)
    root = Path(os.path.realpath(path.parent))
    chosen, notes = _of_test(table, columns)
    rows = _rows(table, columns, root, chosen, found)
    labels, note = _as_labels({row.label for row in rows}, class_names)
    for row in rows:
        if row.label not in labels:
            message = f"label {brief(row.label)} is no class of this bundle"
            found.add("", path, row.line, message)
    if found.all:
        known = f" (its classes: {names(list(class_names))})"
        raise data_error(f"{path} cannot be used as it is{known}", found.all)
    if not rows:
        raise DataError(f"{path}: holds no labelled image")
    examples = [
        Example(str(root), row.file, labels[row.label], row.line, row.held is None, row.held)
        for row in rows
    ]
    repeated = Problems(path.name)
    check_overlap({"test": Split(name="", source=path, examples=tuple(examples))}, repeated)
    read_as = f"{path}: read as {table.kind} with columns {columns}"
    return examples, [read_as, *notes, *note, *map(str, repeated.all)]


def _of_test(table: Table, columns: Columns) -> tuple[Sequence[int], list[str]]:
    """The rows to measure on: those of test, where the table says which these are."""
    if not columns.split:
        return range(table.num_rows), []
    splits = [str(value or "") for value in table.values(columns.split)]
    chosen = [index for index, split in enumerate(splits) if split_of(split) == "test"]
    if not chosen:
        raise DataError(
            f"{table.path}: column {brief(columns.split)} names no row as test; leave the column "
            "out to measure on all rows"
        )
    rows = counted(table.num_rows, "row")
    return chosen, [
        f"{table.path}: {len(chosen):,} of {rows}, those that column {brief(columns.split)} "
        "names test"
    ]


def _rows(
    table: Table, columns: Columns, root: Path, chosen: Sequence[int], found: Problems
) -> list[_Row]:
    numbers = table.values(columns.label)
    values = table.values(columns.names) if columns.names else numbers
    described = table.class_names.get(columns.label, ())
    named = _named(table, columns, root)
    rows = []
    for index in chosen:
        line = table.lines[index] if table.lines else 0
        try:
            file, held = named(index)
            label, _ = label_in(values[index], numbers[index], described)
            if not label:
                raise DataError(f"{brief(file)} has no label")
        except DataError as error:
            found.add("", table.path, line, str(error) if line else f"row {index}: {error}")
            continue
        rows.append(_Row(line=line, file=file, held=held, label=label))
    return rows


def _named(table: Table, columns: Columns, root: Path) -> Callable[[int], tuple[str, Held | None]]:
    """From a row to its image: held by the table itself, or a file beside it."""
    holder = table.path.name
    if columns.image in table.images:
        return lambda index: (
            f"{holder}#{index:07}",
            Held(table.form, holder, columns.image, index),
        )
    written = [written_path(value) for value in table.values(columns.image)]
    place = find_place([one for one in written if one], root, root, table.path, can_move=False)

    def named(index: int) -> tuple[str, None]:
        if not written[index]:
            raise DataError("names no image")
        return place.file(written[index]), None

    return named


def _as_labels(written: set[str], class_names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """What labels mean: names of classes, or where none is one, their numbers."""
    known = labels_of(written, class_names)
    if known or not all(label.isdecimal() for label in written):
        return known, []
    numbers = {label: int(label) for label in written if int(label) < len(class_names)}
    return numbers, [f"labels are the numbers of the classes: 0 is {class_names[0]!r}"]
