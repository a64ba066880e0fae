"""How a process ends on signals, by what it was doing when they came."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys, time
from orchestrator.support.stopping import stop_requested, ending_in_order, leave, listen

def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop_requested():
        time.sleep(0.01)

listen()
try:
    if sys.argv[1] == "plan":
        print("ready", flush=True)
        time.sleep(30)
    with ending_in_order():
        print("ready", flush=True)
        work(30)
        print("saving", flush=True)
        time.sleep(float(sys.argv[2]))
        print("saved", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
finally:
    leave()
sys.exit(130 if stop_requested() else 0)
"""


def _ignore_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _hear_hangups() -> None:
    """Also where the tests run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(*words: object, ignored: bool = False) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_ignore_hangups if ignored else _hear_hangups,
    )
    read_until(process, "ready")
    return process


def read_until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_where_nothing_is_to_be_saved_a_signal_ends_the_command_with_a_line(number):
    process = start("plan")
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, f"{number.name}: stopped\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_is_begun_is_ended_in_order(number):
    process = start("work", 0.3)
    process.send_signal(number)
    printed, said = process.communicate(timeout=30)
    assert (process.returncode, printed) == (130, "saving\nsaved\n")
    assert said == f"{number.name}: stopping; once more stops at once\n"


def test_the_second_signal_ends_it_at_once():
    process = start("work", 30)
    process.send_signal(signal.SIGTERM)
    read_until(process, "saving")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert said.endswith("stopped at once; `orchestrator resume` goes on\n")


def test_a_signal_that_is_sent_twice_within_a_moment_came_once():
    """As `timeout` does, to us and to our group."""
    process = start("work", 0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=30)
    assert printed == "saving\nsaved\n"


def test_a_terminal_is_closed_once_however_often_it_is_told():
    process = start("work", 1.5)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.7)
    process.send_signal(signal.SIGHUP)
    printed, _ = process.communicate(timeout=30)
    assert printed == "saving\nsaved\n"


def test_a_hangup_that_is_to_be_ignored_is():
    process = start("work", 0, ignored=True)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_terminal_that_is_gone_cannot_be_written_to_and_changes_nothing():
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "work", "0"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_hangups,
    )
    read_until(process, "ready")
    os.close(theirs)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    printed, _ = process.communicate(timeout=30)
    assert (process.returncode, printed) == (130, "saving\nsaved\n")
