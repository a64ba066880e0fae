"""A user's own images: class folders, split by the user or by us with a seed.

    photos/train/cat/1.jpg  photos/val/cat/2.jpg  photos/test/cat/3.jpg     split by the user
    photos/cat/1.jpg  photos/dog/2.jpg                                      split by us

The same files, seed and fractions give the same split, whatever the order of the folder; the rule
stands in the task, and the data fingerprint of the plan notices when a file came or went.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.data.formats import is_read
from orchestrator.data.reading import (
    Problems,
    add_trainval,
    brief,
    check_overlap,
    path_fault,
    task_root,
)
from orchestrator.data.task import DataError, Example, Split, Task

SPLIT_FOLDERS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
FRACTIONS = (0.6, 0.2, 0.2)
"""Of train, val and test in every class, where nothing is split."""
VAL_FRACTION = 0.2
"""Of train in every class, where only val is missing."""
MAX_FILES = 5_000_000


def is_image_folder(folder: Path) -> bool:
    return any(True for name in _subfolders(folder) for _ in _images(folder / name, folder))


def read_image_folder_task(
    folder: Path, *, seed: int = 0, fractions: tuple[float, float, float] = FRACTIONS
) -> Task:
    """Read a folder of images as one task."""
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(f"fractions {fractions} of train, val and test must be positive, sum 1")
    root, name = task_root(folder)
    found = Problems(name)
    split_folders: dict[str, Path | None] = {
        name: next((root / one for one in names if (root / one).is_dir()), None)
        for name, names in SPLIT_FOLDERS.items()
    }
    train_folder = split_folders["train"]
    if train_folder is None:
        class_names = tuple(_subfolders(root))
        files = _labelled(root, root, class_names, found, "train")
        train, val, test = _divide(files, seed, fractions)
        sources = dict.fromkeys(SPLIT_FOLDERS, root)
        rule = f"seed {seed}, train/val/test {'/'.join(f'{f:g}' for f in fractions)} of each class"
    else:
        class_names = tuple(_subfolders(train_folder))
        sources = {name: path or train_folder for name, path in split_folders.items()}
        train, val, test = (
            _labelled(path, root, class_names, found, name) if path else ()
            for name, path in split_folders.items()
        )
        rule = ""
        if split_folders["val"] is None:
            train, val, _ = _divide(train, seed, (1 - VAL_FRACTION, VAL_FRACTION, 0))
            rule = f"seed {seed}, val {VAL_FRACTION:g} of each class of train"

    splits = {
        name: Split(name=name, source=sources[name], examples=examples)
        for name, examples in (("train", train), ("val", val), ("test", test))
        if examples
    }
    for name in ("train", "val"):
        if name not in splits:
            found.add(name, sources[name], 0, "holds no image in class folders")
    if "test" not in splits:
        message = "no test split: a search works, finalize has nothing to test on"
        found.add("test", root, 0, message, "warning")
    check_overlap(splits, found)
    add_trainval(splits, root)
    return Task(
        name=found.task,
        group="",
        num_classes=len(class_names),
        class_names=class_names,
        root=root,
        layout="image_folder",
        splits=splits,
        split_rule=rule,
        problems=found.all,
    )


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted."""
    return [folder / file for file in _images(folder, folder)]


def _subfolders(folder: Path) -> list[str]:
    """Sorted by name, hidden ones left out: the order gives the labels, as in torchvision."""
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] not in "._"
    )


def _images(folder: Path, root: Path) -> Iterator[str]:
    """Image files below a folder, relative to the root. Links to folders are not followed."""
    for current, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if is_read(file) and not file.startswith("."):
                yield os.path.relpath(os.path.join(current, file), root)  # noqa: PTH118


def _labelled(
    folder: Path, root: Path, class_names: tuple[str, ...], found: Problems, split: str
) -> tuple[Example, ...]:
    examples: list[Example] = []
    labels = {name: label for label, name in enumerate(class_names)}
    for name in _subfolders(folder):
        if name not in labels:
            message = f"class {brief(name)} is not a folder of train, so it has no label"
            found.add(split, folder / name, 0, message)
            continue
        if not name.isprintable():
            found.add(split, folder, 0, f"class {brief(name)} has a name that cannot be printed")
            continue
        for file in _images(folder / name, root):
            if fault := path_fault(file):
                found.add(split, folder, 0, f"{brief(file)} {fault}")
            elif len(examples) == MAX_FILES:
                found.add(split, folder, 0, f"holds more than {MAX_FILES:,} images")
                return ()
            else:
                examples.append(Example(str(root), file, labels[name], 0))
    return tuple(examples)


def _divide(
    examples: tuple[Example, ...], seed: int, fractions: tuple[float, float, float]
) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[Example, ...]]:
    """Split every class by itself. A wanted split gets an image of every class that has enough."""
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    by_class: dict[int, list[Example]] = {}
    for example in examples:
        by_class.setdefault(example.label, []).append(example)
    for members in by_class.values():
        # By hash, so that an added file moves few others.
        members.sort(key=lambda example: hashlib.sha256(f"{seed} {example.file}".encode()).digest())
        num_test = _share(len(members), fractions[2], leave=2)
        num_val = _share(len(members), fractions[1], leave=1 + num_test)
        parts[2].extend(members[:num_test])
        parts[1].extend(members[num_test : num_test + num_val])
        parts[0].extend(members[num_test + num_val :])
    train, val, test = (tuple(sorted(part, key=lambda example: example.file)) for part in parts)
    return train, val, test


def _share(count: int, fraction: float, *, leave: int) -> int:
    """How many of `count` make this fraction: at least one, but `leave` are left."""
    return max(0, min(count - leave, max(1, round(count * fraction)))) if fraction else 0
