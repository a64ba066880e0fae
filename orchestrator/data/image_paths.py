"""Which image files a user means who names files and folders."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.formats import left_out
from orchestrator.data.task import DataError
from orchestrator.data.walk import Folder, list_folder


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """What cannot be classified, and why."""

    image: str
    error: str


def find_images(named: Sequence[Path]) -> tuple[list[Path | Unreadable], list[str]]:
    """The files, in order, and one line for each folder of which something is left out.

    A folder is walked as a suite of images is. What is wrong with one name costs no other.
    """
    found: list[Path | Unreadable] = []
    notes: list[str] = []
    for path in named:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            listed = list_folder(path)
        except DataError as error:
            found.append(Unreadable(image=str(path), error=str(error)))
            continue
        found += files_in(listed) or [Unreadable(image=str(path), error=_nothing_in(listed))]
        notes += [f"{path}: {line}" for line in left_out_of(listed)]
    return found, notes


def files_in(listed: Folder) -> list[Path | Unreadable]:
    """The images of a folder and of all below it; a folder that is closed in its place."""
    files: list[Path | Unreadable] = []
    for folder in listed.everything():
        if folder.closed:
            error = f"{str(folder.path)!r} cannot be read: {folder.closed}"
            files.append(Unreadable(image=str(folder.path), error=error))
        files += [folder.path / name for name in sorted([*folder.images, *folder.broken])]
    return files


def _nothing_in(listed: Folder) -> str:
    others = sum((folder.others for folder in listed.everything()), Counter[str]())
    there = ", ".join(f"{number:,} {ending}" for ending, number in sorted(others.items()))
    return f"{str(listed.path)!r} holds no image that is read here" + (there and f" ({there})")


def left_out_of(listed: Folder) -> Iterator[str]:
    """What is not among its images though it might be meant: a line for each kind."""
    unread = sum((folder.unread for folder in listed.everything()), Counter[str]())
    if unread:
        yield left_out(unread)
    hidden = sum((folder.hidden for folder in listed.everything()), Counter[str]())
    if hidden:
        where = ", ".join(f"{number:,} in {name}" for name, number in sorted(hidden.items()))
        yield f"images in what is hidden are left out: {where}"
