"""Which tables make a task: one that is named, one that lies beside images, one of each split.

photos/labels.csv  photos/1.jpg                      beside images that no folder labels
photos/train.csv  photos/val.csv  photos/test.csv    named after splits
photos/train/metadata.jsonl  photos/train/1.jpg      as `imagefolder` of Hugging Face has it
data/train-00000-of-00002.parquet                    as the hub has it, images and all
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.data.columns import find_columns, has_columns, has_images
from orchestrator.data.completed import OWN
from orchestrator.data.form import Form
from orchestrator.data.layout import names, split_of
from orchestrator.data.split import SplitRule
from orchestrator.data.table import is_table, read_head, read_table
from orchestrator.data.table_task import Part, read_table_task
from orchestrator.data.task import DataError, Task

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
GENERIC = frozenset({
    "annotations", "data", "dataset", "images", "index", "label", "labels", "list", "meta",
    "metadata",
})  # fmt: skip
"""Names of tables that say nothing about the task."""

Files = list[tuple[str, Path]]
"""Tables with the splits that they are of, empty where none is named."""


def beside_named(path: Path) -> list[str]:
    """Tables of other splits beside a table that is named alone."""
    if split_of(path.stem) not in OWN:
        return []
    return sorted(
        one.name
        for one in path.absolute().parent.glob(f"*{path.suffix}")
        if one.name != path.name and split_of(one.stem) in OWN
    )


def _one_file(path: Path) -> Files:
    return [("", path)] if path.is_file() and is_table(path) else []


def _metadata(folder: Path) -> Files:
    """Hugging Face's tables in a folder of images or in its folders of splits."""
    if found := _metadata_in(folder):
        return [("", found)]
    return [
        (split, table)
        for inside in _folders(folder)
        if (split := split_of(inside.name)) in OWN and (table := _metadata_in(inside))
    ]


def _metadata_in(folder: Path) -> Path | None:
    """Without a column of labels it says something else about the images."""
    for name in METADATA:
        if (path := folder / name).is_file():
            head = read_head(path)
            if "file_name" in head.names and has_columns(head):
                return path
    return None


def _shards(folder: Path) -> Files:
    """Parquet files that hold their images, by the splits that they or their folders name."""
    named: Files = []
    for place in (folder, folder / "data"):
        named = named or [(_split_of_shard(path), path) for path in _parquet_in(place)]
    if not named:
        named = [
            (split, path)
            for inside in _folders(folder)
            if (split := split_of(inside.name))
            for path in _parquet_in(inside)
        ]
    if not named or not read_head(named[0][1]).images:
        return []
    unnamed = [path for split, path in named if not split]
    if unnamed and len(unnamed) < len(named):
        raise DataError(
            f"{folder}: {names([path.name for path in unnamed])} are named after no split, the "
            "other files are; move them elsewhere, or name one file"
        )
    return named


def _split_of_shard(path: Path) -> str:
    """`train-00000-of-00002.parquet` is of train."""
    return split_of(re.sub(r"-\d+-of-\d+.*", "", path.stem)) or ""


def _parquet_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet")) if folder.is_dir() else []


def tables_beside(folder: Path) -> Files:
    """The tables that label the images of a folder without class folders; none where none do.

    DataError where several might.
    """
    tables = {}
    for path in _tables_in(folder):
        with suppress(DataError):  # `why_unused` says it, where no other table is found
            tables[path] = read_head(path)
    splits = [(split, path) for path in tables if (split := split_of(path.stem)) in OWN]
    splits = [(split, path) for split, path in splits if has_images(tables[path])]
    labelling = [path for path in tables if has_columns(tables[path])]
    if any(split == "train" and path in labelling for split, path in splits):
        return splits
    if len(labelling) > 1:
        raise DataError(
            f"{folder}: {names([path.name for path in labelling])} all have columns of images and "
            f"labels; name the one that is meant, such as {labelling[0]}"
        )
    return [("", path) for path in labelling]


def why_unused(folder: Path) -> list[str]:
    """What the tables in a folder lack to label its images."""
    faults = []
    for path in _tables_in(folder):
        try:
            find_columns(read_head(path))
        except DataError as error:
            faults.append(str(error))
    return faults[:3]


def _tables_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if path.is_file() and is_table(path)]


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(folder / one.name for one in entries if one.is_dir() and one.name[0] != ".")


def _form(name: str, find: Callable[[Path], Files], kind: str = "") -> Form:
    def is_task(path: Path) -> bool:
        try:
            return bool(find(path))
        except DataError:  # it is one, but of what is asked when it is read
            return True

    def read(path: Path, images: Path | None, rule: SplitRule) -> Task:
        files = find(path)
        others = beside_named(path) if path.is_file() else []
        warning = f"beside {path.name} lie {names(others)}: for their splits name the folder"
        return read_table_task(
            [Part(table=read_table(file), split=_trained(split)) for split, file in files],
            name=_task_name(path),
            layout=name,
            folder=path.absolute() if path.is_dir() else path.absolute().parent,
            images=images,
            rule=rule,
            kind=kind,
            warnings=[warning] if others else [],
        )

    return Form(name=name, is_task=is_task, read=read, task_name=_task_name)


def _trained(split: str) -> str:
    return "train" if split == "trainval" else split


def _task_name(path: Path) -> str:
    """A table's name, or its folder's where that says more."""
    path = path.absolute()
    stem = path.name.split(".")[0]
    if path.is_dir():
        return path.name
    return path.parent.name if stem.lower() in GENERIC or split_of(stem) else stem


TABLE = _form("table", _one_file)
METADATA_TABLE = _form("imagefolder", _metadata, "Hugging Face imagefolder")
SHARDS = _form("parquet", _shards, "Parquet files of images")
TABLES_BESIDE = _form("tables", tables_beside)
