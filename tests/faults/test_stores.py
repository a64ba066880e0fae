"""What a sweep is written to breaks: one clear line, and `resume` goes on as if nothing was."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers import Drivers
from story import Story, assert_whole, story_of

pytestmark = pytest.mark.slow


class Disk:
    """A small file system of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place

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
    yield Disk(place)
    subprocess.run(["umount", "--lazy", place], check=True)  # what read it may hold it still


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
