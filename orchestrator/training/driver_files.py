"""What a worker that does not share the driver's disk gets from there, and what it gives back.

Decoded images and the weights of the backbone come to a node once, into the cache folder of that
node, where all its processes find them; a node that joins later gets them when a trial asks. Tuned
weights go back to the folder of the sweep before the trial counts as finished. Checkpoints stay on
the node: a trial whose node is lost begins again.

Who carries the files is behind `FileCarrier`; nothing here knows Ray.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from methods.backbones import save_frozen
from orchestrator.data.cache import DecodedSplit, ImageCache
from orchestrator.data.transform import ImageTransform
from orchestrator.support.shared_folder import found_or_made
from orchestrator.support.whole_file import whole_file, whole_path
from orchestrator.training.backbone import BackbonePlan, load_planned_backbone

logger = logging.getLogger(__name__)

WEIGHTS_FOLDER = "weights"
CHECKPOINTS_FOLDER = "checkpoints"
ATTEMPTS = 3


class _DamagedError(Exception):
    """What arrived is not what was sent."""


class FileCarrier(Protocol):
    """The driver's side, to a worker."""

    def fetch(self, name: str) -> tuple[str, Iterable[memoryview]]:
        """sha256 and content, in parts, of a file in the driver's cache folder."""
        ...

    def keep(self, path: str, content: bytes) -> None:
        """Write a file into the folder of the sweep; on return it is on the disk."""
        ...


class DriverFiles:
    """Everything that the trials of a sweep may ask the driver for."""

    def __init__(
        self,
        carrier: FileCarrier,
        splits: Mapping[str, Mapping[str, str]],
        weights: str,
        sweep: str,
    ) -> None:
        """`splits`: file of each decoded split by task; `weights`: that of the frozen backbone.

        Files are named relative to the cache folder, the same on every node.
        """
        self._carrier = carrier
        self._splits = splits
        self._weights = weights
        self._sweep = sweep
        self._checkpoint: Path | None = None
        self._known: tuple[int, int] | None = None
        """What its file was when this worker took it over or wrote it last."""

    def splits(
        self, task: str, names: Sequence[str], transform: ImageTransform
    ) -> dict[str, DecodedSplit]:
        """Decoded splits of a task, from the cache of this node."""
        files, cache = self._splits[task], ImageCache()
        return {name: cache.open_file(files[name], transform, self._fetch) for name in names}

    def weights(self) -> Path:
        """The frozen backbone, in the cache of this node."""
        path = ImageCache().root / self._weights

        def fetched() -> Path:
            self._fetch(self._weights, path)
            return path

        return found_or_made(path, lambda: _if_there(path), fetched)

    def checkpoint(self, path: Path) -> Path:
        """Where on this node the checkpoint is that would be at `path` on the driver's."""
        here = ImageCache().root / CHECKPOINTS_FOLDER / self._sweep / path.parent.name / path.name
        before = self._checkpoint
        if before not in (None, here) and self._known == _version(before):
            # The worker is given another trial: the one before has ended, or waits, or begins again
            # elsewhere. Another worker of this node that goes on with it has touched the file.
            before.unlink(missing_ok=True)
        self._checkpoint = here
        if here.exists():
            here.touch()
        self.checkpoint_written()
        return here

    def checkpoint_written(self) -> None:
        """The worker has written that of its trial."""
        assert self._checkpoint is not None
        self._known = _version(self._checkpoint)

    def keep(self, path: Path, content: bytes) -> None:
        self._carrier.keep(str(path), content)

    def _fetch(self, name: str, path: Path) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            expected, parts = self._carrier.fetch(name)
            digest = hashlib.sha256()
            try:
                with whole_file(path) as file:
                    for part in parts:
                        digest.update(part)
                        file.write(part)
                    if digest.hexdigest() != expected:
                        raise _DamagedError
            except _DamagedError:
                logger.warning("%s: arrived damaged, attempt %d of %d", name, attempt, ATTEMPTS)
            else:
                logger.info("%s: fetched from the driver", name)
                return
        raise OSError(f"{name}: arrived damaged {ATTEMPTS} times")


def store_weights(plan: BackbonePlan, cache_root: Path) -> str:
    """Put the frozen backbone into the driver's cache, if it is not there; its name there."""
    name = f"{WEIGHTS_FOLDER}/{plan.weights_sha256}-{plan.image_size}.safetensors"
    path = cache_root / name

    def made() -> Path:
        with whole_path(path) as unfinished:
            save_frozen(load_planned_backbone(plan, "cpu"), unfinished)
        return path

    found_or_made(path, lambda: _if_there(path), made)
    return name


def _version(path: Path) -> tuple[int, int] | None:
    """Another after every write; None: there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None
