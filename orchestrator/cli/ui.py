"""`ui`: MLflow's pages on sweeps, on this machine only unless told otherwise."""

import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Storage
from orchestrator.support.phases import phase

if TYPE_CHECKING:
    from orchestrator.plan.plan import SweepPlan
    from orchestrator.tracking.backend import Pages

START_SECONDS = 300
STOP_SECONDS = 5


Sweeps = Annotated[
    list[Path],
    typer.Argument(
        help="The folders of sweeps, or a folder that holds them; with --storage the names of "
        "sweeps. Several are shown together."
    ),
]


def ui(
    sweeps: Sweeps,
    port: Annotated[int, typer.Option(help="Port to serve the pages on.", min=1, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option(help="Address to serve them on; they have no password.")
    ] = "127.0.0.1",
    storage: Storage = None,
) -> None:
    """Open the MLflow pages of sweeps: studies, trials, curves, best files.

        orchestrator ui SWEEP
        orchestrator ui sweeps/photos-a sweeps/photos-b

    It prints the address for a browser. Ctrl-C stops the pages.
    """
    with phase("loading libraries"):
        from orchestrator.api.sweep import Sweep
    from orchestrator.tracking.trackers import chosen_tracker

    opened = {
        folder.resolve(): Sweep.open(folder, storage=storage).frozen_plan
        for given in sweeps
        for folder in _sweeps_in(given)
    }
    shown = _without_copies(opened)
    tracker = chosen_tracker()
    with _interruptible(), tracker.pages(shown, host, port) as pages:
        for note in pages.notes:
            typer.echo(note)
        if pages.command:
            _serve(next(iter(shown)), pages, tracker.name)
        elif pages.pages:
            _say_where(pages)
        else:
            typer.echo(f"{', '.join(p.name for p in shown.values())}: not on {pages.server} yet")


def _sweeps_in(given: Path) -> list[Path]:
    """The folder itself, or the sweeps that lie in it, by name."""
    from orchestrator.plan.plan import PLAN_FILE

    if (given / PLAN_FILE).is_file():
        return [given]
    return sorted(path.parent for path in given.glob(f"*/{PLAN_FILE}")) or [given]


def _without_copies(opened: "Mapping[Path, SweepPlan]") -> "dict[Path, SweepPlan]":
    """A sweep whose folder was copied is shown once."""
    shown: dict[tuple[str, str], Path] = {}
    for folder, plan in opened.items():
        first = shown.setdefault((plan.name, plan.created), folder)
        if first != folder:
            typer.echo(f"{folder}: is the same sweep as {first}, which is shown")
    return {folder: opened[folder] for folder in shown.values()}


def _serve(folder: Path, pages: "Pages", tracker: str) -> None:
    with _server(folder, pages) as (server, output):
        with phase(f"{tracker} is starting"):
            _wait_until_ready(server, pages.server, tracker, output)
        _say_where(pages)
        typer.echo("Ctrl-C stops the pages")
        server.wait()
        raise ValueError(f"the {tracker} server ended by itself:\n{_tail(output)}")


def _say_where(pages: "Pages") -> None:
    from orchestrator.support.foreign_text import visible

    for what, page in (pages.pages or {"pages": ""}).items():
        typer.echo(f"{visible(what)}: {pages.server}/{page}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and a stop signal end the block, and the program, in order."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _server(folder: Path, pages: "Pages") -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(  # noqa: S603 (our own interpreter)
            pages.command,
            cwd=folder,
            env=pages.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it with its children
        )
        try:
            yield server, output
        finally:
            _stop(server.pid)


def _stop(pid: int) -> None:
    import psutil

    try:
        parent = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    processes = [parent, *parent.children(recursive=True)]
    for process in processes:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    for process in alive:
        _signal(process, signal.SIGKILL)


def _signal(process: Any, number: signal.Signals) -> None:
    import psutil

    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _wait_until_ready(
    server: subprocess.Popen[bytes], base: str, tracker: str, output: IO[bytes]
) -> None:
    from orchestrator.support.loopback import is_healthy
    from orchestrator.support.waiting import wait_until

    def ended() -> bool:
        return server.poll() is not None

    def answers() -> bool:  # of another on the same port it would not be the answer
        return not ended() and is_healthy(base, timeout_seconds=5)

    if not wait_until(answers, seconds=START_SECONDS, pause=0.3, hopeless=ended):
        what = "did not start" if ended() else f"was not ready after {START_SECONDS} s"
        raise ValueError(f"the {tracker} server {what}:\n{_tail(output)}")


def _tail(output: IO[bytes]) -> str:
    from orchestrator.support.waiting import last_lines

    output.seek(0)
    return last_lines(output.read())
