"""Drivers that are killed at a commit point, each followed by one that goes on."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import pytest

import orchestrator.record.record as record_module
from orchestrator.record.database import MemoryDatabase

LEAST_KILLS = 3


class Killed(Exception):
    """Here a driver died."""


class Resumed(Protocol):
    """A search in small steps."""

    def step(self) -> bool:
        """False: nothing is left."""
        ...

    def resume(self) -> None:
        """As a new driver does."""
        ...


S = TypeVar("S", bound=Resumed)


def killed_at(point: str, begin: Callable[[], S], *, every: int = 4) -> S:
    """A search in memory, over, whose driver died whenever it had come by the point so often."""
    database, passed, times_killed = MemoryDatabase(), 0, 0  # which every driver opens

    def commit_point(name: str) -> None:
        nonlocal passed
        passed += name == point
        if name == point and passed % every == 0:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_module, "open_database", lambda _: database)
        search, goes_on = begin(), True
        patch.setattr(record_module, "commit_point", commit_point)
        while goes_on:
            try:
                goes_on = search.step()
            except Killed:
                times_killed += 1
                search.resume()
    assert times_killed >= LEAST_KILLS
    return search
