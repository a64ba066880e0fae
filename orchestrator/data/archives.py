"""A task out of archives: what its lists name, to paths made from the lists, and nothing else.

Nothing in an archive decides where a file is written.
"""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from orchestrator.data.images import MAX_FILE_BYTES
from orchestrator.data.published_suite import Archive, Progress, PublishedSuite
from orchestrator.data.reading import MAX_LIST_BYTES
from orchestrator.data.task import DataError, Task, data_error
from orchestrator.support.counted import counted

_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    RuntimeError,  # an encrypted zip
    NotImplementedError,  # a compression that Python does not know
)


@dataclass(frozen=True, kw_only=True)
class ZipOfTasks:
    """One zip with a folder for each task, called by any of its names, at any depth."""

    archive: Archive

    def archives(self, task: str) -> tuple[Archive, ...]:
        return (self.archive,)

    def unpack(
        self,
        suite: PublishedSuite,
        task: str,
        archives: tuple[Path, ...],
        folder: Path,
        progress: Progress,
    ) -> None:
        (archive,) = archives
        with _opened_zip(archive) as zipped:
            members = {info.filename: info for info in zipped.infolist() if not info.is_dir()}
            lists = {
                path.name: member
                for path, member in ((PurePosixPath(member), member) for member in members)
                if path.name in (*suite.lists.values(), "classes.txt")
                and suite.official_name(path.parent.name) == task
            }
            if not lists:
                raise DataError(f"{archive} holds no lists of {task}")
            for file_name, member in lists.items():
                with zipped.open(member) as source:
                    _write(source, folder / file_name, MAX_LIST_BYTES)
            # A list stands in the folder of its task.
            prefix = str(PurePosixPath(next(iter(lists.values()))).parent)
            wanted = _wanted(suite.read(folder))
            sources = {file: members.get(f"{prefix}/{file}") for file in wanted}
            if missing := sorted(file for file, member in sources.items() if member is None):
                raise DataError(
                    f"{archive} lacks {counted(len(missing), 'image')} of {task}: {missing[:3]}"
                )
            num_bytes = sum(member.file_size for member in sources.values() if member)
            check_space(folder, num_bytes, task)
            for done, (file, member) in enumerate(sources.items()):
                progress(f"unpacking {task}", done, len(sources))
                assert member is not None
                with zipped.open(member) as source:
                    _write(source, folder / file, MAX_FILE_BYTES)
        progress(f"unpacking {task}", len(wanted), len(wanted))


@dataclass(frozen=True, kw_only=True)
class ListsAndImages:
    """One zip with the lists of all tasks, and an archive of images for each task."""

    lists: Archive
    images: Mapping[str, Archive]

    def archives(self, task: str) -> tuple[Archive, ...]:
        return (self.lists, self.images[task])

    def unpack(
        self,
        suite: PublishedSuite,
        task: str,
        archives: tuple[Path, ...],
        folder: Path,
        progress: Progress,
    ) -> None:
        lists, images = archives
        with _opened_zip(lists) as zipped:
            for member in zipped.namelist():
                path = PurePosixPath(member)
                is_ours = suite.official_name(path.parent.name) == task
                if is_ours and path.name in suite.lists.values():
                    with zipped.open(member) as source:
                        _write(source, folder / path.name, MAX_LIST_BYTES)
        wanted = _wanted(suite.read(folder))
        total = len(wanted)
        try:
            with tarfile.open(images, "r|*") as archive:
                for member in archive:
                    progress(f"unpacking {task}", total - len(wanted), total)
                    file = _wanted_suffix(member.name, wanted) if member.isfile() else None
                    source = archive.extractfile(member) if file else None
                    if file and source:
                        _write(source, folder / file, MAX_FILE_BYTES)
                        wanted.discard(file)
                    if not wanted:
                        break
        except _ARCHIVE_ERRORS as error:
            raise DataError(f"{images} is broken: {error}; delete it and run this again") from error
        if wanted:
            raise DataError(
                f"{images} lacks {counted(len(wanted), 'image')} of {task}: {sorted(wanted)[:3]}"
            )


def check_space(folder: Path, num_bytes: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise DataError(
            f"{name} takes {num_bytes / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free in {folder}"
        )


def _wanted(task: Task) -> set[str]:
    """All images that the lists name; DataError if the lists have faults."""
    if errors := task.errors():
        raise data_error(f"the lists of {task.name} as fetched cannot be used", errors)
    return {
        PurePosixPath(example.file).as_posix()
        for split in task.splits.values()
        for example in split.examples
    }


def _wanted_suffix(member: str, wanted: set[str]) -> str | None:
    """The wanted file that a member of an archive is, whatever folders it is packed in."""
    parts = PurePosixPath(member).parts
    suffixes = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((suffix for suffix in suffixes if suffix in wanted), None)


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as zipped:
            yield zipped
    except _ARCHIVE_ERRORS as error:
        raise DataError(f"{path} is broken: {error}; delete it and run this again") from error


def _write(source: IO[bytes], target: Path, max_bytes: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while block := source.read(1 << 20):
            if file.tell() + len(block) > max_bytes:
                raise DataError(f"{target.name} in the archive is larger than {max_bytes:,} bytes")
            file.write(block)
