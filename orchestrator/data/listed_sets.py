"""DTD, Oxford-IIIT Pet, Food-101 and FGVC-Aircraft: images in folders, splits in text files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from orchestrator.data.known_set import Published, home_with, known_set, text_lines
from orchestrator.data.reading import brief, path_fault
from orchestrator.data.task import DataError, Example


def _read_dtd(root: Path) -> Published:
    """Partition 1 of the ten, as torchvision and VTAB take it."""
    lists = {split: f"labels/{split}1.txt" for split in ("train", "val", "test")}
    lines = {split: text_lines(root, file) for split, file in lists.items()}
    names = sorted({line.split("/")[0] for line in lines["train"] if line})
    labels = {name: label for label, name in enumerate(names)}
    return Published(
        title="DTD (Describable Textures)",
        class_names=names,
        images={split: _in_class_folders(root, found, labels) for split, found in lines.items()},
        sources={split: root / file for split, file in lists.items()},
        notes=["partition 1 of the 10 published ones"],
    )


def _read_pets(root: Path) -> Published:
    """Lines of `Abyssinian_100 1 1 1`: image, class, species, breed."""
    lists = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}
    names: dict[int, str] = {}
    images: dict[str, list[Example]] = {}
    for split, file in lists.items():
        images[split] = []
        for number, line in _numbered(text_lines(root, file)):
            if not (fields := re.fullmatch(r"(\S+)_(\d+) ([1-9]\d{0,3}) \d+ \d+", line)):
                raise DataError(f"{root / file}:{number}: expected `image class species breed`")
            label = int(fields[3]) - 1
            names.setdefault(label, " ".join(part.title() for part in fields[1].split("_")))
            image = f"{fields[1]}_{fields[2]}.jpg"
            images[split].append(_example(root, "images", image, label, number))
    if sorted(names) != list(range(len(names))):
        raise DataError(f"{root / lists['train']}: its classes are not numbered from 1 on")
    return Published(
        title="Oxford-IIIT Pet",
        class_names=[names[label] for label in sorted(names)],
        images=images,
        sources={split: root / file for split, file in lists.items()},
    )


def _read_food(root: Path) -> Published:
    lists = {split: f"meta/{split}.txt" for split in ("train", "test")}
    lines = {split: text_lines(root, file) for split, file in lists.items()}
    names = sorted({line.split("/")[0] for line in lines["train"] if line})
    labels = {name: label for label, name in enumerate(names)}
    return Published(
        title="Food-101",
        class_names=names,
        images={
            split: _in_class_folders(root, found, labels, ".jpg") for split, found in lines.items()
        },
        sources={split: root / file for split, file in lists.items()},
    )


def _read_aircraft(root: Path) -> Published:
    """Lines of `1025794 707-320`: image, variant."""
    lists = {split: f"data/images_variant_{split}.txt" for split in ("train", "val", "test")}
    names = [line for line in text_lines(root, "data/variants.txt") if line]
    labels = {name: label for label, name in enumerate(names)}
    images: dict[str, list[Example]] = {}
    for split, file in lists.items():
        pairs = [
            (number, *line.split(" ", 1)) for number, line in _numbered(text_lines(root, file))
        ]
        images[split] = [
            _example(root, "data/images", f"{image}.jpg", labels.get(" ".join(variant), -1), number)
            for number, image, *variant in pairs
        ]
    return Published(
        title="FGVC-Aircraft",
        class_names=names,
        images=images,
        sources={split: root / file for split, file in lists.items()},
        notes=["labels: the variants, not families or manufacturers"],
    )


def _in_class_folders(
    root: Path, lines: Sequence[str], labels: Mapping[str, int], ending: str = ""
) -> list[Example]:
    """Lines of `banded/banded_0002.jpg`."""
    return [
        _example(root, "images", f"{line}{ending}", labels.get(line.split("/")[0], -1), number)
        for number, line in _numbered(lines)
    ]


def _numbered(lines: Sequence[str]) -> Iterable[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if line)


def _example(root: Path, folder: str, name: str, label: int, line: int) -> Example:
    file = f"{folder}/{name}"
    if fault := path_fault(file):
        raise DataError(f"{root}: {brief(file)} {fault}")
    return Example(str(root), file, label, line)


LISTED = (
    known_set(
        "dtd",
        home_with(
            "images", "labels/train1.txt", "labels/val1.txt", "labels/test1.txt", inside="dtd"
        ),
        _read_dtd,
    ),
    known_set(
        "oxford_pets",
        home_with(
            "images",
            "annotations/trainval.txt",
            "annotations/test.txt",
        ),
        _read_pets,
    ),
    known_set(
        "food101",
        home_with("images", "meta/train.txt", "meta/test.txt"),
        _read_food,
    ),
    known_set(
        "fgvc_aircraft",
        home_with(
            "data/images",
            "data/variants.txt",
            "data/images_variant_train.txt",
            "data/images_variant_val.txt",
            "data/images_variant_test.txt",
        ),
        _read_aircraft,
    ),
)
