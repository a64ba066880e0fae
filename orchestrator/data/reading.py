"""What the readers of all layouts share: bounded reading, and checks that open no image."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from orchestrator.data.task import MAX_PROBLEMS_SHOWN, DataError, Example, Problem, Split

MAX_LIST_BYTES = 256 << 20
MAX_PATH_CHARACTERS = 4096


class Problems:
    """Collects what is wrong with one task, a bounded number for each split and severity."""

    def __init__(self, task: str) -> None:
        self.task = task
        self._kept: dict[tuple[str, str], list[Problem]] = {}
        self._dropped: Counter[tuple[str, str]] = Counter()

    def add(
        self,
        split: str,
        file: Path,
        line: int,
        message: str,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        kept = self._kept.setdefault((split, severity), [])
        if len(kept) == MAX_PROBLEMS_SHOWN:
            self._dropped[split, severity] += 1
            return
        kept.append(
            Problem(
                task=self.task,
                split=split,
                file=file,
                line=line,
                message=message,
                severity=severity,
            )
        )

    @property
    def all(self) -> tuple[Problem, ...]:
        """In order of discovery, each split's surplus as one problem at its end."""
        problems = []
        for key, kept in self._kept.items():
            problems += kept
            if more := self._dropped[key]:
                last = kept[-1]
                problems.append(
                    Problem(
                        task=self.task,
                        split=last.split,
                        file=last.file,
                        line=0,
                        message=f"{more:,} more of this kind",
                        severity=last.severity,
                    )
                )
        return tuple(problems)


def task_root(folder: Path) -> tuple[Path, str]:
    """The folder without links, so that nothing below leads out of it unseen; and its name."""
    name = folder.absolute().name
    if name in ("", ".."):
        name = Path(os.path.realpath(folder)).name
    if not name.isprintable():
        raise DataError(f"{str(folder)!r}: a task's folder needs a name that can be printed")
    return Path(os.path.realpath(folder)), name


def read_bounded(path: Path, root: Path) -> bytes:
    """The content of a list or a description inside a task's folder."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        raise DataError(f"leads out of the task's folder, to {real}")
    if not real.is_file():
        raise DataError("is not a regular file")
    if (size := real.stat().st_size) > MAX_LIST_BYTES:
        raise DataError(f"has {size:,} bytes; at most {MAX_LIST_BYTES:,} are read")
    try:
        return real.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error


def path_fault(file: str) -> str | None:
    """Why this relative path is refused, if it is. Links are followed when the image is opened."""
    if not file or file.startswith(("/", "\\")):
        return "must be relative to the task's folder"
    if len(file) > MAX_PATH_CHARACTERS:
        return f"is longer than {MAX_PATH_CHARACTERS} characters"
    if "\0" in file:
        return "holds a null character"
    if ".." in file and ".." in file.replace("\\", "/").split("/"):
        return "leads out of the task's folder with '..'"
    try:
        file.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return None


def brief(text: str) -> str:
    """Foreign text as it may stand in a message: short, and no control characters."""
    return repr(text if len(text) <= 100 else text[:97] + "...")


def check_labels(splits: Mapping[str, Split], num_classes: int, found: Problems) -> None:
    for name, split in splits.items():
        for example in split.examples:
            if not 0 <= example.label < num_classes:
                message = f"label {example.label} is out of range: 0 to {num_classes - 1}"
                found.add(name, split.source, example.line, message)


def check_overlap(splits: Mapping[str, Split], found: Problems) -> None:
    """An image of one split must not be in another: val would flatter, test would lie."""
    seen: dict[str, tuple[str, Example]] = {}
    for name in ("train", "val", "test"):
        for example in splits[name].examples if name in splits else ():
            file = os.path.normpath(example.file)
            other, first = seen.setdefault(file, (name, example))
            if first is not example:
                place = f"{splits[other].source.name}:{first.line}"
                if other != name:
                    message = f"{brief(file)} is in {name} and in {other} ({place})"
                    found.add(name, splits[name].source, example.line, message)
                else:
                    message = f"{brief(file)} stands here twice (first: {place})"
                    found.add(name, splits[name].source, example.line, message, "warning")
    if "trainval" not in splits:
        return
    trainval = splits["trainval"]
    files = set()
    for example in trainval.examples:
        file = os.path.normpath(example.file)
        files.add(file)
        if file in seen and seen[file][0] == "test":
            message = f"{brief(file)} is in trainval and in test"
            found.add("trainval", trainval.source, example.line, message)
    search = {file for file, (name, _) in seen.items() if name != "test"}
    if {"train", "val"} <= splits.keys() and files != search:
        message = (
            f"is not train and val together: {len(search - files)} of their images are missing, "
            f"{len(files - search)} are in neither"
        )
        found.add("trainval", trainval.source, 0, message, "warning")


def add_trainval(splits: dict[str, Split], root: Path) -> None:
    """What finalists are trained on, where no list of its own says it."""
    if "trainval" not in splits and {"train", "val"} <= splits.keys():
        both = splits["train"].examples + splits["val"].examples
        splits["trainval"] = Split(name="trainval", source=root, examples=both)
