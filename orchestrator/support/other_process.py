"""A module of ours as a program, which is asked one question and gives one answer.

For what can only be done in a process that has not used a GPU nor computed with several threads.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from functools import partial

from orchestrator.support.own_process import ROOT
from orchestrator.support.with_parent import end_with_parent

GRACE_SECONDS = 5.0
"""For the program and its processes to end by themselves, before they are killed."""


class NoAnswer(Exception):
    """The program gave none; the message says why."""


def answer_of(module: str, question: bytes, *, at_most_seconds: float) -> str:
    """The last line that `python -m module` writes, which reads the question. It always ends, and
    with it whatever it started; NoAnswer says why there is none."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(),
                start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGKILL),
            )
        except OSError as error:
            raise NoAnswer(f"{sys.executable}: {error.strerror}") from error
        try:
            told, _ = process.communicate(question, timeout=at_most_seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"it took longer than {at_most_seconds:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode == 0:
            return told.decode().splitlines()[-1]
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        raise NoAnswer(lines[-1] if lines else f"it ended with {process.returncode}")


def _environment() -> dict[str, str]:
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
