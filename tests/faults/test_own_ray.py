"""The Ray of a sweep: nobody else's business, out of the way of signals, and missed when it dies.

One sweep, by the command that users type, stopped twice and finished.
"""

import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from commands import ONE_SLOT, running
from plans import wait_for
from story import Story, assert_whole, story_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.thorough]


@dataclass
class Told:
    """What was seen of a sweep while it ran, and how it ended."""

    folder: Path
    scratch: Path
    mode: int
    tokens: set[str]
    listeners: set[int]
    """Sessions of Ray's processes."""
    home: list[Path]
    first_end: int
    first_output: str
    left: list[psutil.Process]
    second_end: int
    second_output: str


@pytest.fixture(scope="module")
def told(planned: Path, workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    place = tmp_path_factory.mktemp("own")
    folder = shutil.copytree(planned, place / "sweep")
    users = place / "users"
    for name in ("methods", "timm", "search_spaces"):
        (users / name).mkdir(parents=True)
        (users / name / "__init__.py").write_text("raise ImportError('a package of the user')\n")
    (users / "torch.py").write_text("raise ImportError('a file of the user')\n")
    long = place / ("a-long-name-as-batch-systems-make-them-" * 3)
    home = place / "home"
    for made in (long, home):
        made.mkdir()
    environment = {"TMPDIR": str(long), "HOME": str(home), "PYTHONPATH": ":"}
    command = ("resume", folder, *ONE_SLOT)
    started = {"cache": workshop / "cache", "environment": environment, "cwd": users}

    with running(*command, **started, start_new_session=True) as first:
        first.wait_for_line(" 1/8 trials")
        everything = first.processes()
        daemons = [p for p in everything if p.name() in ("raylet", "gcs_server")]
        scratch = Path(daemons[0].environ()["ORCHESTRATOR_SCRATCH"])
        mode = scratch.stat().st_mode & 0o777
        tokens = {process.environ()["RAY_AUTH_TOKEN"] for process in daemons}
        listeners = {os.getsid(process.pid) for process in daemons}
        # As a terminal that is closed: to all of its processes, and again by the shell.
        for _ in range(2):
            os.killpg(first.process.pid, signal.SIGHUP)
        first_end = first.wait()
    wait_for(lambda: not any(map(_alive, everything)))
    left = [process for process in everything if _alive(process)]

    with running(*command, **started) as second:
        second.wait_for_line(" trials")
        raylet = next(p for p in second.processes() if p.name() == "raylet")
        raylet.kill()
        second_end = second.wait()
    return Told(
        folder=folder,
        scratch=scratch,
        mode=mode,
        tokens=tokens,
        listeners=listeners,
        home=[path for path in home.rglob("*") if ".ray" in path.parts],
        first_end=first_end,
        first_output=first.output,
        left=left,
        second_end=second_end,
        second_output=second.output,
    )


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_no_other_user_reads_anything_of_rays(told: Told):
    assert told.mode == 0o700
    (token,) = told.tokens
    assert len(token) == 64
    assert told.home == [], "Ray wrote into the home"


def test_a_long_tmpdir_and_packages_of_the_user_are_in_nobodys_way(told: Told):
    assert re.search(r" 1/8 trials", told.first_output)
    assert "worker died" not in told.first_output
    assert "a-long-name" not in str(told.scratch)


def test_a_closed_terminal_ends_the_sweep_in_order_and_nothing_is_left(told: Told):
    assert told.first_end == 130
    assert "SIGHUP: stopping; once more stops at once" in told.first_output
    # Where the environment is not active, with what activates it.
    assert re.search(r"go on with: (\. \S+ && )?orchestrator resume", told.first_output)
    assert "Traceback" not in told.first_output
    assert told.left == []
    assert not told.scratch.exists()


def test_a_raylet_that_dies_is_said_in_a_line(told: Told):
    assert told.second_end == 130, told.second_output
    (line,) = [line for line in told.second_output.splitlines() if line.startswith("stopped: ")]
    assert "raylet, a process of Ray that all trials need, was killed (SIGKILL)" in line
    assert "orchestrator resume" in line
    assert "Traceback" not in told.second_output
    assert "worker died" not in told.second_output, "no trial is to blame"


def test_after_all_that_the_sweep_finds_what_it_would_have(
    told: Told, workshop: Path, undisturbed: Story
):
    with running("resume", told.folder, *ONE_SLOT, cache=workshop / "cache") as command:
        assert command.wait() == 0, command.output
    assert story_of(told.folder) == undisturbed
    assert_whole(told.folder)


def test_the_daemons_do_not_hear_what_is_meant_for_the_driver(told: Told):
    assert len(told.listeners) == 2, "each has a session of its own"
