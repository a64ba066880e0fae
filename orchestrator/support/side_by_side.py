"""How often processes do the same when so many of them do it at the same time.

For what shares a device: one process may leave half of it empty, two may be in each other's way.
All processes are started and prepared once; then so many of them as are asked for work for the same
moments, while the others wait.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from orchestrator.support.with_parent import end_with_parent

Turns = Mapping[str, Callable[[], Any]]
"""What a process can do, by name; a call ends when it is done on the device as well."""

END_SECONDS = 5.0
"""A process that was told to end is killed after so long."""
_TO_BEGIN_SECONDS = 0.1
"""Until all have heard when to begin."""


class TeamFailed(Exception):
    """A process failed, or took too long: what it said, or how it ended."""


class Team:
    """Processes that have prepared themselves."""

    def __init__(
        self, processes: Sequence[BaseProcess], pipes: Sequence[Connection], deadline: float
    ) -> None:
        self._members = list(zip(processes, pipes, strict=True))
        self._deadline = deadline

    def result(self, name: str) -> Any:
        """What the first process returns for one turn."""
        return self._answers(1, (name, None))[0]

    def results(self, name: str, count: int) -> list[Any]:
        """What the first `count` processes return, each for one turn at the same time."""
        return self._answers(count, (name, None))

    def turns_per_second(self, name: str, count: int, seconds: float) -> float:
        """Of the first `count` processes together, which begin and stop at the same moments."""
        begins = time.time() + _TO_BEGIN_SECONDS
        return sum(self._answers(count, (name, (begins, begins + seconds))))

    def _wait_until_ready(self) -> None:
        self._collect(self._members)

    def _answers(self, count: int, request: object) -> list[Any]:
        members = self._members[:count]
        assert len(members) == count, f"a team of {len(self._members)} has no {count} members"
        for _, pipe in members:
            pipe.send(request)
        return self._collect(members)

    def _collect(self, members: Sequence[tuple[BaseProcess, Connection]]) -> list[Any]:
        """One answer of each; TeamFailed with the first failure, once all have answered."""
        answers = [self._answer(process, pipe) for process, pipe in members]
        for answer in answers:
            if isinstance(answer, TeamFailed):
                raise answer
        return answers

    def _answer(self, process: BaseProcess, pipe: Connection) -> Any:
        left = self._deadline - time.monotonic()
        try:
            if pipe.poll(max(0.0, left)):
                return pipe.recv()
        except (EOFError, ConnectionError):
            process.join(END_SECONDS)
            return TeamFailed(f"a process ended with code {process.exitcode}")
        return TeamFailed("the time that was given is over")


@contextlib.contextmanager
def team(
    prepare: Callable[[], Turns],
    count: int,
    *,
    deadline: float,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Team]:
    """So many processes, each with what `prepare` gave it, until the end of the block.

    They are forks of this process, so that its imports are theirs: it must not have used a GPU, nor
    computed with several threads. TeamFailed where one fails, or where they have not answered by
    the `deadline` of the monotonic clock, then and in every later call.
    """
    context = multiprocessing.get_context("fork")
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            # No daemon of multiprocessing, which could not start a process to compile with.
            process = context.Process(target=_work, args=(theirs, prepare, environment or {}))
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        members = Team(processes, pipes, deadline)
        members._wait_until_ready()
        yield members
    finally:
        _end(processes)


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    latest = time.monotonic() + END_SECONDS
    for process in processes:
        process.join(max(0.0, latest - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join(END_SECONDS)


def _work(pipe: Connection, prepare: Callable[[], Turns], environment: Mapping[str, str]) -> None:
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for whoever started us, who ends us
    os.environ |= environment
    turns = _tried(prepare)
    if isinstance(turns, TeamFailed):
        pipe.send(turns)
        return
    pipe.send(None)
    while True:
        name, span = pipe.recv()
        pipe.send(_tried(turns[name] if span is None else _repeated(turns[name], *span)))


def _repeated(turn: Callable[[], Any], begins: float, ends: float) -> Callable[[], float]:
    """Turns per second from `begins` on, until the first that is done after `ends`."""

    def repeat() -> float:
        time.sleep(max(0.0, begins - time.time()))
        done = 0
        while (now := time.time()) < ends:
            turn()
            done += 1
        return done / (now - begins)

    return repeat


def _tried(action: Callable[[], Any]) -> Any:
    """What it returns, or TeamFailed with what it raised."""
    try:
        return action()
    except Exception as error:
        text = str(error).strip().splitlines()
        return TeamFailed(f"{type(error).__name__}: {text[0] if text else ''}")
