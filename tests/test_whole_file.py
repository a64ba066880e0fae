"""A file is whole and on the disk or not there, whoever dies or writes it at the same time."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.support.whole_file import UNFINISHED, whole_file, whole_path, write_whole

KILLED = """
import os, signal, sys
from pathlib import Path
from orchestrator.support.whole_file import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_file_and_one_that_is_known_as_unfinished(tmp_path: Path):
    path = tmp_path / "0.safetensors"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (left,) = tmp_path.glob(UNFINISHED)
    assert left.read_bytes() == b"half"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and not left.exists(), "it was written again"


def test_writers_of_one_file_and_of_one_trial_do_not_meet(tmp_path: Path):
    """Also a worker that was given up and lives: its half must not be moved by another's end."""
    with whole_file(tmp_path / "0.checkpoint") as checkpoint:
        checkpoint.write(b"check")
        with whole_file(tmp_path / "0.safetensors") as first:
            first.write(b"first ")
            first.flush()
            write_whole(tmp_path / "0.safetensors", b"second")
            assert (tmp_path / "0.safetensors").read_bytes() == b"second"
            first.write(b"and all of it")
        checkpoint.write(b"point")
    assert (tmp_path / "0.safetensors").read_bytes() == b"first and all of it"
    assert (tmp_path / "0.checkpoint").read_bytes() == b"checkpoint"
    assert len(list(tmp_path.iterdir())) == 2


def test_many_writers_at_once_leave_what_one_of_them_wrote(tmp_path: Path):
    contents = [bytes([number]) * 100_000 for number in range(16)]
    path = tmp_path / "deep" / "0.safetensors"
    threads = [threading.Thread(target=write_whole, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert [*path.parent.iterdir()] == [path]


def test_what_fails_leaves_nothing(tmp_path: Path):
    path = tmp_path / "table.parquet"
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"half")
        file.write(bytes(1 // 0))
    with pytest.raises(ZeroDivisionError), whole_path(path) as unfinished:
        unfinished.write_bytes(bytes(1 // 0))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_nothing_takes_the_place_of_what_is_no_file(tmp_path: Path, make):
    make(tmp_path / "it")
    with pytest.raises(ValueError, match="is there already and is no file"):
        write_whole(tmp_path / "it", b"new")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path):
    mine, path = tmp_path / "mine", tmp_path / "places.yaml"
    mine.write_text("kept")
    path.symlink_to(mine)
    write_whole(path, b"new")
    assert mine.read_text() == "kept" and not path.is_symlink()
    assert path.read_text() == "new"


def test_content_and_name_are_on_the_disk_in_this_order(tmp_path: Path, monkeypatch):
    """What a power cut would show: the content before the name, and the name as well."""
    path, synced, sync = tmp_path / "0.safetensors", [], os.fsync

    def seen(descriptor: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    write_whole(path, b"new")
    (content, named), (folder, named_now) = synced
    assert Path(content).match(UNFINISHED) and not named
    assert folder == str(tmp_path) and named_now


def test_what_another_has_just_begun_is_not_taken_for_left(tmp_path: Path):
    """However writers begin and look for what is left at the same time, nobody's file is lost."""
    path = tmp_path / "0.checkpoint"

    def write(number: int) -> None:
        for _ in range(50):
            write_whole(path, bytes([number]) * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set(path.read_bytes())) == 1 and [*tmp_path.iterdir()] == [path]


def test_others_may_read_what_is_written_or_not_from_its_first_moment(tmp_path: Path):
    """What a backup holds is for its owner alone, also while it is being written."""
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "table", b"all may read it")
        with whole_path(tmp_path / "backup", mode=0o600) as unfinished:
            assert unfinished.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert (tmp_path / "table").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
