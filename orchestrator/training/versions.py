"""What a result may depend on besides its configuration: packages and our own code."""

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from orchestrator.support.own_process import ROOT
from orchestrator.training.own_methods import OwnMethod

DECIDE_A_RESULT = ("methods", "orchestrator/data", "orchestrator/training")
"""How images are split and decoded, what a method adds, how it is trained and measured."""


def versions(own_methods: Mapping[str, OwnMethod] | None = None) -> dict[str, str]:
    """By name: of Python, of the packages that a result may depend on, and of our own `code`.

    Methods that do not come with this package are among it.
    """
    packages = ("torch", "timm", "pillow", "optuna", "ray", "mlflow", "visual-prompt-orchestrator")
    found = {name: _version(name) for name in packages}
    own = {f"method {name}": one.sha256[:12] for name, one in (own_methods or {}).items()}
    return {"python": platform.python_version(), **found, "code": code_digest(), **own}


def _version(package: str) -> str:
    """Of an installed package. A checkout on PYTHONPATH is none; `code` says which one it is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def code_digest(packages: Path = ROOT) -> str:
    """All our own code that a trial runs, below the folder that `orchestrator` lies in.

    Whole folders, so that nothing that changes a number can be forgotten: a file that could not
    have changed one costs a question when a sweep is resumed, one that is forgotten a wrong table.
    """
    digest = hashlib.sha256()
    for folder in DECIDE_A_RESULT:
        for file in sorted((packages / folder).rglob("*.py")):
            content = file.read_bytes()
            name = file.relative_to(packages).as_posix()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]
