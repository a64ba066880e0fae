"""Fetch published tasks from the community copies on the Hugging Face hub.

VTAB-1k is one zip of task folders; the fine-grained tasks are one zip of split lists and an archive
of images each. Out of an archive comes only what the lists name, to paths made from the lists:
nothing in an archive decides where a file is written.
"""

import hashlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from orchestrator.data import fgvc, vtab
from orchestrator.data.images import MAX_FILE_BYTES
from orchestrator.data.reading import MAX_LIST_BYTES
from orchestrator.data.task import DataError, Task, data_error
from orchestrator.support.locks import exclusive

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, out of how much."""

BLOCK_BYTES = 16 << 20
"""One request; what an interruption loses at most."""

_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    RuntimeError,  # an encrypted zip
    NotImplementedError,  # a compression that Python does not know
)


@dataclass(frozen=True, kw_only=True)
class _Archive:
    repository: str
    name: str
    tasks: tuple[str, ...]
    """Whose images or lists it holds: once they are all in place, it is deleted."""


_VTAB = _Archive(repository="XiN0919/VTAB-1k", name="vtab-1k.zip", tasks=tuple(vtab.OFFICIAL_TASKS))
_FGVC_LISTS = _Archive(
    repository="XiN0919/FGVC", name="fgvc_split.zip", tasks=tuple(fgvc.FINE_GRAINED_TASKS)
)
_FGVC_IMAGES = {
    task: _Archive(repository="XiN0919/FGVC", name=name, tasks=(task,))
    for task, name in (
        ("cub", "CUB_200_2011.tgz"),
        ("nabirds", "nabirds.tar.gz"),
        ("oxford_flowers", "102flowers.tgz"),
        ("stanford_dogs", "images.tar"),
        ("stanford_cars", "car_ims.tgz"),
    )
}


def fetch_task(name: str, folder: Path, *, progress: Progress, endpoint: str | None = None) -> Task:
    """Bring an official task to this folder; one that is there is only read.

    A download that was interrupted goes on where it stopped, and the folder appears only when all
    lists and images are in it. How the copy differs from the published task is in its problems.
    `endpoint` is another hub than $HF_ENDPOINT or the public one.
    """
    read = vtab.read_vtab_task if name in vtab.OFFICIAL_TASKS else fgvc.read_fgvc_task
    archives = (_VTAB,) if name in vtab.OFFICIAL_TASKS else (_FGVC_LISTS, _FGVC_IMAGES[name])
    if folder.is_dir():
        return read(folder)
    downloads = folder.parent / ".downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with exclusive(downloads / "lock"):
            if not folder.is_dir():
                paths = [_download(archive, downloads, progress, endpoint) for archive in archives]
                part = downloads / "unpacked" / name
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                if name in vtab.OFFICIAL_TASKS:
                    _unpack_vtab(name, paths[0], part, progress)
                else:
                    _unpack_fgvc(name, paths[0], paths[1], part, progress)
                part.rename(folder)
            for archive in archives:
                if all((folder.parent / task).is_dir() for task in archive.tasks):
                    (downloads / archive.name).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from error
    return read(folder)


def _download(archive: _Archive, downloads: Path, progress: Progress, endpoint: str | None) -> Path:
    """The archive on this disk: fetched before, put there by hand, or fetched now."""
    path = downloads / archive.name
    if path.is_file():
        return path
    # Slow to import, and needed by this command alone.
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.errors import (
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of whatever it uses for HTTP
    )

    api = HfApi(endpoint)
    try:
        revision = api.dataset_info(archive.repository).sha
        hub = HfFileSystem(endpoint=api.endpoint, skip_instance_cache=True)
        remote_path = f"datasets/{archive.repository}@{revision}/{archive.name}"
        info = hub.info(remote_path)
        # Of this revision: old and new bytes of a copy that changed must not be mixed.
        part = downloads / f"{archive.name}.{revision}.part"
        with (
            hub.open(remote_path, block_size=BLOCK_BYTES, cache_type="none") as remote,
            part.open("ab") as file,
        ):
            _check_space(downloads, info["size"] - file.tell(), archive.name)
            remote.seek(file.tell())
            while (missing := info["size"] - file.tell()) > 0:
                progress(archive.name, file.tell(), info["size"])
                block = remote.read(min(BLOCK_BYTES, missing))
                assert isinstance(block, bytes)
                if not 0 < len(block) <= missing:
                    raise DataError(f"{archive.name}: the hub sent {len(block):,} bytes")
                file.write(block)
        progress(archive.name, info["size"], info["size"])
    except (HTTPError, ConnectionError, FileNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{archive.name} cannot be fetched from {api.endpoint}/datasets/{archive.repository}: "
            f"{reason}. The same command goes on where this one stopped; without network, put the "
            f"file into {downloads} by hand and run it again"
        ) from error
    if (lfs := info.get("lfs")) and _sha256(part) != lfs.sha256:
        part.unlink()
        raise DataError(f"{archive.name} arrived damaged and was deleted; fetch it again")
    part.rename(path)
    return path


def _check_space(folder: Path, num_bytes: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise DataError(
            f"{name} takes {num_bytes / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free in {folder}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack_vtab(name: str, archive: Path, part: Path, progress: Progress) -> None:
    """A task's folder may be called by any of its names, at any depth of the zip."""
    with _opened_zip(archive) as zipped:
        members = {info.filename: info for info in zipped.infolist() if not info.is_dir()}
        lists = {
            path.name: member
            for path, member in ((PurePosixPath(member), member) for member in members)
            if path.name in (*vtab.LISTS.values(), "classes.txt")
            and vtab.official_name(path.parent.name) == name
        }
        if not lists:
            raise DataError(f"{archive} holds no lists of {name}")
        for file_name, member in lists.items():
            with zipped.open(member) as source:
                _write(source, part / file_name, MAX_LIST_BYTES)
        # A list stands in the folder of its task.
        prefix = str(PurePosixPath(next(iter(lists.values()))).parent)
        wanted = _wanted(vtab.read_vtab_task(part))
        sources = {file: members.get(f"{prefix}/{file}") for file in wanted}
        if missing := sorted(file for file, member in sources.items() if member is None):
            raise DataError(f"{archive} lacks {len(missing):,} images of {name}: {missing[:3]}")
        _check_space(part, sum(member.file_size for member in sources.values() if member), name)
        for done, (file, member) in enumerate(sources.items()):
            progress(f"unpacking {name}", done, len(sources))
            assert member is not None
            with zipped.open(member) as source:
                _write(source, part / file, MAX_FILE_BYTES)
    progress(f"unpacking {name}", len(wanted), len(wanted))


def _unpack_fgvc(name: str, lists: Path, images: Path, part: Path, progress: Progress) -> None:
    with _opened_zip(lists) as zipped:
        for member in zipped.namelist():
            path = PurePosixPath(member)
            is_ours = fgvc.official_name(path.parent.name) == name
            if is_ours and path.name in fgvc.LISTS.values():
                with zipped.open(member) as source:
                    _write(source, part / path.name, MAX_LIST_BYTES)
    wanted = _wanted(fgvc.read_fgvc_task(part))
    total = len(wanted)
    try:
        with tarfile.open(images, "r|*") as archive:
            for member in archive:
                progress(f"unpacking {name}", total - len(wanted), total)
                file = _wanted_suffix(member.name, wanted) if member.isfile() else None
                source = archive.extractfile(member) if file else None
                if file and source:
                    _write(source, part / file, MAX_FILE_BYTES)
                    wanted.discard(file)
                if not wanted:
                    break
    except _ARCHIVE_ERRORS as error:
        raise DataError(f"{images} is broken: {error}; delete it and run this again") from error
    if wanted:
        raise DataError(f"{images} lacks {len(wanted):,} images of {name}: {sorted(wanted)[:3]}")


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
