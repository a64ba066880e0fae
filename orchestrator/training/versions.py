"""What a result may depend on besides its configuration: packages and our own code."""

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata, resources

from orchestrator.training.own_methods import OwnMethod


def versions(own_methods: Mapping[str, OwnMethod] | None = None) -> dict[str, str]:
    """Of what a result may depend on, methods that do not come with this package among it."""
    packages = ("torch", "timm", "pillow", "optuna", "ray", "mlflow", "visual-prompt-orchestrator")
    found = {name: metadata.version(name) for name in packages}
    own = {f"method {name}": one.sha256[:12] for name, one in (own_methods or {}).items()}
    return {"python": platform.python_version(), **found, "code": code_digest(), **own}


def code_digest() -> str:
    """Of our own files that decide what a trial's numbers are."""
    methods = resources.files("methods")
    files = [
        file
        for folder in (methods, methods / "weights")
        for file in folder.iterdir()
        if file.name.endswith(".py")
    ]
    own = (
        "training/numerics.py",
        "training/accuracy.py",
        "training/loop.py",
        "training/objective.py",
        "training/trial.py",
        "data/pixels.py",
        "data/transform.py",
    )
    files += [resources.files("orchestrator").joinpath(name) for name in own]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]
