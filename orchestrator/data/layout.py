"""What a folder of images is taken for: one task or several, with which splits.

    photos/train/cat/1.jpg  photos/val/cat/2.jpg     split by the user, under any usual name
    photos/cat/1.jpg  photos/dog/2.jpg               class folders, split by us
    tasks/pets/train/cat/1.jpg  tasks/cars/audi/2.jpg     several tasks, at least one of them split
    unzipped/photos/...                              any of these, some folders further down

Class folders that hold class folders look like a folder of unsplit tasks. Which it is, the user
says with the names of the tasks; without them it is asked. What is understood is said in words.
"""

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data import formats
from orchestrator.data.reading import brief
from orchestrator.data.task import DataError
from orchestrator.data.walk import Folder
from orchestrator.support.counted import counted

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainings", "trn"), "train"),
    **dict.fromkeys(("val", "vals", "valid", "validation", "validate"), "val"),
    **dict.fromkeys(("dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "tests", "testing", "tst", "holdout", "heldout"), "test"),
    "trainval": "trainval",
}
FILLERS = (
    "datasets", "dataset", "data", "images", "image", "imgs", "img", "photos", "photo", "pictures",
    "pics", "samples", "splits", "split", "sets", "set", "folder", "files",
)  # fmt: skip
"""What stands beside such a word: `train_images`, `testset`."""
NO_CLASS = frozenset({"val", "validation", "test", "testing", "testset", "test_set"})
"""Names in small letters that a class hardly has; `valid`, beside `invalid`, may be one."""
SHOWN = 6


class NoImages(DataError):
    """A folder without any image that is read; the message says what it holds instead."""


class NoLabels(DataError):
    """Images that no folder labels; a table might."""

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


@dataclass(frozen=True, kw_only=True)
class TaskFolder:
    """A folder that is one task."""

    name: str
    folder: Folder
    splits: Mapping[str, Folder]
    """The folders of train, val and test that the user made; empty where nothing is split."""
    beside: tuple[Folder, ...] = ()
    """Folders with images that are no part of it."""
    notes: list[str]
    warnings: list[str]


@functools.cache
def split_of(name: str) -> str | None:
    """train, val, test or trainval, where a folder's name says so."""
    return SPLIT_WORDS.get("".join(_words(name)))


def _stem_and_split(name: str) -> tuple[str, str] | None:
    """`animals_train` is (animals, train)."""
    words = _words(name)
    splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    stem = " ".join(word for word in words if word not in SPLIT_WORDS)
    return (stem, splits[0]) if stem and len(splits) == 1 else None


def _words(name: str) -> list[str]:
    words = []
    for word in re.findall(r"[^\W\d_]+", name.lower()):
        bare = _without_fillers(word)
        if bare:
            words.append(bare)
    return words


def find_tasks(top: Folder, wanted: Sequence[str] | None = None) -> dict[str, TaskFolder]:
    """The tasks of a folder by name; `wanted`, their names, decides where it can be read two ways.

    DataError says what was seen and what would work, where it is none of the layouts.
    """
    *passed, folder = way_down(top)
    warnings = [said for one in passed for said in _left_in(one)]
    notes: list[str] = []
    if not _is_split(folder):
        inner = folder.with_images
        split_tasks = [one for one in inner if _is_split(way_down(one)[-1])]
        if split_tasks and len(inner) > 1:
            return _suite(folder, inner, split_tasks, [*warnings, *_left_in(folder)], wanted)
    if folder is not top:
        notes.append(f"found in {'/'.join(folder.path.relative_to(top.path).parts)}")
    if not _is_split(folder):
        tasks = _read_two_ways(folder, top, wanted)
        if tasks is not None:
            return tasks
    return {folder.name: _one_task(folder, notes, warnings)}


def way_down(folder: Folder) -> list[Folder]:
    """From a folder to where there is more than one folder, or a split: all on the way."""
    way = [folder]
    while not _is_split(folder) and len(class_folders(folder)) == 1:
        (folder,) = class_folders(folder)
        if not folder.with_images:
            break
        way.append(folder)
    return way


def class_folders(folder: Folder) -> list[Folder]:
    """Folders that hold images, be they ones that are not read: in the order of their labels."""
    return [one for one in folder.folders if one.holds_any_image]


def flat_error(folder: Folder, above: Folder | None = None) -> NoLabels:
    """For images that no folder labels."""
    lists = [f"{one.name}/{name}" for one in (folder, above) if one for name in sorted(one.lists)]
    beside = f", beside {', '.join(lists[:SHOWN])}" if lists else ""
    labels = "; or label them in a table, labels.csv with the columns image,label"
    lie = "lies" if len(folder.images) == 1 else "lie"
    return NoLabels(
        f"{counted(len(folder.images), 'image')} {lie} in {folder.path} without class folders"
        f"{beside}: "
        f"put the images of each class into a folder of its name, {folder.name}/<class>/"
        f"{folder.images[0] if folder.images else '1.jpg'}{labels}",
        folder.path,
    )


def names(folders: Sequence[Folder] | Sequence[str]) -> str:
    """The first few names."""
    shown = [one if isinstance(one, str) else one.name for one in folders]
    text = ", ".join(name if name.isprintable() else brief(name) for name in shown[:SHOWN])
    return text + (", ..." if len(shown) > SHOWN else "")


def _without_fillers(word: str) -> str:
    for filler in FILLERS:
        if word == filler:
            return ""
        if word.endswith(filler) and word.removesuffix(filler) in SPLIT_WORDS:
            return word.removesuffix(filler)
        if word.startswith(filler) and word.removeprefix(filler) in SPLIT_WORDS:
            return word.removeprefix(filler)
    return word


def _by_split(folder: Folder) -> dict[str, list[Folder]]:
    found: dict[str, list[Folder]] = {}
    for one in folder.folders:
        split = split_of(one.name)
        if split and one.holds_any_image:
            found.setdefault(split, []).append(one)
    return found or _behind_a_stem(folder)


def _behind_a_stem(folder: Folder) -> dict[str, list[Folder]]:
    """`animals_train/cat`, `animals_test/cat`: the splits of one data set under its name."""
    stems = _by_stem(folder.with_images)
    if len(stems) != 1 or not all(one.with_images for one in folder.with_images):
        return {}
    (found,) = stems.values()
    return found if "train" in found and len(found) > 1 else {}


def _by_stem(folders: Sequence[Folder]) -> dict[str, dict[str, list[Folder]]]:
    stems: dict[str, dict[str, list[Folder]]] = {}
    for one in folders:
        if parts := _stem_and_split(one.name):
            stem, split = parts
            stems.setdefault(stem, {}).setdefault(split, []).append(one)
    return stems


def _is_split(folder: Folder) -> bool:
    """Folders under names of splits; one alone without class folders may be a class called so."""
    found = _by_split(folder)
    alone = [one for folders in found.values() for one in folders]
    return (
        len(found) > 1
        or any(one.with_images for one in alone)
        or (len(alone) == len(folder.with_images) == 1)
    )


def _suite(
    folder: Folder,
    inner: Sequence[Folder],
    split_tasks: Sequence[Folder],
    warnings: Sequence[str],
    wanted: Sequence[str] | None,
) -> dict[str, TaskFolder]:
    below = [one for task in split_tasks for one in way_down(task)[-1].with_images]
    if not any(one.with_images for one in below):
        inside = sorted({one.name for one in below})
        raise DataError(
            f"{folder.path}: the folders {names(inner)} hold the splits {names(inside)}; splits "
            f"stand above the classes: {folder.name}/{inside[0]}/{inner[0].name}/1.jpg"
        )
    tasks_inside = [
        one for one in inner if one in split_tasks or len(way_down(one)[-1].with_images) > 1
    ]
    beside = [one for one in class_folders(folder) if one not in tasks_inside]
    if beside:
        warnings = [*warnings, _not_used(beside, folder)]
    chosen = tasks_inside
    if wanted and set(wanted) <= {one.name for one in chosen}:
        chosen = [one for one in chosen if one.name in wanted]
    # What lies beside all tasks is said once, with the first.
    return {one.name: _task_at(one, warnings if one is chosen[0] else []) for one in chosen}


def _task_at(folder: Folder, warnings: Sequence[str] = ()) -> TaskFolder:
    """The task that has this folder's name, but may lie some folders further down."""
    *passed, task = way_down(folder)
    left = [said for one in passed for said in _left_in(one)]
    return _one_task(task, [], [*warnings, *left], name=folder.name)


def _read_two_ways(
    folder: Folder, top: Folder, wanted: Sequence[str] | None
) -> dict[str, TaskFolder] | None:
    """Folders of class folders: tasks or classes, as the wanted names say; else it is asked."""
    inner = folder.with_images
    inside = {one.name: way_down(one)[-1] for one in inner}
    if any(one.images for one in [*inner, *inside.values()]):
        return None
    if all(len(one.with_images) < 2 for one in inside.values()):
        return None
    if wanted and set(wanted) <= {folder.name, top.name}:
        return None
    if wanted and set(wanted) <= {one.name for one in inner}:
        return {one.name: _task_at(one) for one in inner if one.name in wanted}
    held = "; ".join(f"{one.name}: {names(inside[one.name].with_images)}" for one in inner[:SHOWN])
    all_names = ",".join(one.name for one in inner[:SHOWN]) + (",..." if len(inner) > SHOWN else "")
    raise DataError(
        f"{folder.path} holds folders of folders with images ({held}"
        f"{'; ...' if len(inner) > SHOWN else ''}), which can be read in three ways:\n"
        f"  {names(inner)} are tasks: name them, --tasks {all_names}\n"
        f"  {names(inner)} are the classes: name the one task, --tasks {folder.name}\n"
        f"  the folders in them are the classes: move them up, so that they lie in {folder.name}/"
    )


def _one_task(
    folder: Folder, notes: Sequence[str], warnings: Sequence[str], *, name: str = ""
) -> TaskFolder:
    name, notes, warnings = name or folder.name, list(notes), list(warnings)
    if not _is_split(folder):
        return _unsplit_task(folder, name, notes, warnings)
    found = _by_split(folder)
    if "train" not in found and "trainval" in found:
        found["train"] = found.pop("trainval")
    for split, folders in found.items():
        if len(folders) > 1:
            raise DataError(
                f"{folder.path}: {' and '.join(one.name for one in folders)} are all names for "
                f"{split}; keep one of them, or put the others elsewhere"
            )
    splits = {split: folders[0] for split, folders in found.items() if split != "trainval"}
    if "train" not in splits:
        raise DataError(
            f"{folder.path} holds {names(list(splits.values()))} but no folder of training images; "
            f"it holds {names(folder.folders)}: put class folders into {folder.name}/train, or "
            "none of them into folders of splits"
        )
    splits = _unwrapped(splits, warnings)
    _refuse_splits_in(splits["train"])
    if not splits["train"].with_images and splits["train"].images:
        raise flat_error(splits["train"], folder)
    renamed = [f"{names([one])} as {split}" for split, one in splits.items() if one.name != split]
    if renamed:
        notes.append(f"taken: {', '.join(renamed)}")
    used = {one.path.relative_to(folder.path).parts[0] for one in splits.values()}
    beside = tuple(one for one in class_folders(folder) if one.name not in used)
    if beside:
        warnings.append(_not_used(beside, folder))
    if folder.images:
        warnings.append(_stray(folder))
    for one in folder.folders:
        split = split_of(one.name)
        if split in ("train", "val", "test") and split not in splits:
            warnings.append(f"folder {names([one])} holds no image")
    return TaskFolder(
        name=name,
        folder=folder,
        splits=splits,
        beside=beside,
        notes=notes,
        warnings=warnings,
    )


def _unsplit_task(folder: Folder, name: str, notes: list[str], warnings: list[str]) -> TaskFolder:
    inner = folder.with_images
    if not inner:
        if folder.images:
            raise flat_error(folder)
        raise NoImages(f"it holds {_contents(folder)}")
    if len(inner) == 1 and inner[0].images and (folder.lists or inner[0].name.lower() in FILLERS):
        raise flat_error(inner[0], folder)
    _refuse_splits_in(folder)
    for stem, found in _by_stem(inner).items():
        if len(found) > 1:
            both = [one.name for folders in found.values() for one in folders]
            raise DataError(
                f"{folder.path}: {names(both)} look like splits of {stem!r}; splits stand above "
                f"the classes: {folder.name}/{next(iter(found))}/{stem}/1.jpg"
            )
    named = [one for one in inner if split_of(one.name)]
    beside = tuple(one for one in named if one.name.lower() in NO_CLASS and len(inner) > 2)
    if beside:
        warnings.append(
            f"{_not_used(beside, folder)}: images without class folders have no label, and "
            "there is no train; rename the folder if it is a class"
        )
    for one in named:
        if one not in beside:
            warnings.append(f"{one.name} is taken for a class: it holds images and no class folder")
    if folder.images:
        warnings.append(_stray(folder))
    return TaskFolder(
        name=name, folder=folder, splits={}, beside=beside, notes=notes, warnings=warnings
    )


def _refuse_splits_in(folder: Folder) -> None:
    """Class folders that hold splits are data sets, whose test images would be trained on."""
    for one in folder.with_images:
        below = next((inside for inside in one.everything() if _is_split(inside)), None)
        if below is not None:
            splits = [inside for found in _by_split(below).values() for inside in found]
            raise DataError(
                f"{below.path} holds {names(splits)}, so {one.name} is no class of {folder.path}: "
                f"name the folder of the data sets, or put splits above classes, as in "
                f"{folder.name}/train/{one.name}/1.jpg"
            )


def _contents(folder: Folder) -> str:
    """What a folder without images holds."""
    files: Counter[str] = Counter()
    passed_by = broken = 0
    for one in folder.everything():
        files += one.unread + one.others
        passed_by += one.hidden.total()
        broken += len(one.broken)
    seen = [f"{number:,} {ending}" for ending, number in files.most_common(8)]
    seen += [f"{counted(passed_by, 'image')} in hidden folders"] if passed_by else []
    seen += [f"{counted(broken, 'link')} to nowhere"] if broken else []
    return f"no image that is read, but {', '.join(seen)}" if seen else "nothing"


def _unwrapped(splits: dict[str, Folder], warnings: list[str]) -> dict[str, Folder]:
    """`train/images/cat`, `train/train/cat`: passes what lies between a split and its classes."""
    while _wrapper(splits["train"], "train") and len(splits["train"].with_images) == 1:
        inner = {}
        for split, folder in splits.items():
            inner[split] = wrapper = _wrapper(folder, split) or folder
            if wrapper is not folder:
                warnings += _files_left_in(folder)
                if beside := [one for one in class_folders(folder) if one is not wrapper]:
                    warnings.append(_not_used(beside, folder))
        splits = inner
    return splits


def _wrapper(folder: Folder, split: str) -> Folder | None:
    """What in a split's folder holds the classes; without any in it, only where it is alone."""
    is_alone = len(folder.with_images) == 1 and split != "train"
    for one in folder.with_images:
        is_named_so = split_of(one.name) == split or one.name.lower() in FILLERS
        if is_named_so and (one.with_images or is_alone):
            return one
    return None


def _left_in(folder: Folder) -> list[str]:
    """What is not used of a folder that only holds the tasks."""
    said = _files_left_in(folder)
    if folder.hidden:
        said.append(hidden(folder.hidden))
    if folder.repeated:
        said.append(not_followed(folder.repeated))
    if closed := [one for one in folder.folders if one.closed]:
        said.append(f"folders of {folder.name} cannot be read: {names(closed)}")
    return said


def _files_left_in(folder: Folder) -> list[str]:
    """What lies directly in a folder of which only a folder is used."""
    said = [_stray(folder)] if folder.images else []
    if folder.unread:
        said.append(f"in {folder.name}: {formats.left_out(folder.unread)}")
    if folder.broken:
        said.append(f"links of {folder.name} lead nowhere: {names(sorted(folder.broken))}")
    return said


def hidden(counts: Mapping[str, int]) -> str:
    """What was passed by."""
    places = ", ".join(f"{number:,} in {names([name])}" for name, number in counts.items())
    return f"left out: images in what is hidden or made by programs: {places}"


def not_followed(links: Sequence[str]) -> str:
    """Links to what is read already."""
    return (
        "links are not followed to folders that are read already, or hold this one: "
        f"{names(sorted(links))}"
    )


def _stray(folder: Folder) -> str:
    return (
        f"left out: {counted(len(folder.images), 'image')} directly in {folder.name}, beside the "
        f"folders, without a label ({names(folder.images)})"
    )


def _not_used(beside: Sequence[Folder], folder: Folder) -> str:
    number = sum(one.num_images + one.num_unread for one in beside)
    return f"left out: {counted(number, 'image')} in {names(beside)} of {folder.name}"
