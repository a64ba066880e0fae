"""A table of images and labels, or one of each split, as one task.

    image,label            file_name,class,split
    photos/1.jpg,cat       0001.png,3,train

Labels are names or integers; which classes there are, train says. A line that cannot be used is
named, never dropped.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.data.class_names import say_alike, say_unprintable
from orchestrator.data.columns import Columns, find_columns
from orchestrator.data.completed import OWN, completed_task
from orchestrator.data.image_places import find_place, written_path
from orchestrator.data.images import ContentHashes
from orchestrator.data.layout import names, split_of
from orchestrator.data.reading import Problems, brief, task_root
from orchestrator.data.split import DEFAULT_RULE, SplitRule
from orchestrator.data.table import Table
from orchestrator.data.task import DataError, Example, Held, Task
from orchestrator.support.counted import counted

NO_CLASS = "-1"
"""What numbers of classes do not hold, and many tables say where a class is not known."""

Named = Callable[[int], tuple[str, Held | None]]
"""From a row's index to the name of its image, and where it is held."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A table, and the split that all its rows belong to; empty where none is named."""

    table: Table
    split: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    source: Path
    line: int
    file: str
    held: Held | None
    label: str
    """The name of its class; empty where it has none."""
    rank: float
    """Where its class stands among the others, if they are numbered."""
    split: str
    """train, val or test; first as it is written; empty where nothing says it."""


def read_table_task(
    parts: Sequence[Part],
    *,
    name: str,
    layout: str,
    folder: Path,
    images: Path | None = None,
    rule: SplitRule = DEFAULT_RULE,
    hashes: ContentHashes | None = None,
    kind: str = "",
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Task:
    """Read tables as one task; what is wrong with their lines is in the task's `problems`.

    `folder` holds them, and `images`, if given, is what their paths are relative to. `kind` says
    in words what they are, if they are no files that a user would name. DataError where no column
    of images or labels can be told.
    """
    if images is not None and not images.is_dir():
        raise DataError(f"--data: {images} is not a folder")
    root = task_root(images or folder)[0]
    if not name.isprintable():
        raise DataError(f"{str(folder)!r}: a task needs a name that can be printed")
    reader = _Reader(root, Problems(name), images)
    for warning in warnings:
        reader.found.add("", folder, 0, warning, "warning")
    rows = [row for part in parts for row in reader.rows(part)]
    rows, split_source = reader.in_splits(parts, rows)
    class_names = reader.class_names(rows)
    if class_names:
        table = parts[0].table.path
        say_unprintable(class_names, reader.found, table)
        say_alike(class_names, reader.found, table)
    examples, sources = reader.examples(rows, class_names)
    return completed_task(
        examples,
        found=reader.found,
        root=root,
        sources=sources,
        class_names=class_names,
        layout=layout,
        rule=rule,
        source=parts[0].table.path,
        hashes=hashes,
        read_as=f"{kind or _kinds(parts)} with columns {reader.columns} ({_shown(parts)})",
        split_source=split_source,
        notes=[*notes, *reader.notes],
    )


def _kinds(parts: Sequence[Part]) -> str:
    return " and ".join(dict.fromkeys(part.table.kind for part in parts))


def _shown(parts: Sequence[Part]) -> str:
    return names([part.table.path.name for part in parts])


class _Reader:
    """Reads the tables of one task, and collects what there is to say about them."""

    def __init__(self, root: Path, found: Problems, images: Path | None) -> None:
        self.found = found
        self.columns: Columns | None = None
        self.notes: list[str] = []
        self._root = root
        self._has_moved = images is not None
        self._described: tuple[str, ...] = ()
        """The names of all classes, where the tables say them."""

    def rows(self, part: Part) -> Iterator[_Row]:
        """The rows of a table, with splits as they are written."""
        table = part.table
        blamed = part.split or "train"
        for line, fault in table.faults:
            self.found.add(blamed, table.path, line, fault)
        columns = self._columns(part)
        if columns is None:
            return
        numbers = table.values(columns.label)
        labels = table.values(columns.names) if columns.names else numbers
        described = table.class_names.get(columns.label, ())
        self._described = self._described or described
        splits = table.values(columns.split) if columns.split and not part.split else None
        named = self._held(table, columns) or self._paths(table, columns)
        for index in range(table.num_rows):
            line = table.lines[index] if table.lines else 0
            try:
                file, held = named(index)
                label, rank = label_in(labels[index], numbers[index], described)
            except DataError as error:
                message = str(error) if line else f"row {index}: {error}"
                self.found.add(blamed, table.path, line, message)
                continue
            split = part.split or ("" if splits is None else str(splits[index] or "").strip())
            yield _Row(table.path, line, file, held, label, rank, split)

    def _columns(self, part: Part) -> Columns | None:
        """The same in all tables; a table of test without labels is left out."""
        try:
            columns = find_columns(part.table)
        except DataError as error:
            if part.split != "test":
                raise
            self.found.add("test", part.table.path, 0, f"left out of test: {error}", "warning")
            return None
        if self.columns is None:
            self.columns = columns
        elif (columns.image, columns.label) != (self.columns.image, self.columns.label):
            raise DataError(
                f"{part.table.path} has the columns {columns}, the other tables {self.columns}; "
                "give them the same names"
            )
        return columns

    def _held(self, table: Table, columns: Columns) -> Named | None:
        """Images that the table itself holds."""
        if columns.image not in table.images:
            return None
        holder = (self._folder(table) / table.path.name).relative_to(self._root).as_posix()
        return lambda index: (
            f"{holder}#{index:07}",
            Held(table.form, holder, columns.image, index),
        )

    def _paths(self, table: Table, columns: Columns) -> Named:
        """Images that the table names."""
        written = [written_path(value) for value in table.values(columns.image)]
        folder = self._root if self._has_moved else self._folder(table)
        place = find_place([one for one in written if one], self._root, folder, table.path)
        if folder != self._root / place.folder:
            self.notes.append(f"the paths in {table.path.name} are relative to {place.folder}")
        if place.ending:
            self.notes.append(f"the names in {table.path.name} lack their {place.ending}")

        def named(index: int) -> tuple[str, None]:
            if not written[index]:
                raise DataError("names no image")
            return place.file(written[index]), None

        return named

    def _folder(self, table: Table) -> Path:
        folder = Path(os.path.realpath(table.path.parent))
        if not folder.is_relative_to(self._root):
            raise DataError(
                f"{table.path} does not lie in {self._root}, where its images should be; leave "
                "out --data, or name a folder that holds both"
            )
        return folder

    def in_splits(self, parts: Sequence[Part], rows: list[_Row]) -> tuple[list[_Row], str]:
        """The rows with train, val or test, or all without; and who said it, in words."""
        if any(part.split for part in parts):
            return rows, "as the files are named"
        if self.columns and self.columns.split:
            kept = []
            for row in rows:
                split = _as_ours(split_of(row.split))
                if split:
                    kept.append(replace(row, split=split))
                    continue
                said = f"split {brief(row.split)}" if row.split else "no split"
                message = f"{said}: it is one of train, val, test"
                self.found.add("train", row.source, row.line, message)
            return kept, f"as column {brief(self.columns.split)} says"
        folders = [_split_in_path(row.file) for row in rows if row.held is None]
        if len(folders) == len(rows) and all(folders) and {"train"} < set(folders):
            split_rows = zip(rows, folders, strict=True)
            return [replace(row, split=split) for row, split in split_rows], (
                "as the folders in the paths are named"
            )
        return rows, ""

    def class_names(self, rows: Sequence[_Row]) -> tuple[str, ...]:
        """In the order of their labels: of their numbers, else of their names."""
        if self._described:
            return self._described
        ranks = {row.label: row.rank for row in rows if row.label}
        if NO_CLASS in ranks and all(label.isdecimal() for label in ranks if label != NO_CLASS):
            which = [row for row in rows if row.label == NO_CLASS]
            message = (
                f"{NO_CLASS} is taken for a class, of {counted(len(which), 'image')}: leave these "
                "out if it says that the class is not known"
            )
            self.found.add("train", which[0].source, which[0].line, message, "warning")
        return tuple(sorted(ranks, key=lambda name: (ranks[name], name)))

    def examples(
        self, rows: Sequence[_Row], class_names: Sequence[str]
    ) -> tuple[dict[str, tuple[Example, ...]], dict[str, Path]]:
        """The labelled images of each split, and the table of each split that is given."""
        labels = {name: label for label, name in enumerate(class_names)}
        in_train = {row.label for row in rows if row.split in ("", "train")}
        examples: dict[str, list[Example]] = {}
        sources: dict[str, Path] = {}
        unlabelled: Counter[Path] = Counter()
        labelled: dict[str, _Row] = {}
        for row in rows:
            split = row.split or "train"
            if row.split:
                sources.setdefault(split, row.source)
            if not row.label and split == "test":
                unlabelled[row.source] += 1
            elif fault := _fault(row, labels, in_train, labelled.setdefault(row.file, row)):
                self.found.add(split, row.source, row.line, fault)
            else:
                may_be_linked = row.held is None  # as in class folders: one's own links
                examples.setdefault(split, []).append(
                    Example(
                        str(self._root),
                        row.file,
                        labels[row.label],
                        row.line,
                        may_be_linked,
                        row.held,
                    )
                )
        for source, number in unlabelled.items():
            message = f"left out: {counted(number, 'image')} of test without a label"
            self.found.add("test", source, 0, message, "warning")
        if unlabelled and "test" not in examples:
            del sources["test"]
        return {split: tuple(members) for split, members in examples.items()}, sources


def _fault(row: _Row, labels: Mapping[str, int], in_train: set[str], first: _Row) -> str:
    """Why a row cannot be used, if it cannot."""
    if not row.label:
        return f"{brief(row.file)} has no label"
    if row.label not in in_train:
        return f"class {brief(row.label)} has no image in train, so it cannot be learnt"
    if row.label not in labels:  # one table names its classes, this one does not, or others
        return (
            f"class {brief(row.label)} is none of the {len(labels)} that another table names: "
            f"{names(list(labels))}; all tables must name the same classes"
        )
    if row.label != first.label:
        return (
            f"{brief(row.file)} is {brief(row.label)} here and {brief(first.label)} in line "
            f"{first.line}; an image has one label"
        )
    return ""


def label_in(value: object, number: object, described: Sequence[str]) -> tuple[str, float]:
    """A class's name and its place among the others; an empty name where there is no label."""
    text = _label_text(value)
    if described and text:
        if not re.fullmatch(r"-?[0-9]+", text) or int(text) >= len(described):
            raise DataError(f"label {brief(text)} is none of the {len(described)} classes")
        return ("" if int(text) < 0 else described[int(text)]), 0
    rank = _label_text(number)
    return text, (float(rank) if re.fullmatch(r"-?[0-9]{1,300}", rank) else 0.0)


def _label_text(value: object) -> str:
    if value is None or value != value:  # NaN, as pandas writes what is missing
        return ""
    if isinstance(value, (list, dict)):
        raise DataError(f"label {brief(str(value))} is not one label; an image has one")
    if isinstance(value, bytes):
        raise DataError(f"label {brief(str(value))} is bytes; write labels as text or numbers")
    text = str(value).strip()
    return text.removesuffix(".0") if re.fullmatch(r"-?[0-9]+\.0", text) else text


def _as_ours(split: str | None) -> str:
    return "train" if split == "trainval" else split or ""


def _split_in_path(file: str) -> str:
    """The split that exactly one folder of a path is named after."""
    found = [split for folder in file.split("/")[:-1] if (split := split_of(folder)) in OWN]
    return found[0] if len(found) == 1 and found[0] else ""
