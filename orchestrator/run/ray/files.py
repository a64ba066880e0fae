"""The driver's side of `DriverFiles`, as an actor beside it that workers of any node can ask.

A file's parts lie in Ray's object store, from where nodes get them, also from each other.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.data.cache import DecodedSplit, ImageCache
from orchestrator.plan.plan import SweepPlan
from orchestrator.support.whole_file import write_whole
from orchestrator.training.driver_files import DriverFiles, store_weights

PART_BYTES = 32 << 20
STORED_BYTES = 2 << 30
"""The most bytes of files, those asked for last, that are kept ready in the object store."""
CALLS_AT_ONCE = 8


class RayFileCarrier:
    """What a worker holds."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def fetch(self, name: str) -> tuple[str, Iterable[memoryview]]:
        sha256, parts = ray.get(self._actor.parts.remote(name))
        return sha256, (memoryview(ray.get(part)) for part in parts)

    def keep(self, path: str, content: bytes) -> None:
        ray.get(self._actor.keep.remote(path, content))


class _Files:
    def __init__(self, root: str, names: frozenset[str], kept_below: str) -> None:
        """Gives out only these files below `root`, and writes only below `kept_below`."""
        # Open files stay readable when the cache drops them.
        self._files = {name: Path(root, name).open("rb") for name in names}  # noqa: SIM115
        self._kept_below = Path(kept_below)
        self._stored: OrderedDict[str, tuple[str, list[ray.ObjectRef]]] = OrderedDict()
        self._lock = threading.Lock()

    def parts(self, name: str) -> tuple[str, list[ray.ObjectRef]]:
        with self._lock:
            if name not in self._stored:
                self._stored[name] = self._store(name)
            self._stored.move_to_end(name)
            while len(self._stored) > 1 and self._stored_bytes > STORED_BYTES:
                self._stored.popitem(last=False)
            return self._stored[name]

    def keep(self, path: str, content: bytes) -> None:
        target = Path(path)
        if ".." in target.parts or not target.is_relative_to(self._kept_below):
            raise ValueError(f"{path}: is not below {self._kept_below}")
        write_whole(target, content)

    @property
    def _stored_bytes(self) -> int:
        return PART_BYTES * sum(len(parts) for _, parts in self._stored.values())

    def _store(self, name: str) -> tuple[str, list[ray.ObjectRef]]:
        file = self._files[name]
        file.seek(0)
        digest = hashlib.sha256()
        parts = []
        while part := file.read(PART_BYTES):
            digest.update(part)
            parts.append(ray.put(np.frombuffer(part, dtype=np.uint8)))
        return digest.hexdigest(), parts


def serve_driver_files(
    plan: SweepPlan,
    decoded: Mapping[str, Mapping[str, DecodedSplit]],
    *,
    cache: ImageCache,
    kept_below: Path,
) -> DriverFiles:
    """Hands out these splits (by task) and the backbone. Ray is running; we are the driver.

    What workers give back is written below `kept_below`.
    """
    splits = {
        task: {name: str(split.path.relative_to(cache.root)) for name, split in of_task.items()}
        for task, of_task in decoded.items()
    }
    weights = store_weights(plan.backbone, cache.root)
    names = frozenset([weights, *(name for task in splits.values() for name in task.values())])
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    files: Any = ray.remote(_Files)
    actor = files.options(
        num_cpus=0,
        max_concurrency=CALLS_AT_ONCE,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=here,
    ).remote(str(cache.root), names, str(kept_below))
    return DriverFiles(RayFileCarrier(actor), splits, weights, plan.name)
