"""The community layout of VTAB-1k: one folder per task, four lists of `relative/path label`.

Zhai et al., "A Large-scale Study of Representation Learning with the Visual Task Adaptation
Benchmark", https://arxiv.org/abs/1910.04867. Names, classes and test sizes: task_adaptation's unit
tests; the folder layout is the one that NOAH distributes and that later repositories read.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from orchestrator.data.archives import ZipOfTasks
from orchestrator.data.published_suite import Archive, OfficialTask, PublishedSuite, compare
from orchestrator.data.reading import (
    Problems,
    add_trainval,
    brief,
    check_labels,
    check_overlap,
    path_fault,
    read_bounded,
    task_root,
)
from orchestrator.data.task import GROUPS, DataError, Example, Group, Split, Task

LISTS = {
    "train": "train800.txt",
    "val": "val200.txt",
    "trainval": "train800val200.txt",
    "test": "test.txt",
}
MAX_LIST_LINES = 2_000_000
MAX_CLASSES = 1_000_000


def _task(
    name: str, group: Group, num_classes: int, num_test: int, aliases: tuple[str, ...] = ()
) -> OfficialTask:
    counts = {"train": 800, "val": 200, "test": num_test}
    return OfficialTask(
        name=name, group=group, num_classes=num_classes, counts=counts, aliases=aliases
    )


OFFICIAL_TASKS = {
    task.name: task
    for task in (
        _task("cifar", "natural", 100, 10_000, ("cifar100",)),
        _task("caltech101", "natural", 102, 6_084, ("caltech102",)),
        _task("dtd", "natural", 47, 1_880, ("dtd47",)),
        _task("oxford_flowers102", "natural", 102, 6_149, ("flowers102",)),
        _task(
            "oxford_iiit_pet",
            "natural",
            37,
            3_669,
            ("oxford_pet", "oxford_pets", "oxford_iiit_pets", "oxford_iiit_pets_37"),
        ),
        _task("svhn", "natural", 10, 26_032, ("svhn_cropped",)),
        _task("sun397", "natural", 397, 21_750),
        _task("patch_camelyon", "specialized", 2, 32_768, ("pcam", "camelyon")),
        _task("eurosat", "specialized", 10, 5_400),
        _task("resisc45", "specialized", 45, 6_300),
        _task("diabetic_retinopathy", "specialized", 5, 42_670, ("retinopathy",)),
        _task("clevr_count", "structured", 8, 15_000, ("clevr_count_all",)),
        _task("clevr_dist", "structured", 6, 15_000, ("clevr_distance",)),
        _task("dmlab", "structured", 6, 22_735),
        _task("kitti", "structured", 4, 711, ("kitti_dist", "kitti_distance")),
        _task("dsprites_loc", "structured", 16, 73_728, ("dsprites_location", "dsprites_position")),
        _task("dsprites_ori", "structured", 16, 73_728, ("dsprites_orientation",)),
        _task("smallnorb_azi", "structured", 18, 12_150, ("smallnorb_azimuth",)),
        _task("smallnorb_ele", "structured", 9, 12_150, ("smallnorb_elevation",)),
    )
}


def read_vtab_task(folder: Path) -> Task:
    """Read the lists of one task; what is wrong with them is in the task's `problems`."""
    root, folder_name = task_root(folder)
    official = VTAB.official_task(folder_name)
    found = Problems(official.name if official else folder_name)

    splits: dict[str, Split] = {}
    for name, file_name in LISTS.items():
        source = root / file_name
        if source.exists() or source.is_symlink():
            examples = read_list(source, root, name, found)
            splits[name] = Split(name=name, source=source, examples=examples)
        elif name != "trainval":
            found.add(name, source, 0, "is missing: a list of lines `relative/path label`")

    described_classes, described_group = _read_description(root, found)
    class_names = _read_class_names(root, found)
    if class_names and described_classes not in (0, len(class_names)):
        message = f"names {len(class_names)} classes, but task.json says {described_classes}"
        found.add("", root / "classes.txt", 0, message)
    num_classes = (
        len(class_names)
        or described_classes
        or (official.num_classes if official else _infer_num_classes(splits, found))
    )
    check_labels(splits, num_classes, found)
    check_overlap(splits, found)
    add_trainval(splits, root)
    if official:
        compare(official, num_classes, splits, root, found)
    return Task(
        name=found.task,
        group=official.group if official else described_group,
        num_classes=num_classes,
        class_names=class_names or tuple(str(label) for label in range(num_classes)),
        root=root,
        layout="vtab",
        splits=splits,
        official=official is not None,
        problems=found.all,
    )


def read_list(source: Path, root: Path, split: str, found: Problems) -> tuple[Example, ...]:
    """The lines `relative/path label` of one list, whatever else there is of its task."""
    try:
        lines = read_bounded(source, root).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except DataError as error:
        found.add(split, source, 0, str(error))
        return ()
    if len(lines) > MAX_LIST_LINES:
        found.add(split, source, 0, f"has {len(lines):,} lines; at most {MAX_LIST_LINES:,} work")
        return ()
    folder = str(root)
    examples = []
    for number, raw in enumerate(lines, start=1):
        if raw.isspace() or not raw:
            continue
        try:
            file, label = _parse_line(raw)
        except DataError as error:
            found.add(split, source, number, str(error))
            continue
        examples.append(Example(folder, file, label, number))
    if not examples:
        found.add(split, source, 0, "names no image")
    return tuple(examples)


def _parse_line(raw: bytes) -> tuple[str, int]:
    try:
        fields = raw.decode().rsplit(maxsplit=1)
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8: {brief(raw.decode(errors='replace'))}") from error
    if len(fields) != 2:
        raise DataError(f"expected `relative/path label`, found {brief(raw.decode())}")
    file, label = fields[0].strip(), fields[1]
    if not re.fullmatch(r"-?[0-9]{1,18}", label):
        raise DataError(f"label {brief(label)} is not an integer")
    if fault := path_fault(file):
        raise DataError(f"{brief(file)} {fault}")
    return file, int(label)


def _read_description(root: Path, found: Problems) -> tuple[int, Group]:
    """Number of classes and group out of task.json; 0 and "" for what it does not say."""
    source = root / "task.json"
    if not source.exists():
        return 0, ""
    try:
        described = json.loads(read_bounded(source, root))
        if not isinstance(described, dict):
            raise DataError("is not a JSON object")
    except (ValueError, RecursionError) as error:
        found.add("", source, 0, str(error))
        return 0, ""
    num_classes, group = described.get("num_classes", 0), described.get("group", "")
    if type(num_classes) is not int or not 0 <= num_classes <= MAX_CLASSES:
        found.add("", source, 0, f"num_classes is {brief(str(num_classes))}")
        num_classes = 0
    if group not in ("", *GROUPS):
        message = f"group is {brief(str(group))}; known: {', '.join(GROUPS)}"
        found.add("", source, 0, message, "warning")
        group = ""
    return num_classes, group


def _read_class_names(root: Path, found: Problems) -> tuple[str, ...]:
    """The names out of classes.txt, lines of `label<TAB>name`; none where there is no such file."""
    source = root / "classes.txt"
    if not source.exists():
        return ()
    names: dict[int, str] = {}
    try:
        lines = read_bounded(source, root).decode("utf-8-sig").splitlines()
    except ValueError as error:
        found.add("", source, 0, str(error))
        return ()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label, _, name = line.partition("\t")
        if not re.fullmatch(r"[0-9]{1,7}", label) or not name.strip():
            found.add("", source, number, f"expected `label<TAB>name`, found {brief(line)}")
        elif int(label) in names:
            found.add("", source, number, f"label {int(label)} has a name already")
        else:
            names[int(label)] = name.strip()
    absent = next((label for label in range(len(names)) if label not in names), None)
    if absent is not None:
        found.add("", source, 0, f"label {absent} has no name, though larger labels have one")
        return ()
    return tuple(names[label] for label in range(len(names)))


def _infer_num_classes(splits: Mapping[str, Split], found: Problems) -> int:
    """One more than the largest label, unless most labels up to it are unused."""
    used: dict[int, tuple[Split, Example]] = {}
    for split in splits.values():
        for example in split.examples:
            used.setdefault(example.label, (split, example))
    labels = sorted(label for label in used if label >= 0)
    while labels and labels[-1] + 1 > 2 * len(labels) + 10:
        split, example = used[labels.pop()]
        message = (
            f"label {example.label}, but only {len(used)} different labels are used; if it is "
            'right, say {"num_classes": ...} in task.json or name the classes in classes.txt'
        )
        found.add(split.name, split.source, example.line, message)
    return labels[-1] + 1 if labels else 0


VTAB = PublishedSuite(
    name="vtab",
    folders=("vtab-1k", "VTAB-1K", "vtab1k", "vtab"),
    tasks=OFFICIAL_TASKS,
    lists=LISTS,
    read=read_vtab_task,
    contents="<task>/{train800,val200,train800val200,test}.txt and the images they name",
    source=ZipOfTasks(
        archive=Archive(
            repository="XiN0919/VTAB-1k", name="vtab-1k.zip", tasks=tuple(OFFICIAL_TASKS)
        )
    ),
    group_folders=("natural", "specialized", "structured"),
    augment=False,
)
