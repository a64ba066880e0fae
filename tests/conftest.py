"""Fixtures that many tests share: the optional shared material and a tiny real backbone."""

import os
from pathlib import Path

import pytest


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
