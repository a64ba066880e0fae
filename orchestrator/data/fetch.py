"""Fetch published tasks from the community copies on the Hugging Face hub.

What lies there for a suite, and how it is unpacked, its `source` says.

The client of the hub finds the file and reads it in blocks; why not its `hf_hub_download`:
that keeps nothing of a download which was given up (the next begins at byte 0), and looks at the
size alone, so that a file of the right length and other content is taken. Both were seen with
huggingface-hub 2.4.0. Ours goes on at the block where it stopped, and compares the sha256.
"""

import shutil
from pathlib import Path

from orchestrator.data.archives import check_space
from orchestrator.data.published_suite import Archive, Progress
from orchestrator.data.suites import PUBLISHED_SUITES
from orchestrator.data.task import DataError, Task
from orchestrator.support.checksum import sha256_of
from orchestrator.support.locks import exclusive
from orchestrator.support.whole_file import put_in_place

BLOCK_BYTES = 16 << 20
"""One request; what an interruption loses at most."""


def fetch_task(name: str, folder: Path, *, progress: Progress, endpoint: str | None = None) -> Task:
    """Bring an official task to this folder; one that is there is only read.

    A download that was interrupted goes on where it stopped, and the folder appears only when all
    lists and images are in it. How the copy differs from the published task is in its problems.
    `endpoint` is another hub than $HF_ENDPOINT or the public one.
    """
    suite = next(suite for suite in PUBLISHED_SUITES.values() if name in suite.tasks)
    archives = suite.source.archives(name)
    if folder.is_dir():
        return suite.read(folder)
    downloads = folder.parent / ".downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with exclusive(downloads / "lock"):
            if not folder.is_dir():
                paths = tuple(_download(one, downloads, progress, endpoint) for one in archives)
                part = downloads / "unpacked" / name
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                suite.source.unpack(suite, name, paths, part, progress)
                part.rename(folder)
            for archive in archives:
                if all((folder.parent / task).is_dir() for task in archive.tasks):
                    (downloads / archive.name).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from error
    return suite.read(folder)


def _download(archive: Archive, downloads: Path, progress: Progress, endpoint: str | None) -> Path:
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
            check_space(downloads, info["size"] - file.tell(), archive.name)
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
    if (lfs := info.get("lfs")) and sha256_of(part) != lfs.sha256:
        part.unlink()
        raise DataError(f"{archive.name} arrived damaged and was deleted; fetch it again")
    put_in_place(part, path)
    return path
