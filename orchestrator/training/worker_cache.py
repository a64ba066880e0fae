"""What a warm worker keeps between trials: backbones, decoded tasks, frozen features."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from orchestrator.training.loop import Fit

logger = logging.getLogger(__name__)
T = TypeVar("T")


class WorkerCache:
    """Values by key, the least recently used dropped once their sizes pass a bound."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.fits: dict[Hashable, Fit] = {}
        """What fits into memory, by what decides it: backbone, method, length."""
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size in self._kept.values())

    def get(self, key: Hashable, make: Callable[[], T], num_bytes: Callable[[T], int]) -> T:
        """The value kept under `key`, made now if there is none.

        A value larger than the bound is returned but not kept.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        value = make()
        size = num_bytes(value)
        if size > self.max_bytes:
            logger.info("%s takes %d bytes, more than may be kept: not kept", key, size)
            return value
        while self._kept and self.num_bytes + size > self.max_bytes:
            dropped, _ = self._kept.popitem(last=False)
            logger.info("dropped %s to make room for %s", dropped, key)
        self._kept[key] = (value, size)
        return value
