"""MLflow's pages on sweeps, none of which shows a file from outside of the sweeps' folders."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.copies import copied
from orchestrator.record.database import sqlite_address
from orchestrator.support.addresses import redacted
from orchestrator.support.loopback import refuse_taken
from orchestrator.support.regular_file import refuse_links_within
from orchestrator.tracking.backend import Pages, TrackingError
from orchestrator.tracking.mlflow.experiment import addresses_of, find_experiment, renew_views
from orchestrator.tracking.mlflow.places import sentence, set_own_addresses
from orchestrator.tracking.mlflow.server import server_command, server_environment
from orchestrator.tracking.mlflow.store import ARTIFACTS_FOLDER, MLFLOW_FILE, open_client
from orchestrator.tracking.mlflow.united import united

Sweeps = Mapping[Path, SweepPlan]


@contextmanager
def pages(sweeps: Sweeps, address: Callable[[Path], str], host: str, port: int) -> Iterator[Pages]:
    """Of the database in a sweep's folder if there is one, else of that at `address(folder)`.

    ValueError if there is none yet, if the port is taken, or if a database names foreign files.
    """
    own = [folder for folder in sweeps if (folder / MLFLOW_FILE).is_file()]
    without = [folder for folder in sweeps if folder not in own]
    if own:
        refuse_taken(host, port)
        left_out = [f"{folder}: has no {MLFLOW_FILE} yet, and is left out" for folder in without]
        with _own_database(own[0]) if len(own) == 1 else _own_databases(own) as (uri, notes):
            shown = {folder: sweeps[folder] for folder in own}
            yield _served(shown, uri, host, port, [*left_out, *notes], renew=True)
        return
    uri = address(without[0])
    if uri.startswith("sqlite:"):
        raise ValueError(
            f"{without[0]}: has no {MLFLOW_FILE} yet; `orchestrator resume {without[0]}` writes "
            "one (or set MLFLOW_TRACKING_URI to the server that the sweep was sent to)"
        )
    if uri.startswith("http"):
        client = open_client(uri)
        seen = addresses_of(client, sweeps.values())
        absent = [folder for folder, plan in sweeps.items() if not find_experiment(client, plan)]
        notes = [f"{folder}: is not on the server yet, and is left out" for folder in absent]
        yield Pages(server=redacted(uri).rstrip("/"), pages=seen, notes=notes if seen else [])
        return
    refuse_taken(host, port)
    yield _served(sweeps, uri, host, port, [], renew=False)


def _served(
    sweeps: Sweeps, uri: str, host: str, port: int, notes: list[str], *, renew: bool
) -> Pages:
    client = open_client(uri)
    if renew:  # in a database of the sweep's own, or a copy
        renew_views(client, sweeps.values())
    # Of several sweeps every address names its folder, and what the server is told is not used.
    artifacts = next(iter(sweeps)) / ARTIFACTS_FOLDER
    return Pages(
        server=f"http://{host}:{port}",
        pages=addresses_of(client, sweeps.values()),
        command=server_command(uri, str(artifacts), host, port),
        environment=server_environment(),
        notes=notes,
    )


@contextmanager
def _own_databases(folders: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    """The address of one database with what those of the folders hold, as `_own_database`."""
    for folder in folders:
        refuse_links_within(folder)
    try:
        with united(folders) as place:
            note = "these are copies: what is changed in the pages is not kept"
            yield sqlite_address(place / MLFLOW_FILE), [note]
    except TrackingError as error:
        raise ValueError(str(error)) from error


@contextmanager
def _own_database(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of the sweep's database, none of whose files lies outside of the sweep's.

    With what the user is to know of it. ValueError where a file lies outside: the server would hand
    it out to whoever asks.
    """
    refuse_links_within(folder)
    writable = os.access(folder, os.W_OK) and os.access(folder / MLFLOW_FILE, os.W_OK)
    try:
        # What is looked at is what is shown.
        with nullcontext(folder) if writable else copied(folder, [MLFLOW_FILE]) as place:
            shown = place / MLFLOW_FILE
            changed = set_own_addresses(shown, folder)
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
