"""A driver's private folder: whose it is, where it is, and what becomes of it."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from plans import wait_for

from orchestrator.support import scratch
from orchestrator.support.scratch import VARIABLE, Scratch, dead, remove_dead

HOLD = """
import subprocess, sys, os
from orchestrator.support.scratch import Scratch, VARIABLE
made = Scratch()
os.environ[VARIABLE] = str(made.path)
left = subprocess.Popen(["sleep", "100"], start_new_session=True)
print(made.path, left.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where folders are made."""
    found = tmp_path_factory.mktemp("s")
    monkeypatch.setattr(scratch, "places", lambda: [found])
    monkeypatch.setattr(scratch, "LONGEST_PARENT", 100)
    return found


def test_a_folder_is_private_and_goes_with_its_driver(place: Path):
    made = Scratch()
    assert made.path.parent == place
    assert made.path.stat().st_mode & 0o777 == 0o700
    assert remove_dead() == [], "it is held"
    made.remove()
    assert list(place.iterdir()) == []


def test_what_a_killed_driver_left_is_removed_with_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    short = Path("/tmp")
    command = [sys.executable, "-c", HOLD]
    driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    path, pid = driver.stdout.readline().split()
    folder = Path(path)
    monkeypatch.setattr(scratch, "places", lambda: [short])
    assert folder.parent == short
    assert folder not in dead(), "its driver lives"
    driver.kill()
    driver.wait()
    assert folder in dead()
    outside = tmp_path / "kept"
    outside.write_text("of the user")
    (folder / "link").symlink_to(tmp_path)
    monkeypatch.setattr(scratch, "dead", lambda: [folder])  # leave those of other tests
    assert remove_dead() == [folder]
    assert not folder.exists()
    assert outside.exists(), "what a link leads to is not ours"
    wait_for(lambda: VARIABLE not in _environment(pid))


def _environment(pid: str) -> str:
    try:
        return Path("/proc", pid, "environ").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_what_is_not_ours_stays(place: Path, tmp_path: Path):
    (place / "orchestrator-notes").mkdir()
    (place / "orchestrator-abcdefgh").mkdir()  # of a user, by the look of it
    (place / "orchestrator-aaaaaaaa").symlink_to(tmp_path)
    (tmp_path / "of-a-driver").touch()
    if os.geteuid() == 0:
        (place / "orchestrator-bbbbbbbb").mkdir()
        (place / "orchestrator-bbbbbbbb" / "of-a-driver").touch()
        os.chown(place / "orchestrator-bbbbbbbb", 12345, 12345)
    before = sorted(place.iterdir())
    assert remove_dead() == []
    assert sorted(place.iterdir()) == before


HERE = socket.gethostname()
START = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize(
    ("host", "start", "before_this_start", "is_dead"),
    [
        (HERE, START, False, True),
        (HERE, "an earlier start", True, True),
        (HERE, "another machine's of this name", False, False),
        ("another-machine", START, True, False),
        ("another-machine", "its start", True, False),
    ],
    ids=["this start", "earlier start", "same name", "same kernel", "another machine"],
)
def test_where_machines_share_a_place_each_removes_its_own(
    place: Path, host: str, start: str, before_this_start: bool, is_dead: bool
):
    """A lock that another machine holds may not be seen here: none of these is held."""
    made = Scratch()
    mark = made.path / "of-a-driver"
    assert mark.read_text().split("\n") == [HERE, START]
    os.close(made._lock)
    mark.write_text(f"{host}\n{start}")
    if before_this_start:
        os.utime(mark, (1.0, 1.0))
    assert dead() == ([made.path] if is_dead else [])
    assert remove_dead() == ([made.path] if is_dead else [])
    assert made.path.exists() is not is_dead


def test_where_folders_cannot_be_locked_the_next_place_is_taken(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As where a file system of several machines has no locks."""
    locked = fcntl.flock

    def flock(lock: int, how: int) -> None:
        if Path(f"/proc/self/fd/{lock}").readlink().parent == tmp_path:
            raise OSError(errno.ENOLCK, "No locks available")
        locked(lock, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(scratch, "places", lambda: [tmp_path, place])
    made = Scratch()
    assert made.path.parent == place
    made.remove()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(scratch, "places", lambda: [tmp_path])
    with pytest.raises(ValueError, match=r"\(.*: No locks available\); set RAY_TMPDIR"):
        Scratch()


def test_what_another_removes_meanwhile_is_no_error(place: Path, monkeypatch: pytest.MonkeyPatch):
    made = Scratch()
    os.close(made._lock)
    monkeypatch.setattr(scratch, "dead", lambda: [place / "orchestrator-gone_now", made.path])
    assert remove_dead() == [made.path]


def test_a_place_that_is_too_long_or_cannot_be_made_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 20)))
    made = Scratch()
    assert len(str(made.path.parent)) <= scratch.LONGEST_PARENT
    made.remove()
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nothing")
    made = Scratch()
    assert made.path.parent != Path("/proc/nothing")
    made.remove()


def test_where_there_is_no_place_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(scratch, "places", lambda: [tmp_path / ("long" * 20)])
    with pytest.raises(ValueError, match="set RAY_TMPDIR"):
        Scratch()
