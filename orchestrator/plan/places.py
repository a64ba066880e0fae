"""Where the images and weights of a sweep or a bundle are now, if not where they were.

A plan is frozen: what was moved is named with `--data` and `--weights`, and a sweep folder keeps
that in `places.yaml` beside its plan. Images are known by their fingerprint, weights by their
sha256, so that another place can never be another content.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from orchestrator.data.forms import form_of
from orchestrator.data.suites import PUBLISHED_SUITES, QUICKSTART, Suite
from orchestrator.data.task import DataError
from orchestrator.plan.plan import SweepPlan
from orchestrator.support.document import read_as
from orchestrator.support.whole_file import whole_file
from orchestrator.support.yaml_io import dump_yaml, parse_yaml, read_yaml

logger = logging.getLogger(__name__)

PLACES_FILE = "places.yaml"


@dataclass(frozen=True)
class _AbsolutePath:
    def complaint(self, value: str) -> str | None:
        return None if Path(value).is_absolute() else "an absolute path"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Absolute paths; None: where the plan says."""

    data: Annotated[str, _AbsolutePath()] | None = None
    """The folder of the suite, or the one that it lies in."""
    weights: Annotated[str, _AbsolutePath()] | None = None


def find_places(folder: Path, data: Path | None, weights: Path | None) -> Places:
    """What is given, else what the sweep folder remembers, as far as it is still there."""
    kept = _read_places(folder)
    return Places(
        data=_absolute(data) or _if_there(kept.data),
        weights=_absolute(weights) or _if_there(kept.weights),
    )


def keep_places(folder: Path, places: Places) -> None:
    """Remember them for the commands that come later, where a text file can hold them."""
    if places == _read_places(folder) or places == Places():
        return
    path, text = folder / PLACES_FILE, dump_yaml(asdict(places))
    if not _is_read_as(text, places):
        logger.warning(
            "%s: cannot hold %s, used this time only: rename what is not plain text in it, or "
            "give it every time",
            path,
            " and ".join(repr(place) for place in (places.data, places.weights) if place),
        )
        return
    with whole_file(path) as file:
        file.write(text.encode())


def _is_read_as(text: str, places: Places) -> bool:
    """Not so where a name is no UTF-8, or has control characters."""
    try:
        text.encode()
        return read_as(Places, parse_yaml(text, source=""), source="") == places
    except ValueError:
        return False


def at_places(plan: SweepPlan, places: Places) -> SweepPlan:
    """The plan with its images and weights where they are now."""
    if places.data is not None:
        suite, data_root = moved_suite(plan.suite, Path(places.data))
        plan = replace(plan, suite=suite, data_root=data_root)
    if places.weights is not None:
        plan = replace(plan, backbone=replace(plan.backbone, weights=places.weights))
    return plan


def moved_suite(suite: str, data: Path) -> tuple[str, str | None]:
    """Suite and data root, where `data` is the suite now or the folder that it lies in.

    Of a table it may be what its paths are relative to now, while it lies where it was.
    """
    data = data.expanduser().absolute()
    if suite == QUICKSTART:
        raise ValueError("--data: the quickstart writes its own images, they cannot be elsewhere")
    if form_of(data) is not None:
        return str(data), None
    if not data.is_dir():
        raise DataError(f"--data: {data} is not a folder")
    if suite in PUBLISHED_SUITES:
        return suite, str(data)
    name = Path(suite).name
    inside = data / name
    if Path(suite).is_file() and not inside.exists():
        return suite, str(data)
    return str(inside if data.name != name and inside.exists() else data), None


def under_planned_names(
    load: Callable[[Sequence[str] | None], Suite], tasks: Sequence[str]
) -> Suite:
    """The suite that `load` reads, with the tasks by the names that they were planned under.

    A folder of class folders gives its own name to its one task, and may have been renamed.
    """
    try:
        return load(tasks)
    except DataError as error:
        if len(tasks) == 1 and (renamed := _only_task(load)) is not None:
            (task,) = renamed.tasks
            return replace(renamed, tasks=(replace(task, name=tasks[0]),))
        raise DataError(
            f"{error}; if the images lie elsewhere now, say where with --data"
        ) from error


def _only_task(load: Callable[[Sequence[str] | None], Suite]) -> Suite | None:
    try:
        suite = load(None)
    except DataError:
        return None
    found = suite.tasks
    return suite if len(found) == 1 and found[0].layout not in PUBLISHED_SUITES else None


def _read_places(folder: Path) -> Places:
    path = folder / PLACES_FILE
    if not path.is_file():
        return Places()
    return read_as(Places, read_yaml(path), source=str(path))


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def _if_there(path: str | None) -> str | None:
    return path if path is not None and Path(path).exists() else None
