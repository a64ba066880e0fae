"""Fixtures that many tests share: the optional shared material and a tiny real backbone."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Ray runs its workers at niceness 15: beside other streams of tests they would hardly run at all.
os.environ.setdefault("RAY_worker_niceness", "0")


def _shared_root() -> Path:
    beside_the_checkout = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("ORCHESTRATOR_SHARED", beside_the_checkout))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference vectors, real images and real weights; skips where it is absent."""
    root = _shared_root()
    if not root.is_dir():
        pytest.skip(f"no shared material at {root} (set ORCHESTRATOR_SHARED to its folder)")
    return root


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A command listens to signals until its process ends; here the process goes on."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
