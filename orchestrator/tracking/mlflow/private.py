"""What we take from MLflow without its promise: the one file with such names.

Its public interface does the rest. Besides these names, `places` reads and sets columns of MLflow's
tables, by SQL; columns that it does not find there are left out. Tested with the minor version
`TESTED`, which `pyproject.toml` asks for; with another one, each of these falls back to what the
public interface can do, and one warning says so.
"""

import logging
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

TESTED = "3.17"


class PrivateName(NamedTuple):
    """Something that MLflow may change without a word."""

    name: str
    why: str
    without: str
    """What happens where it is not there."""


RELIES_ON = (
    PrivateName(
        "mlflow.store.db.utils._initialize_tables",
        "to make a database under another name: MLflow cannot go on with one half made",
        "MLflow makes the tables itself; a process killed meanwhile leaves a file to be deleted",
    ),
    PrivateName(
        "mlflow.tracking._tracking_service.utils._artifact_repos_cache",
        "to make it forget where files of a run go, which it remembers by the run's id alone",
        "of a folder that was copied while this process ran, files go where they went before",
    ),
)

VIEW_TAG = "mlflow.sharedViewState."
"""Before the key of a saved view of the table of runs, in a tag of the experiment. Written by the
pages themselves (mlflow/server/js); where it is not known, the view is missing."""
EXPERIMENT_KIND_TAG, EXPERIMENT_KIND = "mlflow.experimentKind", "custom_model_development"
"""Opens the experiment on its table of runs; where it is not known, on an overview."""


def page_of(experiment_id: str, view: str) -> str:
    """An experiment's table of runs with a saved view; a page that knows no views shows all."""
    query = f"workflowType=machine_learning&viewStateShareKey={view}"
    return f"#/experiments/{experiment_id}/runs?{query}"


@cache
def warn_if_untested() -> None:
    """Once in a process, where MLflow is not of the minor version that was tested."""
    version = metadata.version("mlflow")
    if not version.startswith(f"{TESTED}."):
        logger.warning(
            "MLflow %s is installed; tested is %s.x: `pip install 'mlflow~=%s.0'`. What it lacks "
            "of its inner parts is done without",
            version,
            TESTED,
            TESTED,
        )


def make_tables(database: Path) -> bool:
    """Make MLflow's tables in a new file; False where this MLflow must do it itself."""
    initialize = _find(RELIES_ON[0])
    if initialize is None:
        return False
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"sqlite:///{database}")
    initialize(engine)
    engine.dispose()
    return True


def forget_places_of_files() -> None:
    """MLflow remembers in a process where files go, also those of a copy of the sweep."""
    cache = _find(RELIES_ON[1])
    if cache is not None:
        cache.clear()


def _find(private: PrivateName) -> Any:
    module, _, name = private.name.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except ImportError:
        return None
