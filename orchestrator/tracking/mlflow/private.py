"""What we use of MLflow that it does not promise. Its public interface does the rest.

Each of these can be done without where MLflow is not what was tested, and one warning says so.
Besides, `places.py` reads and sets addresses in MLflow's tables, by SQL; a column that is not there
is left out.
"""

import functools
import json
import logging
import urllib.parse
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from orchestrator.support.private_names import VALUE, differences, is_minor

logger = logging.getLogger(__name__)

TESTED = "3.17"

_MAKE_TABLES = {"mlflow.store.db.utils._initialize_tables": "(engine)"}
"""To make a database under another name, since MLflow cannot go on with one half made. Without it,
MLflow makes the tables itself: what a process leaves that is killed meanwhile must be deleted."""
_KNOWN_PLACES = {"mlflow.tracking._tracking_service.utils._artifact_repos_cache": VALUE}
"""Where files of a run go, which MLflow remembers by the run's id alone. Where it cannot be told to
forget that, files of a folder that was copied while this process ran go where they went before."""

RELIES_ON = {**_MAKE_TABLES, **_KNOWN_PLACES}

VIEW_TAG = "mlflow.sharedViewState."
"""Before the key of a saved view of the table of runs, in a tag of the experiment, as MLflow's own
pages write it. Where it is not known, the view is missing."""
EXPERIMENT_KIND_TAG, EXPERIMENT_KIND = "mlflow.experimentKind", "custom_model_development"
"""Opens the experiment on its table of runs; where it is not known, on an overview."""


def page_of(experiment_id: str, view: str) -> str:
    """An experiment's table of runs in a saved view; where views are not known, all of it."""
    query = f"workflowType=machine_learning&viewStateShareKey={view}"
    return f"#/experiments/{experiment_id}/runs?{query}"


def page_of_several(experiment_ids: Sequence[str], view: str) -> str:
    """One table of the runs of several experiments, in a saved view of the first."""
    listed = json.dumps(list(experiment_ids), separators=(",", ":"))
    query = urllib.parse.urlencode({"experiments": listed, "viewStateShareKey": view})
    return f"#/compare-experiments/s?{query}"


def check_version() -> None:
    """Warn, once in a process, where MLflow is not of the minor version that was tested."""
    if not is_minor(metadata.version("mlflow"), TESTED):
        _warn_of_another()


def make_tables(database: Path) -> bool:
    """Make MLflow's tables in a new file; False where this MLflow must do it itself."""
    if not _is_there(_MAKE_TABLES):
        return False
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    engine = sqlalchemy.create_engine(f"sqlite:///{database}")
    _initialize_tables(engine)
    engine.dispose()
    return True


def forget_known_places() -> None:
    """Let MLflow ask again where files of runs go: the folder of a sweep may have been copied."""
    if _is_there(_KNOWN_PLACES):
        from mlflow.tracking._tracking_service import utils

        utils._artifact_repos_cache.clear()


def _is_there(relied_on: Mapping[str, str]) -> bool:
    differ = differences(relied_on)
    if differ:
        _warn_of_another()
    return not differ


@functools.cache
def _warn_of_another() -> None:
    logger.warning(
        "tested with MLflow %s; found %s: what it lacks of its inner parts is done without",
        TESTED,
        metadata.version("mlflow"),
    )
