"""A user's own images: class folders, split by the user or by us with a seed.

What lies where is listed by `walk`, understood by `layout` and, where needed, split by `split`;
here it becomes a task. Whatever image is not used stands in a problem, with its count.
"""

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from orchestrator.data import formats
from orchestrator.data.class_names import folded, say_alike, say_unprintable
from orchestrator.data.completed import completed_task
from orchestrator.data.images import ContentHashes
from orchestrator.data.layout import (
    TaskFolder,
    class_folders,
    find_tasks,
    flat_error,
    hidden,
    names,
    not_followed,
    split_of,
    way_down,
)
from orchestrator.data.reading import Problems, brief, path_fault, task_root
from orchestrator.data.split import DEFAULT_RULE, SplitRule
from orchestrator.data.task import DataError, Example, Task
from orchestrator.data.walk import Folder, list_folder
from orchestrator.support.counted import counted


def image_folder_tasks(
    folder: Path, *, wanted: Sequence[str] | None = None
) -> dict[str, TaskFolder]:
    """The tasks of a folder of images, by name; DataError says what is there if there is none."""
    root, name = task_root(folder)
    listed = list_folder(root)
    listed.name = name
    tasks = find_tasks(listed, wanted)
    if others := _other_splits(root):
        for task in tasks.values():
            message = f"beside {name} lie {names(others)}: for their splits name {root.parent}"
            task.warnings.append(message)
    return tasks


def read_image_folder_task(
    folder: Path | TaskFolder,
    *,
    rule: SplitRule = DEFAULT_RULE,
    hashes: ContentHashes | None = None,
) -> Task:
    """Read a folder of images as one task. A split of our own reads the files for copies."""
    if isinstance(folder, Path):
        (folder,) = image_folder_tasks(folder, wanted=[task_root(folder)[1]]).values()
    return _Reader(folder, rule, hashes).read()


def _other_splits(root: Path) -> list[str]:
    """Where somebody named the folder of one split: those of the others."""
    if split_of(root.name) != "train":
        return []
    try:
        beside = sorted(path.name for path in root.parent.iterdir() if path.is_dir())
    except OSError:
        return []
    return [name for name in beside if split_of(name) in ("val", "test")]


class _Reader:
    """Reads one task, and collects what there is to say about it."""

    def __init__(self, task: TaskFolder, rule: SplitRule, hashes: ContentHashes | None) -> None:
        self._task = task
        self._rule = rule
        self._hashes = hashes
        self._root = task.folder.path
        if not task.name.isprintable():
            raise DataError(f"{str(self._root)!r}: a task needs a name that can be printed")
        self._found = Problems(task.name)
        self._notes = list(task.notes)
        folders = task.splits.values() or [task.folder]
        self._taken: dict[tuple[int, int], Folder] = {}
        """Folders whose images are taken: each once, under its own name rather than a link's."""
        for one in (inside for top in folders for inside in top.everything()):
            if one.num_links < self._taken.setdefault(one.identity, one).num_links:
                self._taken[one.identity] = one
        self._repeated: list[str] = []

    def read(self) -> Task:
        task, found, root = self._task, self._found, self._root
        for warning in task.warnings:
            found.add("", root, 0, warning, "warning")
        folders = dict(task.splits) or {"train": self._without(task.beside)}
        classes = class_folders(folders["train"])
        self._check_names(classes)
        class_names = tuple(one.name for one in classes)
        examples = {
            name: self._labelled(name, folder, class_names) for name, folder in folders.items()
        }
        for name, folder in folders.items():
            self._say_left_out(name, folder, list(folder.everything()))
        if task.splits:
            self._say_left_out("", task.folder, [task.folder])
        self._say_passed_by()
        self._say_nested(folders["train"], classes)
        sources = {name: folder.path for name, folder in folders.items()}
        return completed_task(
            examples,
            found=found,
            root=root,
            sources=sources if task.splits else {},
            class_names=class_names,
            layout="image_folder",
            rule=self._rule,
            hashes=self._hashes,
            notes=self._notes,
        )

    def _without(self, beside: Sequence[Folder]) -> Folder:
        """The class folders of an unsplit task."""
        folder = self._task.folder
        folder.folders = [one for one in folder.folders if one not in beside]
        return folder

    def _check_names(self, classes: Sequence[Folder]) -> None:
        """Names that a reader cannot tell apart are one class by mistake, or two."""
        if classes:
            names, where = [one.name for one in classes], classes[0].path.parent
            say_unprintable(names, self._found, where)
            say_alike(names, self._found, where)

    def _labelled(
        self, split: str, folder: Folder, class_names: Sequence[str]
    ) -> tuple[Example, ...]:
        """The images of a split's class folders. Without labels, val is refused, test left out."""
        labels = {name: label for label, name in enumerate(class_names)}
        inner = folder.with_images
        if split == "test":
            known = [one for one in inner if self._label(one, labels, split) is not None]
            if not known and (folder.images or len(inner) == 1):
                message = (
                    f"left out: {counted(folder.num_images, 'image')} without class folders, so "
                    f"without labels; to be tested on they would lie in {folder.name}/"
                    f"{class_names[0] if class_names else '<class>'}/ ..."
                )
                self._found.add("test", folder.path, 0, message, "warning")
                return ()
        elif not inner and folder.images:
            raise flat_error(folder, self._task.folder)
        if folder.images and self._task.splits:
            message = (
                f"left out: {counted(len(folder.images), 'image')} beside the class folders, "
                f"without a label ({names(folder.images)})"
            )
            self._found.add(split, folder.path, 0, message, "warning")
        examples: list[Example] = []
        for one in inner:
            label = self._label(one, labels, split, say=True)
            if label is not None:
                examples += self._examples(split, folder, one, label)
        return tuple(examples)

    def _label(
        self, one: Folder, labels: dict[str, int], split: str, *, say: bool = False
    ) -> int | None:
        """The label of a class folder, which may be written another way than in train."""
        if one.name in labels:
            return labels[one.name]
        alike = [name for name in labels if folded(name) == folded(one.name)]
        if len(alike) == 1:
            if say:
                message = f"class {one.name!a} is taken for class {alike[0]!a} of train"
                self._found.add(split, one.path, 0, message, "warning")
            return labels[alike[0]]
        if say:
            close = next(iter(difflib.get_close_matches(one.name, labels, n=1)), None)
            message = (
                f"class {brief(one.name)} ({counted(one.num_images, 'image')}) is not a folder of "
                f"train, so it has no label; train has {names(list(labels))}"
                + (f" (did you mean {brief(close)}?)" if close else "")
            )
            self._found.add(split, one.path, 0, message)
        return None

    def _examples(self, split: str, source: Folder, folder: Folder, label: int) -> list[Example]:
        root = str(self._root)
        examples = []
        for one in folder.everything():
            inside = "/".join(one.path.relative_to(self._root).parts)
            if self._taken[one.identity] is not one:
                self._repeated.append(inside)
                continue
            for name in one.images:
                file = f"{inside}/{name}"
                if fault := path_fault(file):
                    self._found.add(split, source.path, 0, f"{brief(file)} {fault}")
                else:
                    is_linked = one.is_linked or name in one.linked
                    examples.append(Example(root, file, label, 0, is_linked))
        return examples

    def _say_left_out(self, split: str, folder: Folder, listed: Sequence[Folder]) -> None:
        found = self._found
        unread: Counter[str] = Counter()
        where: Counter[str] = Counter()
        others: Counter[str] = Counter()
        broken, linked = [], 0
        for one in listed:
            parts = one.path.relative_to(folder.path).parts
            inside = "".join(f"{part}/" for part in parts)
            unread += one.unread
            where[parts[0] if parts else "."] += one.unread.total()
            others += one.others
            broken += [f"{inside}{name}" for name in sorted(one.broken)]
            linked += len(one.images) if one.is_linked else len(one.linked)
        if unread:
            places = ", ".join(f"{name} {number}" for name, number in (+where).most_common(5))
            message = f"{formats.left_out(unread)}; in: {places}"
            found.add(split, folder.path, 0, message, "warning")
        if others:
            kinds = ", ".join(f"{number:,} {ending}" for ending, number in others.most_common(6))
            self._notes.append(f"files of {folder.name} that are no images: {kinds}")
        if linked:
            self._notes.append(f"{counted(linked, 'image')} of {folder.name} reached by links")
        if broken:
            message = (
                f"{counted(len(broken), 'link leads', 'links lead')} nowhere ({names(broken)}): "
                "fetch what they stand for (`git annex get`, `dvc checkout`) or remove them"
            )
            found.add(split, folder.path, 0, message)

    def _say_passed_by(self) -> None:
        counts: Counter[str] = Counter()
        closed = []
        for one in self._task.folder.everything():
            inside = "/".join(one.path.relative_to(self._root).parts)
            counts += one.hidden
            self._repeated += [f"{inside}/{name}" if inside else name for name in one.repeated]
            closed += [f"{inside} ({one.closed})"] if one.closed else []
        if counts:
            self._found.add("", self._root, 0, hidden(counts), "warning")
        if self._repeated:
            self._found.add("", self._root, 0, not_followed(self._repeated), "warning")
        if closed:
            self._found.add("", self._root, 0, f"folders cannot be read: {names(closed)}")

    def _say_nested(self, train: Folder, classes: Sequence[Folder]) -> None:
        inner = {one.name: self._inner(one) for one in classes}
        nested = [one for one in classes if len(inner[one.name]) > 1]
        if not nested:
            return
        held = "; ".join(f"{names([one])}: {names(inner[one.name])}" for one in nested[:5])
        number = sum(max(1, len(inside)) for inside in inner.values())
        message = (
            f"{counted(len(nested), 'class holds', 'classes hold')} images in several folders "
            f"({held}{'; ...' if len(nested) > 5 else ''}): {len(classes)} classes are learnt, not "
            f"{number}; if the inner folders are the classes, move them up into {train.name}/"
        )
        self._found.add("", train.path, 0, message, "warning")

    def _inner(self, folder: Folder) -> list[Folder]:
        """What would be classes if a class were none: it too, where images lie directly in it."""
        way = way_down(folder)
        below = [one for one in way[-1].with_images if self._taken[one.identity] is one]
        return [*(one for one in way if one.images), *below]
