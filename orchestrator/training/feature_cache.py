"""What the whole frozen network makes of images, on the disk of a node: made once, found by all.

Where nothing in front of the head is trained, as in a linear probe, a trial needs of each image the
few KB that the head reads. A worker that is given another task, the next sweep on that task and the
five seeds of a last stage find them there and need not run the network again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from orchestrator.support.shared_folder import evict, found_or_made, mark_used
from orchestrator.support.whole_file import write_whole

logger = logging.getLogger(__name__)

FOLDER = "features"


class FeatureCache:
    """A bounded folder of features, shared by any number of processes of a node."""

    def __init__(self, cache_root: Path, *, max_bytes: int = 2 << 30) -> None:
        self._folder = cache_root / FOLDER
        self._max_bytes = max_bytes

    def get(self, made_from: Mapping[str, object], make: Callable[[], Tensor]) -> Tensor:
        """Features (N, d) on the CPU: from the disk if they were made from the same, else made now.

        `made_from` names everything that decides their last digit. While one process makes them,
        others that want the same wait for it.
        """
        name = json.dumps(made_from, sort_keys=True)
        path = self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.safetensors"
        features: Tensor | None = None

        def made() -> Tensor:
            nonlocal features
            features = make().cpu()
            write_whole(path, _content(features, name))
            evict(self._folder, "*.safetensors", self._max_bytes, keep=lambda: {path})
            return features

        try:
            features = found_or_made(path, lambda: _read(path, name), made)
            mark_used(path)
        except OSError as error:
            # A full disk costs the next process a pass of the network, not this one its trial.
            logger.warning("%s: features could not be kept: %s", self._folder, error)
        return make().cpu() if features is None else features


def _content(features: Tensor, name: str) -> bytes:
    metadata = {"made_from": name, "sha256": _digest(features)}
    return safetensors.torch.save({"features": features.contiguous()}, metadata)


def _read(path: Path, name: str) -> Tensor | None:
    """None if there is no such file, or if it is damaged."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata, features = file.metadata() or {}, file.get_tensor("features")
    except FileNotFoundError:  # evicted just now
        return None
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("%s is damaged and will be made again: %s", path, error)
        return None
    if metadata.get("made_from") != name or metadata.get("sha256") != _digest(features):
        logger.warning("%s is damaged and will be made again", path)
        return None
    return features


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
