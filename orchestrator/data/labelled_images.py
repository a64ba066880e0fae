"""Images whose classes are known to be those of a trained model: to measure it on.

photos/cat/1.jpg  photos/dog/2.jpg      a folder for each class, under its name
photos.txt                              a list of lines `relative/path label`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.image_paths import Unreadable, files_in, left_out_of
from orchestrator.data.known_classes import labels_of
from orchestrator.data.layout import class_folders, names, split_of
from orchestrator.data.reading import Problems, check_labels, check_overlap, task_root
from orchestrator.data.table import KINDS, is_table
from orchestrator.data.task import DataError, Example, Split, data_error
from orchestrator.data.vtab import read_list
from orchestrator.data.walk import Folder, list_folder
from orchestrator.support.counted import counted
from orchestrator.support.did_you_mean import nearest
from orchestrator.support.foreign_text import visible

LIST = ".txt"


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Files in the order of their folders or of their list, each with its label."""

    where: Path
    images: tuple[Path | Example | Unreadable, ...]
    labels: tuple[int, ...]
    notes: tuple[str, ...]
    """What was left out, and what is not as it might be thought."""


class OtherFolders(DataError):
    """Folders that are not the classes, or not all of them."""


class NoClassFolders(OtherFolders):
    """Nothing in the folder has the name of a class."""


def labelled_images(where: Path, class_names: Sequence[str]) -> LabelledImages:
    """The images of a folder of class folders, or those that a list names.

    DataError says what was found instead, and what would work. No image is opened.
    """
    if where.is_dir():
        return _in_class_folders(list_folder(where), class_names)
    if not where.exists():
        raise DataError(f"{where}: there is no such folder or list")
    if where.suffix.lower() == LIST:
        return _in_list(where, class_names)
    if is_table(where):
        return _in_table(where, class_names)
    raise DataError(
        f"{where}: images with labels are a folder of class folders, a list ({LIST}) of lines "
        f"`relative/path label`, or a table of paths and labels ({', '.join(KINDS)})"
    )


def _in_class_folders(top: Folder, class_names: Sequence[str]) -> LabelledImages:
    folder = _holding_classes(top, class_names)
    there = class_folders(folder)
    labels = labels_of((one.name for one in there), class_names)
    unknown = [one.name for one in there if one.name not in labels]
    missing = [name for i, name in enumerate(class_names) if i not in labels.values()]
    if not labels:
        raise NoClassFolders(_what_it_is(top, unknown, class_names))
    if unknown:
        raise OtherFolders(_what_is_unknown(folder, unknown, missing))
    notes = [f"{folder.path}: {line}" for line in left_out_of(top)]
    if folder is not top:
        notes.append(f"the classes were found in {folder.path}")
    if stray := sum(len(one.images) for one in _way(top, folder)):
        notes.append(
            f"left out: {counted(stray, 'image')} beside the class folders, without a label"
        )
    for name, label in labels.items():
        if name != class_names[label]:
            notes.append(f"folder {name!r} is taken for class {class_names[label]!r}")
    if missing:
        notes.append(f"no folder for {_some(missing, 'class')}")
    images: list[Path | Unreadable] = []
    found: list[int] = []
    for one in there:
        inside = files_in(one)
        images += inside
        found += [labels[one.name]] * len(inside)
    if not images:
        raise OtherFolders(f"{folder.path}: {'; '.join(notes) or 'its class folders are empty'}")
    return LabelledImages(
        where=top.path, images=tuple(images), labels=tuple(found), notes=tuple(notes)
    )


def _holding_classes(top: Folder, class_names: Sequence[str]) -> Folder:
    """The folder, or the one further down that is the only one on the way to the classes."""
    folder = top
    while len(inner := class_folders(folder)) == 1 and inner[0].folders:
        if labels_of([inner[0].name], class_names):
            break
        (folder,) = inner
    there = (one.name for one in class_folders(folder))
    return folder if labels_of(there, class_names) else top


def _way(top: Folder, folder: Folder) -> list[Folder]:
    """From one folder down to another, both included."""
    way = [folder]
    while way[-1] is not top and way[-1].above is not None:
        way.append(way[-1].above)
    return way


def _what_is_unknown(folder: Folder, unknown: Sequence[str], missing: Sequence[str]) -> str:
    told = (
        f"{folder.path}: {_some(unknown, 'folder')} of images "
        f"{'is' if len(unknown) == 1 else 'are'} no class of this bundle"
    )
    near = {name: close for name in unknown if (close := nearest(name, missing))}
    if near:
        pairs = ", ".join(f"{visible(a)!r} {visible(b)!r}" for a, b in list(near.items())[:6])
        told += f"; near: {pairs}"
    if missing:
        told += f"; without a folder: {_some(missing, 'class')}"
    return f"{told}; rename the folders to the names of the classes, or move them elsewhere"


def _what_it_is(top: Folder, inside: Sequence[str], class_names: Sequence[str]) -> str:
    splits = [one for one in inside if split_of(one)]
    lists = [name for name in sorted(top.lists) if is_table(Path(name)) or name.endswith(LIST)]
    if lists or splits:
        one = top.path / _for_testing(lists or splits)
        what = "lists" if lists else "splits"
        hint = f"it holds {what}: name the one to measure on, such as {one}"
    elif inside:
        hint = f"it holds {_some(inside, 'folder')} with images"
    elif top.images:
        hint = (
            f"{counted(len(top.images), 'image lies', 'images lie')} in it without class folders, "
            "so nobody knows what they show"
        )
    else:
        hint = "it holds no image that is read here"
    return (
        f"{top.path}: no folder in it has the name of a class of this bundle "
        f"({names(list(class_names))}); {hint}"
    )


def _for_testing(splits: Sequence[str]) -> str:
    return next((one for one in splits if "test" in one.lower()), splits[-1])


def _some(which: Sequence[str], thing: str) -> str:
    """`2 classes (cat, dog)`."""
    return f"{counted(len(which), thing)} ({names(list(which))})"


def _in_list(where: Path, class_names: Sequence[str]) -> LabelledImages:
    root, _ = task_root(where.parent)
    found = Problems(where.name)
    examples = read_list(root / where.name, root, "", found)
    split = {"": Split(name="", source=where, examples=examples)}
    check_labels(split, len(class_names), found)
    check_overlap({"test": split[""]}, found)
    errors = [one for one in found.all if one.severity == "error"]
    if errors:
        raise data_error(f"{where} cannot be used as it is", errors)
    return _of_examples(where, examples, [str(one) for one in found.all])


def _in_table(where: Path, class_names: Sequence[str]) -> LabelledImages:
    from orchestrator.data.labelled_table import examples_in_table  # where tables are read

    return _of_examples(where, *examples_in_table(where, class_names))


def _of_examples(where: Path, examples: Sequence[Example], notes: Sequence[str]) -> LabelledImages:
    return LabelledImages(
        where=where,
        images=tuple(examples),
        labels=tuple(example.label for example in examples),
        notes=tuple(notes),
    )
