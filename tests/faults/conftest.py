"""What the fault tests share: drivers that start fast, one tiny suite, one undisturbed run."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drivers import Drivers
from postgres import PostgreSQL
from suites import write_suite

pytest.register_assert_rewrite("story")

SMALL = {
    "backbone": "vit_quickstart",
    "methods": ["linear", "vpt_deep"],
    "trials": 4,
    "epochs": 4,
    "pruner_options": {"first_rung_epochs": 2, "reduction_factor": 2},
}


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def tiny_suite(workshop: Path) -> Path:
    return write_suite(workshop / "suite", ("colours_a",))


@pytest.fixture(scope="session")
def drivers(workshop: Path) -> Iterator[Drivers]:
    started = Drivers(workshop / "cache")
    yield started
    started.close()


@pytest.fixture(scope="session")
def planned(drivers: Drivers, workshop: Path, tiny_suite: Path) -> Path:
    """A sweep that was planned and not begun: 8 trials."""
    return drivers.plan(workshop / "planned", tiny_suite, **SMALL)


@pytest.fixture(scope="session")
def undisturbed(drivers: Drivers, planned: Path, workshop: Path) -> dict[str, Any]:
    """What the planned sweep finds if nothing goes wrong."""
    from story import story_of

    folder = shutil.copytree(planned, workshop / "undisturbed")
    drivers.finish(folder)
    return story_of(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    pytest.importorskip("psycopg")
    if PostgreSQL.programs() is None:
        pytest.skip("needs the PostgreSQL server")
    server = PostgreSQL()
    yield server
    server.remove()


@pytest.fixture
def sweep_folder(planned: Path, tmp_path: Path) -> Path:
    """The planned sweep, for one test."""
    return shutil.copytree(planned, tmp_path / "sweep")
