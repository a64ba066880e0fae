"""What a task is: a data set on disk, its splits, and what was found wrong while reading it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Self

Group = Literal["natural", "specialized", "structured", "fine_grained", ""]

GROUPS: tuple[Group, ...] = ("natural", "specialized", "structured", "fine_grained")
SEARCH_SPLITS = ("train", "val")
FINAL_SPLITS = ("trainval", "test")

MAX_PROBLEMS_SHOWN = 20
"""Per list or split: a broken file of a million lines must not make a million messages."""


class DataError(ValueError):
    """The data cannot be used as it is; the message says where and what would work."""


class Held(NamedTuple):
    """Where an image lies in a file that holds many."""

    form: str
    """What opens that file: a name in `held.HOLDERS`."""
    file: str
    """That file, relative to the example's root."""
    column: str
    """Of its table; empty where the file is none."""
    row: int


class Example(NamedTuple):
    """One labelled image, small enough that a task may hold a hundred thousand."""

    root: str
    """The folder that the file must not leave, as an absolute path."""
    file: str
    """Relative to the root; of a held image, the name that it goes by: `train.parquet#0000017`."""
    label: int
    line: int
    """In the list that names it; 0 where no list does."""
    is_linked: bool = False
    """A link in a user's own folder, which may lead out of the root."""
    held: Held | None = None
    """For an image that is no file of its own."""

    @property
    def path(self) -> Path:
        return Path(self.root, self.file)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong with a task, and where."""

    task: str
    split: str
    """Empty for what concerns the whole task."""
    file: Path
    line: int
    """0 where no single line is to blame."""
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Split:
    """Examples in the order of their list."""

    name: str
    source: Path
    """The list file, or the folder, that says which examples these are."""
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Plain data: reading a task opens its lists, and decodes none of its images."""

    name: str
    """The official name where there is one: folders called cifar and cifar100 are one task."""
    group: Group
    num_classes: int
    class_names: tuple[str, ...]
    root: Path
    layout: str
    """How it lies on disk: as the tasks of a suite (vtab, fgvc), image_folder, or the name of one
    of `FORMS`."""
    splits: dict[str, Split]
    """The splits train, val, trainval and test, as far as there are any: those that could be
    read."""
    official: bool = False
    """A task of a published suite, under its own name and classes."""
    split_rule: str = ""
    """How we split, where the data came unsplit: seed and fractions."""
    read_as: str = ""
    """What was found there, in words, where it is neither a suite's layout nor class folders."""
    split_source: str = ""
    """Who says which splits there are, in words; empty: the folder."""
    notes: tuple[str, ...] = ()
    """What else there is to know about how the folder was understood."""
    problems: tuple[Problem, ...] = ()
    """Found while reading. A split with an error here is never opened."""

    def errors(self, splits: Iterable[str] | None = None) -> list[Problem]:
        """Errors of these splits and of the task as a whole; of all splits if none are named."""
        wanted = None if splits is None else {"", *splits}
        return [
            problem
            for problem in self.problems
            if problem.severity == "error" and (wanted is None or problem.split in wanted)
        ]

    def for_search(self) -> Self:
        """The same task without its final splits: all that a trial may hold."""
        kept = {name: split for name, split in self.splits.items() if name in SEARCH_SPLITS}
        return replace(self, splits=kept)


def data_error(what: str, problems: Sequence[Problem]) -> DataError:
    """One error for many problems: the first few with their places, then how many more."""
    shown = [f"  {problem}" for problem in problems[:MAX_PROBLEMS_SHOWN]]
    if len(problems) > MAX_PROBLEMS_SHOWN:
        shown.append(f"  ... and {len(problems) - MAX_PROBLEMS_SHOWN} more")
    return DataError("\n".join([f"{what}:", *shown]))
