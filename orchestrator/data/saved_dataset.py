"""A data set that `datasets.save_to_disk` wrote: Arrow files beside what describes them.

    birds/dataset_dict.json                      {"splits": ["train", "test"]}
    birds/train/state.json                       {"_data_files": [{"filename": ...}], ...}
    birds/train/dataset_info.json                {"features": {"label": {"names": [...]}, ...}}
    birds/train/data-00000-of-00001.arrow

Read without that library. https://huggingface.co/docs/datasets/process#save
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.data.form import Form
from orchestrator.data.layout import split_of
from orchestrator.data.reading import brief, read_bounded
from orchestrator.data.split import SplitRule
from orchestrator.data.table import Table, features_class_names, read_table
from orchestrator.data.table_task import Part, read_table_task
from orchestrator.data.task import DataError, Task

DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def _is_saved(folder: Path) -> bool:
    is_one = (folder / STATE).is_file() and (folder / INFO).is_file()
    return is_one or (folder / DICT).is_file()


def _read(folder: Path, images: Path | None, rule: SplitRule) -> Task:
    folder = folder.absolute()
    warnings = []
    if (folder / DICT).is_file():
        parts = []
        for name in _split_names(folder):
            split = split_of(name)
            if split is None:
                message = f"left out: split {brief(name)}, which is none of train, val and test"
                warnings.append(message)
                continue
            split = "train" if split == "trainval" else split
            parts += [Part(table=table, split=split) for table in _tables(folder / name)]
        if not any(part.split == "train" for part in parts):
            raise DataError(f"{folder / DICT} names no split of train: {_split_names(folder)}")
    else:
        parts = [Part(table=table) for table in _tables(folder)]
    return read_table_task(
        parts,
        name=folder.name,
        layout=SAVED.name,
        folder=folder,
        rule=rule,
        kind="Hugging Face data set saved to disk",
        warnings=warnings,
    )


def _split_names(folder: Path) -> list[str]:
    names = _document(folder / DICT).get("splits")
    if not isinstance(names, list) or not all(_is_name(name) for name in names):
        raise DataError(f"{folder / DICT} has no list of splits")
    return names


def _tables(folder: Path) -> list[Table]:
    state = _document(folder / STATE)
    if state.get("_indices_data_files"):
        raise DataError(
            f"{folder / STATE}: its rows are chosen by a file of indices; save it again after "
            "`flatten_indices()`"
        )
    entries = state.get("_data_files")
    names = [
        entry.get("filename") if isinstance(entry, dict) else None
        for entry in (entries if isinstance(entries, list) else [])
    ]
    if not names or not all(_is_name(name) for name in names):
        raise DataError(f"{folder / STATE} names no files of data")
    features = _document(folder / INFO).get("features")
    described = {
        column: found
        for column, feature in (features.items() if isinstance(features, dict) else ())
        if (found := features_class_names(feature))
    }
    tables = [read_table(folder / str(name)) for name in names]
    return [replace(table, class_names={**described, **table.class_names}) for table in tables]


def _is_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..")


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(read_bounded(path, Path(path.parent).resolve()))
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} is no JSON object")
    return document


SAVED = Form(name="saved_dataset", is_task=_is_saved, read=_read, task_name=lambda path: path.name)
