"""What an installation may lack: the optional parts, asked for before anything is started."""

import importlib
from importlib import metadata

from packaging.requirements import Requirement

DISTRIBUTION = "visual-prompt-orchestrator"


def require(extra: str, *modules: str, what: str) -> None:
    """ValueError that names what to install, if one of `modules` is missing.

    The packages are named one by one: this distribution lies in no registry, so that an extra of
    it could not be installed by name.
    """
    missing = [module for module in modules if not _can_import(module)]
    if missing:
        packages = " ".join(f"'{package}'" for package in packages_of(extra))
        raise ValueError(
            f"{what} needs {' and '.join(missing)}, not installed here; pip install {packages}"
        )


def packages_of(extra: str) -> list[str]:
    """What `pip install` takes for one of our extras, e.g. `psycopg[binary]>=3.2`."""
    found = map(Requirement, metadata.requires(DISTRIBUTION) or [])
    wanted = [one for one in found if one.marker and one.marker.evaluate({"extra": extra})]
    return [str(one).partition(";")[0].strip() for one in wanted if one.name != DISTRIBUTION]


def _can_import(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:  # also of a library that the package itself needs and lacks
        return False
    return True
