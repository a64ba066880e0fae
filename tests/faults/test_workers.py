"""Workers that die, hang or run out of memory, through the command and real Ray."""

import os
import re
import shutil
from pathlib import Path

import psutil
import pytest
from commands import Running, running
from story import Story, assert_whole, story_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def disturbed(
    planned: Path, workshop: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Running, set[str], str]:
    """A sweep one of whose workers is killed and another hangs.

    Its folder, its output, the addresses it listens on, and how strangers are kept out.
    """
    folder = shutil.copytree(planned, tmp_path_factory.mktemp("disturbed") / "sweep")
    hangs = folder / "trials" / "colours_a.vpt_deep" / "1.part"
    faults = {
        "ORCHESTRATOR_KILL_AT": f"after checkpoint:2@{folder.parent / 'killed'}",
        "ORCHESTRATOR_SILENT_SECONDS": "15",
    }
    with running(
        "resume", folder, "--slots", 1, cache=workshop / "cache", environment=faults
    ) as command:
        command.wait_for_line(" 1/8 trials")  # what a driver finds at its start, it removes
        hangs.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(hangs)  # who opens it to write a checkpoint waits for ever
        command.wait_for_line("finished no epoch within 15 s")
        listening = listening_addresses(command)
        raylet = next(process for process in command.processes() if process.name() == "raylet")
        authentication = raylet.environ()["RAY_AUTH_MODE"]
        hangs.unlink()
        assert command.wait() == 0, command.output
    return folder, command, listening, authentication


def test_a_killed_and_a_hanging_worker_change_no_result(disturbed, undisturbed: Story):
    folder, command, _, _ = disturbed
    assert re.search(r"linear #0: its worker died .*killed or crashed.*goes on", command.output)
    assert re.search(r"vpt_deep #1: its worker died .*finished no epoch", command.output)
    assert story_of(folder) == undisturbed
    assert_whole(folder)


def test_nothing_listens_beyond_this_machine(disturbed):
    _, _, listening, authentication = disturbed
    assert listening, "Ray listens somewhere"
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert authentication == "token"


def listening_addresses(command: Running) -> set[str]:
    """Where any of the processes of a command accepts connections."""
    return {
        connection.laddr.ip
        for process in command.processes()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
