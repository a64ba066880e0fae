"""Where the images of a table lie: paths are relative to its folder, or to one folder inside it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.data import formats
from orchestrator.data.reading import brief, path_fault
from orchestrator.data.task import DataError

TRIED = 20
"""Images that are looked for until the first is found."""


@dataclass(frozen=True, kw_only=True)
class ImagePlace:
    """Turns a path of a table into one relative to the task's folder."""

    root: Path
    folder: str = ""
    """Relative to the root, what the table's paths are relative to."""
    ending: str = ""
    """What the table's names lack."""
    can_move: bool = True
    """Whether --data may name another folder that they are relative to."""
    _real: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where folders that are written as absolute paths really are."""

    def file(self, written: str) -> str:
        """DataError says why this path is refused."""
        path = written.strip()
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", path):
            raise DataError(f"{brief(path)} is an address; only files on this machine are read")
        if "\\" in path and "/" not in path:
            path = path.replace("\\", "/")
        if fault := path_fault(path.lstrip("/")):
            relative_to = self.hint("the folder that paths are relative to") * (".." in path)
            raise DataError(f"{brief(path)} {fault}{relative_to}")
        if not Path(path).is_absolute():
            return os.path.normpath(f"{self.folder or '.'}/{path}{self.ending}")
        there = Path(path)
        if not there.is_relative_to(self.root):  # as it is written; links may lead into it
            folder, name = os.path.split(path)
            if folder not in self._real:
                self._real[folder] = os.path.realpath(folder)
            there = Path(self._real[folder], name)
        if not there.is_relative_to(self.root):
            inside = self.hint("a folder that all images lie in")
            raise DataError(f"{brief(path)} lies outside of {self.root}{inside}")
        return there.relative_to(self.root).as_posix()

    def hint(self, what: str) -> str:
        """What would help, as the end of a message."""
        return f"; name {what} with --data" if self.can_move else "; put the table beside them"


def written_path(value: object) -> str:
    """What a table has in its column of images: a path, or a number as a name; empty for none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def find_place(
    written: Sequence[str], root: Path, folder: Path, source: Path, *, can_move: bool = True
) -> ImagePlace:
    """Where the first images of a table are: in its folder, or in the one inside that has them.

    DataError says where they were looked for.
    """
    inside = folder.relative_to(root).as_posix()
    here = ImagePlace(root=root, folder="" if inside == "." else inside, can_move=can_move)
    files = []
    for path in written[:TRIED]:
        try:
            files.append(here.file(path))
        except DataError:
            continue  # named with its line by whoever reads them all
    if not files or _any_there(root, files):
        return here
    bare = not any(formats.ending(file) in formats.READ for file in files)
    endings = ["", *formats.READ] if bare else [""]
    for parent in ("", *_folders_in(folder)):
        for ending in endings:
            beside = os.path.normpath(f"{here.folder or '.'}/{parent}")
            place = ImagePlace(root=root, folder=beside, ending=ending, can_move=can_move)
            tried = [place.file(path) for path in written[: len(files)] if _is_plain(path)]
            if _any_there(root, tried):
                return place
    first = "image is" if len(files) == 1 else f"{len(files)} images are"
    raise DataError(
        f"{source}: the first {first} not there: {brief(written[0])} is neither in {folder} nor "
        f"in a folder in it{here.hint('the folder that paths are relative to')}"
    )


def _is_plain(path: str) -> bool:
    return path_fault(path.strip()) is None and "://" not in path


def _any_there(root: Path, files: Sequence[str]) -> bool:
    return any(os.path.isfile(root / file) for file in files)  # noqa: PTH113


def _folders_in(folder: Path) -> list[str]:
    names = sorted(one.name for one in os.scandir(folder) if one.is_dir() and one.name[0] != ".")
    known = ("images", "image", "imgs", "img", "photos", "data", "train")
    return [*(name for name in known if name in names), *names]
