"""A worker that computes is left alone for longer than one that does nothing."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from orchestrator.support.silence import Silence
silence = Silence(1.0)

def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))

def wait(seconds):
    time.sleep(seconds)

silence.expect_progress()
{dict}[sys.argv[1]](float(sys.argv[2]))
print("came through", flush=True)
silence.expect_progress()
compute(0.1)
silence.expect_none()
time.sleep(2)
print("whole", flush=True)
""".replace("{dict}", '{"computes": compute, "waits": wait}')


def ends(*words: object) -> tuple[int, str, str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_what_does_nothing_is_ended_and_says_where():
    code, printed, said = ends("waits", 60)
    assert (code, printed) == (1, "")
    assert "in wait" in said


@pytest.mark.slow
def test_what_computes_may_be_slow():
    code, printed, _ = ends("computes", 2.5)
    assert (code, printed) == (0, "came through\nwhole\n")


@pytest.mark.slow
def test_what_computes_for_ever_is_ended_too():
    code, printed, said = ends("computes", 60)
    assert (code, printed) == (1, "")
    assert "in compute" in said
