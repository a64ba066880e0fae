"""Decoded images: made once per split and transform, mapped by every process that wants them.

One Arrow file per split and transform. Its name is the hash of what it was made from, so that a
changed image, label, order or transform makes another file and nothing ever has to be declared
stale.
"""

import hashlib
import logging
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.data.images import ContentHashes, parallel_map, read
from orchestrator.data.pixels import DECODER, decode
from orchestrator.data.task import (
    FINAL_SPLITS,
    SEARCH_SPLITS,
    DataError,
    Example,
    Problem,
    Split,
    Task,
    data_error,
)
from orchestrator.data.transform import ImageTransform
from orchestrator.support.counted import counted
from orchestrator.support.phases import each
from orchestrator.support.shared_folder import evict, found_or_made, mark_used
from orchestrator.support.whole_file import whole_path

logger = logging.getLogger(__name__)


def default_cache_root() -> Path:
    """$ORCHESTRATOR_CACHE, or a folder of the user's own."""
    configured = os.environ.get("ORCHESTRATOR_CACHE")
    return Path(configured or "~/.cache/visual-prompt-orchestrator").expanduser()


def content_hashes(cache_root: Path | None = None) -> ContentHashes:
    """The remembered hashes of image files that all users of a cache share."""
    return ContentHashes((cache_root or default_cache_root()) / "hashes.sqlite")


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedSplit:
    """All images of a split, mapped from the cache and not copied: read-only."""

    images: np.ndarray
    """(N, image_size, image_size, 3), uint8."""
    labels: np.ndarray
    """(N,), int64."""
    fingerprint: str
    """sha256 of the image files, the labels, their order and the transform."""
    path: Path

    def __len__(self) -> int:
        return len(self.labels)


def open_search_splits(
    task: Task, transform: ImageTransform, cache: "ImageCache"
) -> dict[str, DecodedSplit]:
    """The decoded train and val. There is no way from here to the test images."""
    return {name: _open(task, name, transform, cache) for name in SEARCH_SPLITS}


def open_final_splits(
    task: Task, transform: ImageTransform, cache: "ImageCache"
) -> dict[str, DecodedSplit]:
    """The decoded trainval and test, for the finalists alone."""
    return {name: _open(task, name, transform, cache) for name in FINAL_SPLITS}


def _open(task: Task, name: str, transform: ImageTransform, cache: "ImageCache") -> DecodedSplit:
    parts = ("train", "val", "trainval") if name == "trainval" else (name,)
    if errors := task.errors(parts):
        raise data_error(f"task {task.name}", errors)
    if name not in task.splits:
        raise DataError(f"task {task.name} has no {name} split; it has {', '.join(task.splits)}")
    return cache.open(task.splits[name], transform)


def task_fingerprint(
    task: Task,
    transform: ImageTransform | None = None,
    *,
    splits: Sequence[str] = SEARCH_SPLITS,
    hashes: ContentHashes | None = None,
) -> str:
    """sha256 of what these splits hold: image files, labels, order, number of classes, transform.

    Where the folder lies and what its files are called does not matter.
    """
    hashes = hashes or content_hashes()
    parts = [str(task.num_classes), transform.key if transform else ""]
    for name in splits:
        if name not in task.splits:
            raise DataError(f"task {task.name} has no {name} split")
        split = task.splits[name]
        labels = [example.label for example in split.examples]
        parts += [name, _key(labels, _content_hashes(split, hashes))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _content_hashes(split: Split, hashes: ContentHashes) -> list[bytes]:
    results = hashes.of(split.examples)
    failed = [
        (example, result)
        for example, result in zip(split.examples, results, strict=True)
        if isinstance(result, DataError)
    ]
    if failed:
        raise _unreadable(split, failed)
    return [result for result in results if isinstance(result, bytes)]


def _unreadable(split: Split, failed: Iterable[tuple[Example, DataError]]) -> DataError:
    problems = [
        Problem(
            task="",
            split=split.name,
            file=split.source if example.line else example.path,
            line=example.line,
            message=str(error),
        )
        for example, error in failed
    ]
    return data_error(f"{counted(len(problems), 'image')} of {split.name} cannot be used", problems)


def _key(labels: Iterable[int], contents: Iterable[bytes], made_by: str = "") -> str:
    digest = hashlib.sha256(made_by.encode())
    for label, content in zip(labels, contents, strict=True):
        digest.update(content + int(label).to_bytes(8, "little", signed=True))
    return digest.hexdigest()


class ImageCache:
    """A bounded folder of decoded splits, shared by any number of processes of a node."""

    def __init__(self, root: Path | None = None, *, max_bytes: int = 20 << 30) -> None:
        self.root = root or default_cache_root()
        self.max_bytes = max_bytes
        self.hashes = content_hashes(self.root)
        self.decoded_images = 0
        """How many images this instance decoded: none, once another has decoded them."""

    def open(self, split: Split, transform: ImageTransform) -> DecodedSplit:
        """The decoded split: mapped if it is there and whole, made if not."""
        if not split.examples:
            raise DataError(f"{split.source}: split {split.name} names no image")
        contents = _content_hashes(split, self.hashes)
        labels = [example.label for example in split.examples]
        made_by = f"{DECODER} {transform.key}"
        folder = f"{transform.image_size}px-{hashlib.sha256(made_by.encode()).hexdigest()[:8]}"
        path = self.root / "decoded" / folder / f"{_key(labels, contents, made_by)}.arrow"
        return self._open(path, made_by, lambda: self._build(path, split, contents, transform))

    def open_file(
        self, name: str, transform: ImageTransform, fetch: Callable[[str, Path], None]
    ) -> DecodedSplit:
        """The decoded split in the file `name` of another cache: mapped if it is here and whole.

        If not, `fetch(name, path)` has to write that file to `path`.
        """
        path = self.root / name
        return self._open(path, f"{DECODER} {transform.key}", lambda: fetch(name, path))

    def _open(self, path: Path, made_by: str, make: Callable[[], None]) -> DecodedSplit:
        def made() -> DecodedSplit:
            make()
            decoded = _map(path, made_by)
            assert decoded is not None, f"{path} cannot be read back"
            return decoded

        try:
            decoded = found_or_made(path, lambda: _map(path, made_by), made)
            with _mapped_lock:
                _mapped_here.add(decoded)
            mark_used(path)
            self._evict()
        except OSError as error:
            raise DataError(
                f"the cache of decoded images in {self.root}: {error.strerror or error}; "
                "another folder can be named with ORCHESTRATOR_CACHE"
            ) from error
        return decoded

    def _build(
        self, path: Path, split: Split, contents: Sequence[bytes], transform: ImageTransform
    ) -> None:
        size = transform.image_size
        num_bytes = len(split) * size * size * 3
        if num_bytes > self.max_bytes:
            logger.warning(
                "%s needs %.1f GiB decoded, more than the cache's bound of %.1f GiB",
                split.source,
                num_bytes / 2**30,
                self.max_bytes / 2**30,
            )
        self._make_room(num_bytes)
        known = _DecodedBefore(path.parent, set(contents))
        failed: list[tuple[Example, DataError]] = []
        decoded: list[Example] = []

        def row(item: tuple[Example, bytes]) -> np.ndarray | DataError:
            example, content = item
            if content in known:
                return known[content]
            decoded.append(example)
            try:
                data = read(example)
                if hashlib.sha256(data).digest() != content:
                    return DataError(f"{example.file!r} changed while it was read")
                return transform.apply(decode(data, example.file))
            except DataError as error:
                return error

        from orchestrator.data.arrow import new_arrow_images

        with whole_path(path) as part:
            with new_arrow_images(part, split, contents, size) as write:
                rows = each(
                    f"{split.source.name}, writing decoded images",
                    parallel_map(row, zip(split.examples, contents, strict=True)),
                    len(split),
                )
                for index, (example, pixels) in enumerate(zip(split.examples, rows, strict=True)):
                    if isinstance(pixels, DataError):
                        failed.append((example, pixels))
                    elif not failed:
                        write(index, pixels)
            if failed:
                raise _unreadable(split, failed)
        self.decoded_images += len(decoded)
        logger.info("%s: decoded %d of %d images", split.source, len(decoded), len(split))

    def _make_room(self, num_bytes: int) -> None:
        """Evict until a new file fits the disk, or say that it cannot."""
        self._evict(self.max_bytes - num_bytes)
        free = shutil.disk_usage(self.root).free
        if free < num_bytes:
            self._evict(0)
            free = shutil.disk_usage(self.root).free
        if free < num_bytes:
            raise DataError(
                f"the cache of decoded images in {self.root} needs {num_bytes / 2**20:,.0f} MiB, "
                f"{free / 2**20:,.0f} MiB are free; another folder can be named with "
                "ORCHESTRATOR_CACHE"
            )

    def _evict(self, max_bytes: int | None = None) -> None:
        """Delete what was used longest ago, down to the bound; never what this process maps."""

        def mapped() -> set[Path]:
            with _mapped_lock:
                return {decoded.path for decoded in _mapped_here}

        bound = self.max_bytes if max_bytes is None else max_bytes
        evict(self.root, "decoded/*/*.arrow", bound, keep=mapped)


_mapped_lock = threading.Lock()
_mapped_here: "weakref.WeakSet[DecodedSplit]" = weakref.WeakSet()


def _map(path: Path, made_by: str) -> DecodedSplit | None:
    """The decoded split in this file; None if it is not there, or damaged."""
    if not path.exists():
        return None
    from orchestrator.data.arrow import DAMAGE, ArrowImages

    try:
        file = ArrowImages(path)
        if _key(file.labels, file.contents.to_pylist(), made_by) != path.stem:
            raise ValueError("it holds other images than its name says")
        damaged = next((row for row in range(len(file.labels)) if not file.is_whole(row)), None)
        if damaged is not None:
            raise ValueError(f"image {damaged} does not match its checksum")
    except FileNotFoundError:  # evicted by another process just now
        return None
    except DAMAGE as error:
        logger.warning("%s is damaged and will be made again: %s", path, error)
        return None
    return DecodedSplit(images=file.images, labels=file.labels, fingerprint=path.stem, path=path)


class _DecodedBefore:
    """Images in other files of the same transform: trainval is train and val once more."""

    def __init__(self, folder: Path, wanted: set[bytes]) -> None:
        from orchestrator.data.arrow import DAMAGE, ArrowImages

        self._rows: dict[bytes, tuple[ArrowImages, int]] = {}
        for path in folder.glob("*.arrow"):
            try:
                file = ArrowImages(path)
            except DAMAGE:
                continue  # damaged: whoever needs it will say so and make it again
            for row, content in enumerate(file.contents.to_pylist()):
                if content in wanted and content not in self._rows and file.is_whole(row):
                    self._rows[content] = (file, row)

    def __contains__(self, content: bytes) -> bool:
        return content in self._rows

    def __getitem__(self, content: bytes) -> np.ndarray:
        file, row = self._rows[content]
        return file.images[row]
