"""The five fine-grained tasks in the layout of the VPT repository: three JSON files per task.

`train.json`, `val.json` and `test.json` map an image's path to its raw class id. Jia et al., 2022,
https://arxiv.org/abs/2203.12119; sizes counted in the released lists.
"""

import json
import re
from pathlib import Path

from orchestrator.data.archives import ListsAndImages
from orchestrator.data.published_suite import Archive, OfficialTask, PublishedSuite, compare
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


def _task(
    name: str, num_classes: int, counts: tuple[int, int, int], image_folder: str, *aliases: str
) -> OfficialTask:
    return OfficialTask(
        name=name,
        group="fine_grained",
        num_classes=num_classes,
        counts=dict(zip(LISTS, counts, strict=True)),
        aliases=aliases,
        image_folder=image_folder,
    )


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


def read_fgvc_task(folder: Path) -> Task:
    """Read the lists of one task; what is wrong with them is in the task's `problems`."""
    root, folder_name = task_root(folder)
    official = FGVC.official_task(folder_name)
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
        compare(official, len(ids), splits, root, found, counted_in=" in train")
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


def _image_folder(root: Path, official: OfficialTask | None) -> str:
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


FGVC = PublishedSuite(
    name="fgvc",
    folders=("fgvc", "FGVC"),
    tasks=FINE_GRAINED_TASKS,
    lists=LISTS,
    read=read_fgvc_task,
    contents="<task>/{train,val,test}.json and the images they name",
    source=ListsAndImages(
        lists=Archive(
            repository="XiN0919/FGVC", name="fgvc_split.zip", tasks=tuple(FINE_GRAINED_TASKS)
        ),
        images={
            task: Archive(repository="XiN0919/FGVC", name=name, tasks=(task,))
            for task, name in (
                ("cub", "CUB_200_2011.tgz"),
                ("nabirds", "nabirds.tar.gz"),
                ("oxford_flowers", "102flowers.tgz"),
                ("stanford_dogs", "images.tar"),
                ("stanford_cars", "car_ims.tgz"),
            )
        },
    ),
    augment=True,
)
