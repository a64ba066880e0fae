"""A folder of images as it lies on the disk: listed once, whatever is not used is counted.

Hidden files and folders, and those that cameras, file managers and notebooks leave behind, are
passed by at every depth. A link in a user's own folder is the user's decision and is followed, but
neither to its neighbour nor to what holds it or a folder on the way to it: no loop is endless. What
else was listed does not count, so that a folder is the same from wherever it is reached, and
several tasks may share images.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.data import formats
from orchestrator.data.task import DataError

CLUTTER = frozenset({
    "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information",
    "lost+found",
})  # fmt: skip
"""Folders that are never a class, in small letters; and all whose names begin with . or _"""
UNCOUNTED = frozenset({".git", ".dvc", ".hg", ".svn"})
"""Stores of other programs: their files are copies of what lies in the folder."""
MAX_FILES = 5_000_000
MAX_DEPTH = 100
MAX_AGAIN = 50_000
"""Folders listed again by links: a few that link to each other have more ways than can be gone."""


@dataclass(kw_only=True, eq=False)
class Folder:
    """One folder and those below it, sorted by name."""

    name: str
    path: Path
    identity: tuple[int, int]
    """The numbers of device and file: the same for all links to one folder."""
    real: str
    """Where it lies, with all links resolved."""
    above: "Folder | None" = field(default=None, repr=False)
    """The folder that it was found in."""
    depth: int = 0
    num_links: int = 0
    """Links to folders on the way from the top to this one."""
    images: list[str] = field(default_factory=list)
    """Names of the files that are read as images."""
    linked: set[str] = field(default_factory=set)
    """Those of the images that are links."""
    folders: list["Folder"] = field(default_factory=list)
    num_images: int = 0
    """Here and below."""
    num_unread: int = 0
    """Images here and below that are not read, and links to nowhere."""
    unread: Counter[str] = field(default_factory=Counter)
    """Images that are not read here, by ending."""
    others: Counter[str] = field(default_factory=Counter)
    """Files that are no images, by ending."""
    lists: list[str] = field(default_factory=list)
    """Those of them that may hold labels."""
    hidden: Counter[str] = field(default_factory=Counter)
    """Images in what is passed by, by its name."""
    broken: list[str] = field(default_factory=list)
    """Images and folders that are links to nowhere."""
    repeated: list[str] = field(default_factory=list)
    """Links that are not followed."""
    closed: str = ""
    """Why this folder could not be listed."""

    def everything(self) -> Iterator["Folder"]:
        """This folder and all below it: first its own files, then its folders."""
        waiting: list[Folder] = [self]
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting.extend(reversed(folder.folders))

    @property
    def is_linked(self) -> bool:
        """Reached by a link to a folder, here or above."""
        return self.num_links > 0

    @property
    def with_images(self) -> list["Folder"]:
        """The folders directly in this one that hold images, at any depth."""
        return [folder for folder in self.folders if folder.num_images]

    @property
    def holds_any_image(self) -> bool:
        """Whether there is an image at any depth, be it one that is not read."""
        return self.num_images + self.num_unread > 0


LIST_ENDINGS = (
    ".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx", ".parquet", ".xml", ".yaml", ".yml", ".mat",
)  # fmt: skip


def list_folder(path: Path) -> Folder:
    """List a folder and all below it. DataError if it cannot be listed or is too large."""
    try:
        identity = _identity(os.stat(path))  # noqa: PTH116
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    top = Folder(name=path.name, path=path, identity=identity, real=os.path.realpath(path))
    listed: list[Folder] = []
    waiting = [top]
    seen: set[tuple[int, int]] = set()
    num_files = num_again = 0
    while waiting:
        folder = waiting.pop()
        num_files += _list(folder)
        num_again += folder.is_linked and folder.identity in seen
        seen.add(folder.identity)
        listed.append(folder)
        waiting.extend(folder.folders)
        if num_files > MAX_FILES:
            raise DataError(f"{path} holds more than {MAX_FILES:,} files")
        if num_again > MAX_AGAIN:
            raise DataError(
                f"{path}: links lead more than {MAX_AGAIN:,} times to folders that are read "
                f"already, such as {folder.path}; remove links between folders that link to each "
                "other"
            )
        if folder.depth > MAX_DEPTH:
            raise DataError(f"{folder.path}: folders are nested deeper than {MAX_DEPTH}")
    if top.closed:
        raise DataError(f"{path} cannot be read: {top.closed}")
    for folder in reversed(listed):
        folder.images.sort()
        folder.folders.sort(key=lambda one: one.name)
        unread = folder.unread.total() + len(folder.broken)
        folder.num_images = len(folder.images) + sum(one.num_images for one in folder.folders)
        folder.num_unread = unread + sum(one.num_unread for one in folder.folders)
    return top


def _list(folder: Folder) -> int:
    """List one folder: how many entries it has."""
    count = 0
    links: list[str] = []
    try:
        with os.scandir(folder.real) as entries:
            for entry in entries:
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    _enter(folder, entry)
                elif entry.is_symlink() and _leads_to_folder(entry):
                    if not _is_clutter(entry.name):
                        links.append(entry.name)
                else:
                    _take_file(folder, entry)
    except OSError as error:
        folder.closed = error.strerror or str(error)
    for name in sorted(links):  # last, so that a folder keeps its own name
        _follow(folder, name)
    return count


def _enter(folder: Folder, entry: "os.DirEntry[str]") -> None:
    name = entry.name
    if _is_clutter(name):
        if name.lower() not in UNCOUNTED and (hidden := _count_images(entry.path)):
            folder.hidden[name] += hidden
        return
    identity = _identity(entry.stat(follow_symlinks=False))
    _add(folder, name, identity, os.path.join(folder.real, name), folder.num_links)  # noqa: PTH118


def _follow(folder: Folder, name: str) -> None:
    path = os.path.join(folder.real, name)  # noqa: PTH118
    try:
        identity = _identity(os.stat(path))  # noqa: PTH116
    except OSError:
        folder.broken.append(name)
        return
    real = os.path.realpath(path)
    is_neighbour = any(identity == one.identity for one in folder.folders)
    if is_neighbour or _leads_back(folder, identity, real):
        folder.repeated.append(name)
    else:
        _add(folder, name, identity, real, folder.num_links + 1)


def _leads_back(folder: Folder | None, identity: tuple[int, int], real: str) -> bool:
    """Whether what is found there is or holds this folder, or one on the way to it."""
    holds = os.path.join(real, "")  # noqa: PTH118
    while folder is not None:
        if folder.identity == identity or folder.real.startswith(holds):
            return True
        folder = folder.above
    return False


def _add(folder: Folder, name: str, identity: tuple[int, int], real: str, num_links: int) -> None:
    folder.folders.append(
        Folder(
            name=name,
            path=folder.path / name,
            identity=identity,
            real=real,
            above=folder,
            depth=folder.depth + 1,
            num_links=num_links,
        )
    )


def _take_file(folder: Folder, entry: "os.DirEntry[str]") -> None:
    name = entry.name
    ending = formats.ending(name)
    is_image = ending in formats.READ
    if name.startswith("."):
        if is_image or ending in formats.UNREAD:
            folder.hidden["hidden files"] += 1
    elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
        if is_image or not ending:  # an image or a class
            folder.broken.append(name)
    elif is_image:
        folder.images.append(name)
        if entry.is_symlink():
            folder.linked.add(name)
    elif ending in formats.UNREAD:
        folder.unread[ending] += 1
    elif name.lower() not in ("thumbs.db", "desktop.ini"):
        folder.others[ending or "without an ending"] += 1
        if ending in LIST_ENDINGS:
            folder.lists.append(name)


def _is_clutter(name: str) -> bool:
    return name[0] in "._" or name.lower() in CLUTTER


def _count_images(path: str) -> int:
    """What is passed by with a folder; one that may not be entered holds nothing for us."""
    return sum(
        formats.is_read(name) or formats.is_unread_image(name)
        for _, _, files in os.walk(path)
        for name in files
        if not name.startswith("._")  # what macOS writes beside each file
    )


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(20, "is not a folder")
    return status.st_dev, status.st_ino
