"""A uniform sample of a stream whose length nobody knows."""

import torch
from torch import Tensor


class Reservoir:
    """A uniform sample of a stream: every item has a random key, those with the smallest stay."""

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        self.capacity = capacity
        self.generator = generator
        self.keys = torch.empty(0, dtype=torch.float64)
        self.kept = torch.empty(0)
        self._drawn = self.keys

    def draw(self, count: int) -> Tensor:
        """Which of the next `count` items may stay: their indices, to be `put` in this order."""
        keys = torch.rand(count, dtype=torch.float64, generator=self.generator)
        keys, indices = keys.topk(min(count, self.capacity), largest=False)
        if len(self.keys) == self.capacity:
            better = keys < self.keys.max()
            keys, indices = keys[better], indices[better]
        self._drawn = keys
        return indices

    def put(self, items: Tensor) -> None:
        keys = torch.cat([self.keys, self._drawn])
        items = torch.cat([self.kept, items]) if len(self.keys) else items
        self.keys, order = keys.topk(min(len(keys), self.capacity), largest=False)
        self.kept = items[order]
