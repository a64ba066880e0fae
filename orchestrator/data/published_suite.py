"""A suite with published numbers: its official tasks, under what names, and how they lie on disk.

To add one: write its file (`vtab.py`, `fgvc.py`) and name it in `PUBLISHED_SUITES` of `suites.py`.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from orchestrator.data.reading import Problems
from orchestrator.data.task import Group, Split, Task
from orchestrator.support.counted import counted

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, out of how much."""


@dataclass(frozen=True, kw_only=True)
class OfficialTask:
    """A task as it was published."""

    name: str
    group: Group
    num_classes: int
    counts: Mapping[str, int]
    """Images by split."""
    aliases: tuple[str, ...] = ()
    """Folder names that repositories use, where they differ by more than case and separators."""
    image_folder: str = ""
    """Paths in the lists are relative to this folder of the task."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file on the hub."""

    repository: str
    """The repository of the data set on the hub, `owner/name`."""
    name: str
    tasks: tuple[str, ...]
    """Whose images or lists it holds: once they are all in place, it is deleted."""


class Source(Protocol):
    """Where the tasks of a suite can be fetched from."""

    def archives(self, task: str) -> tuple[Archive, ...]:
        """Those that the task is made from."""
        ...

    def unpack(
        self,
        suite: "PublishedSuite",
        task: str,
        archives: tuple[Path, ...],
        folder: Path,
        progress: Progress,
    ) -> None:
        """Put the lists of the task and the images that they name into an empty folder.

        DataError if an archive is broken or lacks some.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class PublishedSuite:
    """A suite known by name, somewhere below the user's data folder."""

    name: str
    folders: tuple[str, ...]
    """Names that its folder may have; the first is the one that is made."""
    tasks: Mapping[str, OfficialTask]
    """By name, in the order of the published tables."""
    lists: Mapping[str, str]
    """The file that lists each split, in the folder of a task."""
    read: Callable[[Path], Task]
    """The task in a folder; what is wrong with it is in the task's `problems`."""
    contents: str
    """What to put into its folder, in words."""
    source: Source
    group_folders: tuple[str, ...] = ()
    """Some repositories sort the tasks into folders of these names, in any case."""
    augment: bool
    """Whether the published protocol trains on random crops and mirror images."""

    def is_task(self, folder: Path) -> bool:
        """Whether a folder holds a task in this suite's layout, official or not."""
        # Path.is_file would raise for a folder that we may not enter.
        return any(os.path.isfile(folder / name) for name in self.lists.values())  # noqa: PTH113

    def official_name(self, folder_name: str) -> str | None:
        """The official task that a folder of this name holds, if any: `CIFAR100` is `cifar`."""
        return self._by_plain_name.get(self._plain(folder_name))

    def official_task(self, folder_name: str) -> OfficialTask | None:
        return self.tasks.get(self.official_name(folder_name) or "")

    @cached_property
    def _by_plain_name(self) -> Mapping[str, str]:
        return {
            self._plain(name): task.name
            for task in self.tasks.values()
            for name in (task.name, *task.aliases)
        }

    def _plain(self, name: str) -> str:
        return re.sub(r"[-_ ]", "", name.lower()).removeprefix(self.name)


def compare(
    official: OfficialTask,
    num_classes: int,
    splits: Mapping[str, Split],
    root: Path,
    found: Problems,
    *,
    counted_in: str = "",
) -> None:
    """Warn of differences: a cut of an official task may be used, but has no published numbers.

    `counted_in` says where the classes were counted.
    """
    if num_classes != official.num_classes:
        message = f"{num_classes} classes{counted_in}; the official task has {official.num_classes}"
        found.add("", root, 0, message, "warning")
    for name, expected in official.counts.items():
        if name in splits and len(splits[name]) != expected:
            message = f"{counted(len(splits[name]), 'image')}; the official list has {expected:,}"
            found.add(name, splits[name].source, 0, message, "warning")
