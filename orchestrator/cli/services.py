"""`services`: PostgreSQL and MLflow of a cluster, on its head."""

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Json
from orchestrator.cli.terminal import Terminal

console = Terminal()
app = typer.Typer(help="PostgreSQL and MLflow for a cluster.", no_args_is_help=True)

NOT_RUNNING = 1

Folder = Annotated[Path, typer.Option(help="Where the services keep everything.")]
_FOLDER = Path("~/services")


@app.command()
def start(
    folder: Folder = _FOLDER,
    host: Annotated[
        str, typer.Option(help="Where they listen; a private address, if others shall reach them.")
    ] = "127.0.0.1",
    postgres_port: Annotated[int, typer.Option(min=1, max=65535)] = 5432,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    artifacts: Annotated[
        str | None, typer.Option(help="Folder or bucket (s3://...) of MLflow's files.")
    ] = None,
    restore: Annotated[
        Path | None, typer.Option(help="Begin with what `services backup` wrote.")
    ] = None,
) -> None:
    """Start what does not run, and keep it running. May be repeated."""
    from orchestrator.cluster.services import ENVIRONMENT_FILE, SETTINGS_FILE, Services, Settings

    chosen = Settings(
        host=host, postgres_port=postgres_port, mlflow_port=mlflow_port, artifacts=artifacts
    )
    if (folder.expanduser() / SETTINGS_FILE).exists():
        services = Services.open(folder)
        if chosen not in (services.settings, Settings()):
            raise ValueError(
                f"{folder}: was made with {services.settings}; change {SETTINGS_FILE} there, or "
                "choose another --folder"
            )
    else:
        services = Services(folder, chosen)
    services.start(backup=restore)
    _say(f"studies at {services.storage_url}")
    _say(f"MLflow at {services.tracking_uri}")
    _say(f"to use them: . {services.folder / ENVIRONMENT_FILE}")


@app.command()
def stop(folder: Folder = _FOLDER) -> None:
    """Stop both in order."""
    from orchestrator.cluster.services import Services

    _say("stopped" if Services.open(folder).stop() else "they did not run")


@app.command()
def status(
    folder: Folder = _FOLDER,
    as_json: Json = False,
) -> None:
    """Whether they answer, and how often they had to be started."""
    from orchestrator.cluster.services import Services

    found = Services.open(folder).status()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for name, about in found.items():
            answers = "answers" if about["answers"] else "does not answer"
            starts = f", started {about['starts']} times" if "starts" in about else ""
            _say(f"{name}: {answers} at {about['address']}{starts}")
    if not all(about["answers"] for about in found.values()):
        raise typer.Exit(NOT_RUNNING)


@app.command()
def backup(
    folder: Folder = _FOLDER,
    to: Annotated[Path | None, typer.Option(help="Default: backups/<time>.tar there.")] = None,
) -> None:
    """Both databases and the artifacts in one file, while everything goes on."""
    from orchestrator.cluster.services import Services

    path = Services.open(folder).backup(to)
    _say(f"written to {path}; `orchestrator services start --restore {path}` begins with it")


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
