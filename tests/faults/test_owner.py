"""One owner: a second driver is refused and told who the first is; a dead owner holds nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import running
from plans import make_plan
from postgres import PostgreSQL

from orchestrator.record.database import StorageError
from orchestrator.record.owner import leased, owned
from orchestrator.record.record import Record

HOLD = """
import sys, time
from pathlib import Path
from orchestrator.record.owner import leased, owned
with owned(Path(sys.argv[1])), leased(sys.argv[2] or None, "sweep"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holder(folder: Path, storage: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the sweep."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), storage], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_second_driver_of_a_folder_is_refused_and_told_who_the_first_is(tmp_path: Path):
    with holder(tmp_path) as first:
        refused = rf"process {first.pid} on .* since 20"
        with pytest.raises(ValueError, match=refused), owned(tmp_path):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
        with owned(tmp_path):
            pass  # the lock of a dead owner is nobody's


@pytest.mark.slow
def test_a_lock_file_that_was_cut_off_still_refuses(tmp_path: Path):
    with holder(tmp_path):
        (tmp_path / ".owner").write_text('{"pid": 1')
        refused = "is being run by another process"
        with pytest.raises(ValueError, match=refused), owned(tmp_path):
            pass


@pytest.mark.slow
def test_doctor_leaves_a_running_sweep_alone_and_needs_no_dead_owner(
    sweep_folder: Path, tmp_path: Path
):
    def doctor() -> tuple[int, str]:
        with running("doctor", sweep_folder, cache=tmp_path) as command:
            return command.wait(), command.output

    with holder(sweep_folder) as first:
        code, said = doctor()
        assert code == 2 and f"is being run by process {first.pid} on" in said, said
        first.send_signal(signal.SIGKILL)
        first.wait()
        code, said = doctor()
        assert code == 1 and "4 not begun (resume)" in said, said


@pytest.mark.postgres
def test_two_machines_cannot_run_one_sweep_of_a_postgresql_storage(
    postgres: PostgreSQL, tmp_path: Path
):
    """Their folders differ, so that only the lock in the storage can tell."""
    url = postgres.url()
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    with holder(there, url) as first:
        refused = rf"orchestrator process {first.pid} on .*for 0:00:"
        with pytest.raises(ValueError, match=refused), leased(url, "sweep"):
            pass
        with leased(url, "another sweep"):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
        deadline = time.monotonic() + 30
        while True:
            try:
                with leased(url, "sweep"):
                    break
            except ValueError:
                assert time.monotonic() < deadline, "a dead owner still holds the sweep"
                time.sleep(0.2)


@pytest.mark.postgres
def test_after_a_restart_of_the_server_the_sweep_is_taken_again(postgres: PostgreSQL):
    url = postgres.url()
    with leased(url, "sweep"):
        record = Record(make_plan(name="again"), url)
        _restart(postgres)
        record.num_asked("caltech101.vpt_deep")  # its new connection asks whether we own the sweep
        refused = f"is being run by orchestrator process {os.getpid()} on"
        with pytest.raises(ValueError, match=refused), leased(url, "sweep"):
            pass


@pytest.mark.postgres
def test_a_sweep_that_another_driver_took_meanwhile_is_lost(postgres: PostgreSQL, tmp_path: Path):
    url = postgres.url()
    with leased(url, "sweep"):
        record = Record(make_plan(name="lost"), url)
        _restart(postgres)
        with holder(tmp_path, url):
            pass  # took it, and is gone again
        lost = "another driver ran it while the storage was away|is being run by"
        with pytest.raises(StorageError, match=lost):
            record.ask("caltech101.vpt_deep")


def _restart(postgres: PostgreSQL) -> None:
    postgres.stop("fast")
    postgres.start()
