"""Workers that die, hang or run out of memory, through the command and real Ray."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from commands import ONE_SLOT, Running, running
from drivers import Drivers
from gate import Gate
from plans import wait_for
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory
from story import Story, assert_whole, story_of

from orchestrator.plan.plan import load_plan
from orchestrator.record.record import open_record

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.thorough]


@pytest.fixture(scope="module")
def disturbed(
    planned: Path, workshop: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Running, set[str], str]:
    """A sweep one of whose workers is killed and another hangs.

    Its folder, its output, the addresses it listens on, and how strangers are kept out.
    """
    folder = shutil.copytree(planned, tmp_path_factory.mktemp("disturbed") / "sweep")
    hangs = Gate(folder.parent / "gates", "half checkpoint colours_a.vpt_deep 1")
    faults = {
        **hangs.environment,
        "ORCHESTRATOR_KILL_AT": f"after checkpoint:2@{folder.parent / 'killed'}",
        "ORCHESTRATOR_SILENT_SECONDS": "15",
    }
    with running(
        "resume", folder, *ONE_SLOT, cache=workshop / "cache", environment=faults
    ) as command:
        command.wait_for_line("finished no epoch within 15 s")
        listening = listening_addresses(command)
        raylet = next(process for process in command.processes() if process.name() == "raylet")
        authentication = raylet.environ()["RAY_AUTH_MODE"]
        hangs.open()
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


def test_a_trial_whose_workers_die_at_the_same_place_fails_with_the_reason(
    drivers: Drivers, tiny_suite: Path, workshop: Path, tmp_path: Path
):
    request = {"backbone": "vit_quickstart", "methods": ["linear"], "trials": 1, "epochs": 4}
    folder = drivers.plan(tmp_path / "sweep", tiny_suite, **request)
    faults = {"ORCHESTRATOR_KILL_AT": "half checkpoint"}
    with running(
        "resume", folder, *ONE_SLOT, cache=workshop / "cache", environment=faults
    ) as command:
        assert command.wait() == 1, command.output
    (trial,) = open_record(load_plan(folder), folder).all_trials()
    assert trial.state == "failed"
    assert trial.failure == "its worker died 3 times, last: its process was killed or crashed"
    assert f"failed: {trial.study} #0: {trial.failure}" in command.output
    assert_whole(folder)


def test_a_second_signal_ends_everything_at_once(sweep_folder: Path, workshop: Path):
    """The worker is stopped, so that the sweep cannot end in order."""
    with running("resume", sweep_folder, *ONE_SLOT, cache=workshop / "cache") as command:
        (worker,) = command.wait_until(command.workers)
        worker.suspend()
        everything = command.processes()
        command.process.send_signal(signal.SIGTERM)
        command.wait_for_line("SIGTERM: stopping; once more stops at once")
        command.process.send_signal(signal.SIGINT)
        assert command.wait(seconds=30) == 130
        assert "stopped at once; `orchestrator resume` goes on" in command.output
        wait_for(lambda: not any(_alive(process) for process in everything), 30)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


ALLOCATE = """
import sys
ballast = bytearray(int(sys.argv[1]))
ballast[::4096] = b"x" * len(ballast[::4096])
print("allocated", flush=True)
sys.stdin.read()
"""


def test_a_worker_killed_for_want_of_memory_goes_again_with_less(
    sweep_folder: Path, workshop: Path, undisturbed: Story
):
    """Ray's own monitor kills it, when another process has taken what was left of the machine's."""
    total, used = get_system_memory(), get_used_memory()
    ballast = min((total - used) // 2, 6 * 2**30)
    limit = (used + 0.6 * ballast) / total
    hangs = Gate(sweep_folder.parent / "gates", "half checkpoint colours_a.vpt_deep 1")
    environment = {
        **hangs.environment,
        "RAY_memory_usage_threshold": f"{limit:.4f}",
        "RAY_memory_monitor_refresh_ms": "250",
    }
    with running(
        "resume", sweep_folder, *ONE_SLOT, cache=workshop / "cache", environment=environment
    ) as command:
        command.wait_until(hangs.is_reached)
        allocate = [sys.executable, "-c", ALLOCATE, str(ballast)]
        with subprocess.Popen(allocate, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            command.wait_for_line("its worker died .*ran out of memory")
            other.kill()
            hangs.open()
        assert command.wait() == 0, command.output
    assert story_of(sweep_folder) == undisturbed
    assert_whole(sweep_folder)
    trial = open_record(load_plan(sweep_folder), sweep_folder).trial("colours_a.vpt_deep", 1)
    # The next worker may begin, and be killed, before the ballast is gone.
    deaths = len(re.findall(r"vpt_deep #1: its worker died .*ran out of memory", command.output))
    assert trial.facts["memory_share"] == 0.5**deaths < 1
