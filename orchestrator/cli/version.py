"""`--version`: what is installed, of us and of what computes. Nothing of it is imported."""

import platform
from importlib import metadata

import typer

from orchestrator.support.formats import DISTRIBUTION

SHOWN = ("torch", "timm", "ray", "optuna", "mlflow")


def show_version(asked: bool) -> None:
    """A callback of Typer: print the versions, and end the command."""
    if not asked:
        return
    typer.echo(f"orchestrator {_version(DISTRIBUTION)}")
    others = (f"{name} {_version(name)}" for name in SHOWN)
    typer.echo(", ".join([f"Python {platform.python_version()}", *others]))
    raise typer.Exit


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
