"""`services`: PostgreSQL and MLflow of a cluster, on its head."""

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.command import Command
from orchestrator.cli.options import Json, expanded
from orchestrator.cli.terminal import Terminal

console = Terminal()
app = typer.Typer(help="PostgreSQL and MLflow for a cluster.", no_args_is_help=True)

NOT_RUNNING = 1

Folder = Annotated[
    Path,
    typer.Option(
        metavar="PATH", help="Where the services keep databases, files and logs.", parser=expanded
    ),
]
_FOLDER = Path("~/services")


@app.command(cls=Command)
def start(
    folder: Folder = _FOLDER,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where they listen: this machine alone, or its private address, for workers of a "
            "cluster to reach them.",
        ),
    ] = "127.0.0.1",
    postgres_port: Annotated[
        int, typer.Option(help="Port of PostgreSQL.", min=1, max=65535)
    ] = 5432,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow.", min=1, max=65535)] = 5000,
    artifacts: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Folder or bucket (s3://...) where MLflow puts models and pages.",
            show_default="default: artifacts/ in --folder",
        ),
    ] = None,
    restore: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Begin with what `orchestrator services backup` wrote."),
    ] = None,
) -> None:
    """Start PostgreSQL and MLflow, and keep them running.

        orchestrator services start
        orchestrator services start --host 10.0.0.4 --artifacts s3://my-bucket/mlflow

    Run it on the head of the cluster. What runs already is left alone, so that it may be repeated.
    It prints the addresses, and the file to source so that sweeps use them.
    """
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
    console.say(f"studies at {services.storage_url}")
    console.say(f"MLflow at {services.tracking_uri}")
    console.say(f"to use them: . {services.folder / ENVIRONMENT_FILE}")


@app.command(cls=Command)
def stop(folder: Folder = _FOLDER) -> None:
    """Stop both in order, with all that was written to them kept.

    orchestrator services stop
    """
    from orchestrator.cluster.services import Services

    console.say("stopped" if Services.open(folder).stop() else "they did not run")


@app.command(cls=Command)
def status(
    folder: Folder = _FOLDER,
    as_json: Json = False,
) -> None:
    """Show whether both answer, where, and how often they had to be started.

        orchestrator services status

    Exit code 1 if one of them does not answer.
    """
    from orchestrator.cluster.services import Services

    found = Services.open(folder).status()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for name, about in found.items():
            answers = "answers" if about["answers"] else "does not answer"
            starts = f", started {about['starts']} times" if "starts" in about else ""
            console.say(f"{name}: {answers} at {about['address']}{starts}")
    if not all(about["answers"] for about in found.values()):
        raise typer.Exit(NOT_RUNNING)


@app.command(cls=Command)
def backup(
    folder: Folder = _FOLDER,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The file to write.",
            show_default="default: backups/<time>.tar in --folder",
        ),
    ] = None,
) -> None:
    """Write both databases and MLflow's files into one file, while everything goes on.

    orchestrator services backup --to /mnt/backups/today.tar
    """
    from orchestrator.cluster.services import Services

    path = Services.open(folder).backup(to)
    console.say(f"written to {path}; `orchestrator services start --restore {path}` begins with it")
