"""The five fine-grained tasks in the layout of the VPT repository: three JSON files per task.

`train.json`, `val.json` and `test.json` map an image's path to its raw class id. Jia et al., 2022,
https://arxiv.org/abs/2203.12119; sizes counted in the released lists.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.reading import (
    Problems,
    add_trainval,
    brief,
    check_overlap,
    path_fault,
    read_bounded,
    task_root,
)
from orchestrator.data.task import Example, Split, Task

LISTS = {"train": "train.json", "val": "val.json", "test": "test.json"}


@dataclass(frozen=True)
class FineGrainedTask:
    name: str
    num_classes: int
    counts: Mapping[str, int]
    image_folder: str
    """Paths in the lists are relative to this folder of the task."""
    aliases: tuple[str, ...]


def _task(
    name: str, num_classes: int, counts: tuple[int, int, int], image_folder: str, *aliases: str
) -> FineGrainedTask:
    by_split = dict(zip(LISTS, counts, strict=True))
    return FineGrainedTask(name, num_classes, by_split, image_folder, aliases)


FINE_GRAINED_TASKS = {
    task.name: task
    for task in (
        _task("cub", 200, (5_394, 600, 5_794), "images", "cub_200_2011", "cub200", "cub_200"),
        _task("nabirds", 555, (21_536, 2_393, 24_633), "images"),
        _task("oxford_flowers", 102, (1_020, 1_020, 6_149), "", "oxfordflower", "oxfordflowers102"),
        _task("stanford_dogs", 120, (10_800, 1_200, 8_580), "Images"),
        _task("stanford_cars", 196, (7_329, 815, 8_041), ""),
    )
}


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower()).removeprefix("fgvc")


_BY_PLAIN_NAME = {
    _plain(name): task.name
    for task in FINE_GRAINED_TASKS.values()
    for name in (task.name, *task.aliases)
}


def official_name(folder_name: str) -> str | None:
    return _BY_PLAIN_NAME.get(_plain(folder_name))


def is_fgvc_task(folder: Path) -> bool:
    # Path.is_file would raise for a folder that we may not enter.
    return any(os.path.isfile(folder / name) for name in LISTS.values())  # noqa: PTH113


def read_fgvc_task(folder: Path) -> Task:
    """Read the lists of one task; what is wrong with them is in the task's `problems`."""
    root, folder_name = task_root(folder)
    official = FINE_GRAINED_TASKS.get(official_name(folder_name) or "")
    found = Problems(official.name if official else folder_name)
    image_root = root / _image_folder(root, official)

    raw = {name: _read_list(root / file, root, name, found) for name, file in LISTS.items()}
    # From train for all splits: a class absent from val must not shift the labels after it.
    # KMnP/vpt numbers each list by itself, which mislabels 1,440 of NABirds' 2,393 val images.
    ids = sorted(set(raw["train"].values()))
    labels = {raw_id: label for label, raw_id in enumerate(ids)}
    splits = {}
    for name, entries in raw.items():
        source = root / LISTS[name]
        examples = []
        for file, raw_id in entries.items():
            if raw_id in labels:
                path = (image_root / file).relative_to(root).as_posix()
                examples.append(Example(str(root), path, labels[raw_id], 0))
            else:
                message = f"{brief(file)}: class {raw_id} has no image in train.json"
                found.add(name, source, 0, message)
        if examples:
            splits[name] = Split(name=name, source=source, examples=tuple(examples))
    check_overlap(splits, found)
    add_trainval(splits, root)
    if official:
        _compare(official, len(ids), splits, root, found)
    return Task(
        name=found.task,
        group="fine_grained",
        num_classes=len(ids),
        class_names=tuple(str(raw_id) for raw_id in ids),
        root=root,
        layout="fgvc",
        splits=splits,
        official=official is not None,
        problems=found.all,
    )


def _image_folder(root: Path, official: FineGrainedTask | None) -> str:
    if official:
        return official.image_folder
    return next((name for name in ("images", "Images") if (root / name).is_dir()), "")


def _read_list(source: Path, root: Path, split: str, found: Problems) -> dict[str, int]:
    """Raw class ids by path. Ids are integers; CUB writes them as strings, "001"."""
    if not source.exists():
        found.add(split, source, 0, 'is missing: a JSON object {"relative/path": class id}')
        return {}
    try:
        pairs = json.loads(read_bounded(source, root), object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        found.add(split, source, 0, str(error))
        return {}
    if not isinstance(pairs, tuple):
        found.add(split, source, 0, "is not a JSON object")
        return {}
    entries: dict[str, int] = {}
    for file, raw_id in pairs:
        if fault := path_fault(file):
            found.add(split, source, 0, f"{brief(file)} {fault}")
        elif file in entries:
            found.add(split, source, 0, f"{brief(file)} stands here twice", "warning")
        elif type(raw_id) is not int and not (
            isinstance(raw_id, str) and re.fullmatch(r"[0-9]{1,9}", raw_id)
        ):
            message = f"{brief(file)}: class id {brief(str(raw_id))} is not an integer"
            found.add(split, source, 0, message)
        else:
            entries[file] = int(raw_id)
    if not entries:
        found.add(split, source, 0, "names no image")
    return entries


def _compare(
    official: FineGrainedTask,
    num_classes: int,
    splits: Mapping[str, Split],
    root: Path,
    found: Problems,
) -> None:
    if num_classes != official.num_classes:
        message = f"{num_classes} classes in train; the official task has {official.num_classes}"
        found.add("", root, 0, message, "warning")
    for name, split in splits.items():
        expected = official.counts.get(name, len(split))
        if len(split) != expected:
            message = f"{len(split):,} images; the official list has {expected:,}"
            found.add(name, split.source, 0, message, "warning")
