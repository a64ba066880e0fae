"""`ui`: MLflow's pages on one sweep, on this machine only unless told otherwise."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Annotated, Any

import typer

START_SECONDS = 300
STOP_SECONDS = 5


def ui(
    folder: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    port: Annotated[int, typer.Option(help="Where to listen.", min=1, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option(help="Which interface; the pages have no password.")
    ] = "127.0.0.1",
) -> None:
    """Open the MLflow pages of a sweep: studies, trials, curves, best files. Ctrl-C stops them."""
    from orchestrator.plan.plan import load_plan
    from orchestrator.support.addresses import redacted
    from orchestrator.tracking.mlflow.store import MLFLOW_FILE, tracking_uri
    from orchestrator.tracking.reconcile import experiment_page

    plan = load_plan(folder)
    folder = folder.resolve()
    if (folder / MLFLOW_FILE).is_file():
        _refuse_taken(host, port)
        with _interruptible(), _own_database(folder) as uri:
            page = experiment_page(plan, uri) or ""
            _serve(folder, uri, host, port, plan.name, page)
        return
    uri = tracking_uri(folder)
    if uri.startswith("sqlite:"):
        raise ValueError(
            f"{folder}: has no {MLFLOW_FILE} yet; `orchestrator resume {folder}` writes one "
            "(or set MLFLOW_TRACKING_URI to the server that the sweep was sent to)"
        )
    page = experiment_page(plan, uri) or ""
    if uri.startswith("http"):
        typer.echo(f"sweep {plan.name} is on the server: {redacted(uri).rstrip('/')}/{page}")
        return
    _refuse_taken(host, port)
    with _interruptible():
        _serve(folder, uri, host, port, plan.name, page)


def _serve(folder: Path, uri: str, host: str, port: int, sweep: str, page: str) -> None:
    base = f"http://{host}:{port}"
    with _server(folder, uri, host, port) as (server, output):
        typer.echo("MLflow is starting ...")
        _wait_until_ready(server, base, output)
        typer.echo(f"sweep {sweep}: {base}/{page}   (Ctrl-C stops)")
        server.wait()
        raise ValueError(f"the MLflow server ended by itself:\n{_tail(output)}")


@contextmanager
def _own_database(folder: Path) -> Iterator[str]:
    """The address of the sweep's database, none of whose files lies outside of the sweep's.

    ValueError where one does: the server would hand it out to whoever asks.
    """
    from orchestrator.record.database import sqlite_address
    from orchestrator.support.regular_file import refuse_links_within
    from orchestrator.tracking.mlflow.places import sentence, set_addresses, wrong_addresses
    from orchestrator.tracking.mlflow.store import ARTIFACTS_FOLDER, MLFLOW_FILE, TrackingError
    from orchestrator.tracking.snapshot import copied_databases

    database, artifacts = folder / MLFLOW_FILE, folder / ARTIFACTS_FOLDER
    refuse_links_within(folder)
    writable = os.access(folder, os.W_OK) and os.access(database, os.W_OK)
    try:
        # What is looked at is what is shown.
        with nullcontext(folder) if writable else copied_databases(folder) as place:
            shown = place / MLFLOW_FILE
            if foreign := [a for a in wrong_addresses(shown, artifacts) if a.foreign]:
                raise ValueError(
                    f"{database}: {sentence(foreign)}; `orchestrator doctor {folder} --repair` "
                    "sets them to the folder's own"
                )
            changed = set_addresses(shown, artifacts)
            if not writable:
                typer.echo("the folder cannot be written: what is changed in the pages is not kept")
            elif changed:
                typer.echo(f"{sentence(changed)}; set to this folder")
            yield sqlite_address(shown)
    except TrackingError as error:
        raise ValueError(str(error)) from error


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
def _server(
    folder: Path, uri: str, host: str, port: int
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    from orchestrator.tracking.mlflow.server import server_command, server_environment
    from orchestrator.tracking.mlflow.store import ARTIFACTS_FOLDER

    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(  # noqa: S603 (our own interpreter)
            server_command(uri, str(folder / ARTIFACTS_FOLDER), host, port),
            cwd=folder,
            env=server_environment(),
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


def _refuse_taken(host: str, port: int) -> None:
    from orchestrator.support.loopback import is_free

    if not is_free(host, port):
        other = next((p for p in range(port + 1, port + 100) if is_free(host, p)), None)
        advice = f"; try --port {other}" if other else ""
        raise ValueError(f"port {port} of {host} is taken or not ours to use{advice}")


def _wait_until_ready(server: subprocess.Popen[bytes], base: str, output: IO[bytes]) -> None:
    from orchestrator.support.loopback import is_healthy

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ValueError(f"the MLflow server did not start:\n{_tail(output)}")
        if is_healthy(base, timeout_seconds=5):
            return
        time.sleep(0.3)
    raise ValueError(f"the MLflow server was not ready after {START_SECONDS} s:\n{_tail(output)}")


def _tail(output: IO[bytes]) -> str:
    output.seek(0)
    return "\n".join(output.read().decode(errors="replace").splitlines()[-15:])
