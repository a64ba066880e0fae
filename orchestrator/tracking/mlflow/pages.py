"""MLflow's pages on one sweep, none of which shows a file from outside of the sweep's folder."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.copies import copied
from orchestrator.record.database import sqlite_address
from orchestrator.support.addresses import redacted
from orchestrator.support.loopback import refuse_taken
from orchestrator.support.regular_file import refuse_links_within
from orchestrator.tracking.backend import Pages, TrackingError
from orchestrator.tracking.mlflow.experiment import page_of_sweep
from orchestrator.tracking.mlflow.places import sentence, set_addresses, wrong_addresses
from orchestrator.tracking.mlflow.server import server_command, server_environment
from orchestrator.tracking.mlflow.store import ARTIFACTS_FOLDER, MLFLOW_FILE, open_client


@contextmanager
def pages(
    plan: SweepPlan, folder: Path, address: Callable[[Path], str], host: str, port: int
) -> Iterator[Pages]:
    """Of the database in the sweep's folder if there is one, else of that at `address(folder)`.

    ValueError if there is none yet, if the port is taken, or if the database names foreign files.
    """
    if (folder / MLFLOW_FILE).is_file():
        refuse_taken(host, port)
        with _own_database(folder) as (uri, notes):
            yield _served(plan, folder, uri, host, port, notes)
        return
    uri = address(folder)
    if uri.startswith("sqlite:"):
        raise ValueError(
            f"{folder}: has no {MLFLOW_FILE} yet; `orchestrator resume {folder}` writes one "
            "(or set MLFLOW_TRACKING_URI to the server that the sweep was sent to)"
        )
    if uri.startswith("http"):
        page = page_of_sweep(open_client(uri), plan)
        yield Pages(server=redacted(uri).rstrip("/"), page=page)
        return
    refuse_taken(host, port)
    yield _served(plan, folder, uri, host, port, [])


def _served(
    plan: SweepPlan, folder: Path, uri: str, host: str, port: int, notes: list[str]
) -> Pages:
    return Pages(
        server=f"http://{host}:{port}",
        page=page_of_sweep(open_client(uri), plan),
        command=server_command(uri, str(folder / ARTIFACTS_FOLDER), host, port),
        environment=server_environment(),
        notes=notes,
    )


@contextmanager
def _own_database(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of the sweep's database, none of whose files lies outside of the sweep's.

    With what the user is to know of it. ValueError where a file lies outside: the server would hand
    it out to whoever asks.
    """
    database, artifacts = folder / MLFLOW_FILE, folder / ARTIFACTS_FOLDER
    refuse_links_within(folder)
    writable = os.access(folder, os.W_OK) and os.access(database, os.W_OK)
    try:
        # What is looked at is what is shown.
        with nullcontext(folder) if writable else copied(folder, [MLFLOW_FILE]) as place:
            shown = place / MLFLOW_FILE
            if foreign := [a for a in wrong_addresses(shown, artifacts) if a.foreign]:
                raise ValueError(
                    f"{database}: {sentence(foreign)}; `orchestrator doctor {folder} --repair` "
                    "sets them to the folder's own"
                )
            changed = set_addresses(shown, artifacts)
            notes = []
            if not writable:
                notes.append(
                    "the folder cannot be written: what is changed in the pages is not kept"
                )
            elif changed:
                notes.append(f"{sentence(changed)}; set to this folder")
            yield sqlite_address(shown), notes
    except TrackingError as error:
        raise ValueError(str(error)) from error
