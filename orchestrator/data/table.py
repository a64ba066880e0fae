"""Tables of images and labels: CSV, TSV, JSON lines, Parquet and Arrow, read into columns.

Text is read by Python's own `csv` and `json`, since a fault needs its line; Parquet and Arrow by
pyarrow. A column of images' bytes is not loaded, only known.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.arrow_rows import arrow_faults, read_arrow
from orchestrator.data.reading import brief, read_bounded
from orchestrator.data.task import DataError

KINDS = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
}
"""By the ending of a file's name."""
MAX_COLUMNS = 10_000
MAX_HEAD_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table's columns by name, in the order of the file."""

    path: Path
    kind: str
    names: tuple[str, ...]
    num_rows: int
    values: Callable[[str], Sequence[object]]
    """The values of one column."""
    lines: Sequence[int] = ()
    """The line of each row, where the file has lines."""
    faults: Sequence[tuple[int, str]] = ()
    """Lines that are no rows, and why."""
    class_names: Mapping[str, tuple[str, ...]]
    """What the integers of a column mean, where the file says so."""
    images: frozenset[str] = frozenset()
    """Columns that hold whole images."""

    @property
    def form(self) -> str:
        """What opens its images, in `held.HOLDERS`."""
        return self.kind.lower()


def is_table(path: Path) -> bool:
    """Whether a file's name says that it may be one."""
    return path.suffix.lower() in KINDS


def read_table(path: Path) -> Table:
    """Read a table. DataError says why it is none; a wrong line is in `faults`."""
    kind = _kind(path)
    if kind in ("Parquet", "Arrow"):
        return _read_binary(path, kind)
    text = _text(path)
    rows = _json_rows(path, text) if kind == "JSON lines" else _csv_rows(path, text)
    return _of_rows(path, kind, *rows)


def read_head(path: Path) -> Table:
    """The columns of a table, and of text its first row at most: enough to know what it is."""
    kind = _kind(path)
    if kind in ("Parquet", "Arrow"):
        return _read_binary(path, kind)
    try:
        with path.open("rb") as file:
            data = file.readline(MAX_HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    text = data.decode("utf-8-sig", errors="replace")
    rows = _json_rows(path, text) if kind == "JSON lines" else _csv_rows(path, text)
    return _of_rows(path, kind, *rows)


def _kind(path: Path) -> str:
    """DataError for what cannot be a table: to open a pipe is to wait for its writer."""
    if not is_table(path):
        raise DataError(f"{path} is no table: its name ends in none of {', '.join(KINDS)}")
    if not path.is_file():
        raise DataError(f"{path} is not there" if not path.exists() else f"{path} is not a file")
    return KINDS[path.suffix.lower()]


Rows = tuple[list[str], list[Sequence[object]], list[int], list[tuple[int, str]]]
"""Names of columns, rows, the line of each, and lines that are none."""


def _of_rows(
    path: Path,
    kind: str,
    names: list[str],
    rows: list[Sequence[object]],
    lines: list[int],
    faults: list[tuple[int, str]],
) -> Table:
    places = {name: index for index, name in enumerate(names)}
    return Table(
        path=path,
        kind=kind,
        names=tuple(names),
        num_rows=len(rows),
        values=lambda name: [row[places[name]] for row in rows],
        lines=lines,
        faults=faults,
        class_names={},
    )


def _text(path: Path) -> str:
    real = Path(os.path.realpath(path))
    try:
        data = read_bounded(real, real.parent)
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: is not UTF-8; save the table as UTF-8") from error


def _csv_rows(path: Path, text: str) -> Rows:
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise DataError(f"{path} is empty; it needs a first line such as `image,label`")
    separators = "\t" if path.suffix.lower() == ".tsv" else ",;\t"
    separator = max(separators, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] = []
    rows: list[Sequence[object]] = []
    lines: list[int] = []
    faults: list[tuple[int, str]] = []
    begin = 1
    try:
        for fields in reader:
            line, begin = begin, reader.line_num + 1
            if not any(field.strip() for field in fields):
                continue
            if not names:
                names = [field.strip() for field in fields]
                _check_names(f"{path}:{line}", names)
            elif len(fields) != len(names):
                faults.append((line, f"has {len(fields)} fields, the first line {len(names)}"))
            else:
                rows.append(fields)
                lines.append(line)
    except csv.Error as error:
        raise DataError(f"{path}:{begin}: {error}") from error
    return names, rows, lines, faults


def _check_names(where: str, names: Sequence[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{where}: has {len(names):,} columns; at most {MAX_COLUMNS:,} work")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{where}: column {brief(twice)} stands here twice")


def _json_rows(path: Path, text: str) -> Rows:
    found: list[dict[str, object]] = []
    lines: list[int] = []
    faults: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append((number, f"is no JSON: {error}"))
            continue
        if isinstance(row, dict):
            found.append(row)
            lines.append(number)
        else:
            faults.append((number, "is no JSON object"))
    names = list(dict.fromkeys(name for row in found for name in row))
    _check_names(str(path), names)
    return names, [[row.get(name) for name in names] for row in found], lines, faults


def _read_binary(path: Path, kind: str) -> Table:
    import pyarrow as pa

    with arrow_faults(str(path)):
        if kind == "Parquet":
            import pyarrow.parquet as pq

            file = pq.ParquetFile(str(path), memory_map=True)
            schema, num_rows = file.schema_arrow, file.metadata.num_rows

            def column(name: str) -> Any:
                return file.read(columns=[name]).column(name)
        else:
            table = read_arrow(str(path))
            schema, num_rows, column = table.schema, table.num_rows, table.column

    _check_names(str(path), schema.names)

    def values(name: str) -> Sequence[object]:
        with arrow_faults(str(path)):
            found = column(name)
            found.validate(full=True)
            return found.to_pylist()

    features = _features(schema.metadata or {})
    return Table(
        path=path,
        kind=kind,
        names=tuple(schema.names),
        num_rows=num_rows,
        values=values,
        class_names={
            name: names
            for name in schema.names
            if (names := features_class_names(features.get(name)))
        },
        images=frozenset(
            field.name
            for field in schema
            if pa.types.is_binary(field.type)
            or pa.types.is_large_binary(field.type)
            or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
        ),
    )


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """What Hugging Face's `datasets` writes about the columns into a schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def features_class_names(feature: object) -> tuple[str, ...]:
    """The names of a `ClassLabel` of Hugging Face's `datasets`; none for another feature."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):  # as older versions wrote them
        names = [names[key] for key in sorted(names, key=lambda key: (len(key), key))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)
