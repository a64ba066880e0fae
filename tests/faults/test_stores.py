"""What a sweep is written to breaks: one clear line, and `resume` goes on as if nothing was."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy
from drivers import Drivers
from gate import Gate
from plans import LONGEST_WAIT_SECONDS, wait_for
from postgres import PASSWORD, PostgreSQL
from story import Story, assert_nowhere, assert_whole, story_of

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


class Disk:
    """A small file system of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.also_at: list[Path] = []

    def put_under(self, folder: Path) -> None:
        """What is written into `folder` lies on this disk."""
        folder.mkdir()
        subprocess.run(["mount", "--bind", self.place, folder], check=True)
        self.also_at.append(folder)

    def fill(self, *, leaving_kib: int) -> None:
        free = os.statvfs(self.place)
        size = free.f_bavail * free.f_frsize - 1024 * leaving_kib
        with (self.place / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))

    def free(self) -> None:
        (self.place / "ballast").unlink()

    def make(self, access: str) -> None:
        """`ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{access}", self.place], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place]
    if subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this machine does not let root mount a file system")
    made = Disk(place)
    yield made
    for mounted in (*made.also_at, place):
        subprocess.run(["umount", "--lazy", mounted], check=True)  # what read it may hold it still


@pytest.fixture
def on_disk(disk: Disk, planned: Path) -> Path:
    """The planned sweep, all of it on the small disk."""
    folder = disk.place / "sweep"
    folder.mkdir()
    for file in planned.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def said_clearly(output: str) -> bool:
    """In one line, not by a traceback."""
    return "Traceback" not in output and output.count("error: ") <= 1


@pytest.mark.parametrize("leaving_kib", [0, 40])
def test_a_full_disk_is_said_and_the_sweep_goes_on_when_there_is_room(
    leaving_kib: int, drivers: Drivers, disk: Disk, on_disk: Path, undisturbed: Story
):
    # Between two trials: no checkpoint is there whose removal makes room.
    assert drivers.run(on_disk, kill_at="after ask:3") < 0
    disk.fill(leaving_kib=leaving_kib)
    assert drivers.run(on_disk) == 2
    assert "full" in drivers.output or "No space left" in drivers.output
    assert said_clearly(drivers.output), drivers.output
    disk.free()
    drivers.finish(on_disk)
    assert story_of(on_disk) == undisturbed
    assert_whole(on_disk)


def test_a_worker_without_room_for_its_weights_stops_the_sweep_and_costs_no_trial(
    drivers: Drivers, disk: Disk, sweep_folder: Path, undisturbed: Story
):
    disk.put_under(sweep_folder / "trials")
    disk.fill(leaving_kib=0)
    assert drivers.run(sweep_folder) == 130, drivers.output
    assert "no checkpoint was written: [Errno 28] No space left on device" in drivers.output
    assert "stopped: colours_a.linear #0: " in drivers.output
    assert "8 trials left" in drivers.output
    assert said_clearly(drivers.output), drivers.output
    disk.free()
    drivers.finish(sweep_folder)
    assert story_of(sweep_folder) == undisturbed
    assert_whole(sweep_folder)


def test_mlflow_without_room_is_filled_in_later(
    drivers: Drivers, disk: Disk, sweep_folder: Path, undisturbed: Story
):
    uri = f"sqlite:///{disk.place / 'mlflow.db'}"
    there = {"MLFLOW_TRACKING_URI": uri}
    disk.fill(leaving_kib=64)
    assert drivers.run(sweep_folder, environment=there) == 0, drivers.output
    assert "MLflow" in drivers.output and "sends it what it missed" in drivers.output
    assert said_clearly(drivers.output), drivers.output
    assert story_of(sweep_folder) == undisturbed
    disk.free()
    drivers.finish(sweep_folder, environment=there)
    assert_whole(sweep_folder, uri)


def test_a_folder_that_may_not_be_written_is_said(
    drivers: Drivers, disk: Disk, on_disk: Path, undisturbed: Story
):
    assert drivers.run(on_disk, kill_at="after tell:2") < 0
    disk.make("ro")
    assert drivers.run(on_disk) == 2
    assert "ead-only" in drivers.output or "readonly" in drivers.output
    assert said_clearly(drivers.output), drivers.output
    disk.make("rw")
    drivers.finish(on_disk)
    assert story_of(on_disk) == undisturbed


@contextlib.contextmanager
def stopped_in_the_middle(
    drivers: Drivers, folder: Path, storage: str | None = None, patience: float = 60
) -> Iterator["Middle"]:
    """A driver that waits, in the middle of a trial, until it is let go on."""
    environment = {"ORCHESTRATOR_STORAGE_SECONDS": str(patience)}
    if storage:
        environment["ORCHESTRATOR_STORAGE"] = storage
    assert drivers.run(folder, kill_at="after ask:3", environment=environment) < 0
    gate = Gate(folder.parent / "gates", "half checkpoint colours_a.linear 1")
    environment |= gate.environment
    with ThreadPoolExecutor() as pool:
        middle = Middle(drivers, gate, pool.submit(drivers.run, folder, environment=environment))
        try:
            wait_for(gate.is_reached)
            yield middle
        finally:
            gate.open()


@dataclass
class Middle:
    drivers: Drivers
    gate: Gate
    code: "Future[int]"

    def waits_or_ended(self) -> bool:
        return "waiting up to" in self.drivers.output or self.code.done()


@pytest.mark.parametrize("for_ever", [False, True])
def test_a_locked_storage_is_waited_for(
    for_ever: bool, drivers: Drivers, sweep_folder: Path, undisturbed: Story
):
    with stopped_in_the_middle(drivers, sweep_folder, patience=1 if for_ever else 60) as middle:
        other = sqlite3.connect(sweep_folder / "studies.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        middle.gate.open()
        wait_for(middle.waits_or_ended)
        if for_ever:
            middle.code.result(LONGEST_WAIT_SECONDS)
        other.close()
    if for_ever:
        assert "studies.db: is locked by another process, for 1 s" in drivers.output
        assert said_clearly(drivers.output), drivers.output
        drivers.finish(sweep_folder)
    assert middle.code.result() == (2 if for_ever else 0), drivers.output
    assert story_of(sweep_folder) == undisturbed
    assert_whole(sweep_folder)


@pytest.mark.postgres
@pytest.mark.parametrize("for_ever", [False, True])
def test_a_postgresql_server_that_restarts_is_waited_for(
    for_ever: bool,
    drivers: Drivers,
    sweep_folder: Path,
    undisturbed: Story,
    postgres: PostgreSQL,
):
    url = _new_database(postgres, "for_ever" if for_ever else "a_while")
    there = {"ORCHESTRATOR_STORAGE": url}
    with stopped_in_the_middle(drivers, sweep_folder, url, 1 if for_ever else 60) as middle:
        postgres.stop("immediate")
        middle.gate.open()
        wait_for(middle.waits_or_ended)
        if for_ever:
            middle.code.result(LONGEST_WAIT_SECONDS)
        postgres.start()
    if for_ever:
        assert "does not answer" in drivers.output
        assert said_clearly(drivers.output), drivers.output
    assert middle.code.result() == (2 if for_ever else 0), drivers.output
    assert PASSWORD not in drivers.output
    drivers.finish(sweep_folder, environment=there)
    assert story_of(sweep_folder, url) == undisturbed
    assert_nowhere(PASSWORD, sweep_folder)


def _new_database(postgres: PostgreSQL, name: str) -> str:
    engine = sqlalchemy.create_engine(postgres.url(), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return postgres.url().replace("/postgres", f"/{name}")


@pytest.mark.postgres
def test_a_refused_connection_names_the_server_and_not_the_password(
    drivers: Drivers, sweep_folder: Path, postgres: PostgreSQL
):
    there = {"ORCHESTRATOR_STORAGE": postgres.url("wrong-horse")}
    assert drivers.run(sweep_folder, environment=there) == 2
    assert "refuses the connection" in drivers.output
    assert said_clearly(drivers.output), drivers.output
    assert "horse" not in drivers.output


def damage(path: Path, kind: str) -> None:
    """Leave nothing, what is not ours, or the first half of what was there."""
    content = path.read_bytes()
    damaged = {"empty": b"", "foreign": b"not ours\n" * 1000, "torn": content[: len(content) // 2]}
    path.write_bytes(damaged[kind])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sweep.yaml", "empty"),
        ("sweep.yaml", "foreign"),
        ("sweep.yaml", "torn"),
        ("studies.db", "foreign"),
        ("studies.db", "torn"),
    ],
)
def test_a_damaged_plan_or_storage_is_refused_by_name(
    name: str, kind: str, drivers: Drivers, whole: Path, tmp_path: Path
):
    folder = shutil.copytree(whole, tmp_path / "sweep")
    damage(folder / name, kind)
    assert drivers.run(folder) == 2, drivers.output
    assert "error: " in drivers.output and name in drivers.output
    assert said_clearly(drivers.output), drivers.output


def test_what_is_made_from_the_storage_is_made_again(drivers: Drivers, whole: Path, tmp_path: Path):
    folder = shutil.copytree(whole, tmp_path / "sweep")
    damage(folder / "results.parquet", "torn")
    damage(folder / "best" / "colours_a.yaml", "foreign")
    damage(folder / "best" / "colours_a.safetensors", "empty")
    drivers.finish(folder)
    assert said_clearly(drivers.output), drivers.output
    assert_whole(folder)


def test_an_mlflow_store_that_is_none_is_left_alone_and_said(
    drivers: Drivers, whole: Path, tmp_path: Path, undisturbed: Story
):
    folder = shutil.copytree(whole, tmp_path / "sweep")
    damage(folder / "mlflow.db", "foreign")
    assert drivers.run(folder) == 0, drivers.output
    assert "MLflow" in drivers.output and "not a database" in drivers.output
    assert said_clearly(drivers.output), drivers.output
    assert (folder / "mlflow.db").read_bytes().startswith(b"not ours")
    assert story_of(folder) == undisturbed


@pytest.fixture(scope="module")
def whole(planned: Path, drivers: Drivers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that has ended."""
    folder = shutil.copytree(planned, tmp_path_factory.mktemp("whole") / "sweep")
    drivers.finish(folder)
    return folder
