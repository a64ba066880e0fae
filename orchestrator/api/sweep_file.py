"""A sweep in a file: every option of `orchestrator sweep` as a key, by the same word.

    suite: ./photos
    method: [linear, vpt_deep]
    trials: 40

Relative paths in it begin at its folder. The plan of a sweep, its `sweep.yaml`, is such a file, too
(`orchestrator/api/plan_again.py`).
"""

import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from methods.hub_names import hub_name
from orchestrator.api.keywords import converted
from orchestrator.api.requests import PlanRequest, PriceRequest, StartRequest
from orchestrator.plan.names import space_names, suite_names
from orchestrator.plan.pruners.options import pruner_options
from orchestrator.run.request import RunRequest
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.document import shown
from orchestrator.support.options import Field, check_option, fields_of
from orchestrator.support.yaml_io import read_yaml_with_lines

logger = logging.getLogger(__name__)

ENDINGS = (".yaml", ".yml")
BESIDE_THE_COMMAND = ("detach", "dry_run", "yes")
"""What is decided each time; in a file it would be done again by the command that it starts."""
PLAN_FILE = "sweep.yaml"


def with_file(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords, with those of the file that `suite` names, if it does; what is given goes before.

    ValueError names file, line and key of what cannot be, and what would work.
    """
    suite = given.get("suite")
    if not isinstance(suite, str | Path):
        return dict(given)
    path = Path(suite).expanduser()
    if (path / PLAN_FILE).is_file():
        raise ValueError(
            f"{suite}: is a sweep: `orchestrator resume {suite}` goes on with it, and "
            f"`orchestrator sweep {path / PLAN_FILE}` plans the same search again in a new folder"
        )
    if path.suffix not in ENDINGS or path.is_dir():
        return dict(given)
    document, lines = read_yaml_with_lines(path)
    if not isinstance(document, dict):
        raise ValueError(
            f"{path}: expected options of `orchestrator sweep` such as `trials: 40`, found "
            f"{shown(document)}"
        )
    if "format" in document:
        from orchestrator.api.plan_again import keywords_of_plan

        told = keywords_of_plan(document, path, given)
    else:
        told = _keywords(document, lines, path)
    if "suite" not in told:
        raise ValueError(f"{path}: suite is missing: {', '.join(suite_names())}, or a folder")
    return _beside(told, {name: value for name, value in given.items() if name != "suite"})


def to_be_planned(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same for `Sweep.plan`; what the file says of the run is said again to `run`."""
    found = with_file(given)
    known = {field.name for field in dataclasses.fields(PlanRequest)}
    others = [name for name in found if name not in known and name not in given]
    if others:
        names = ", ".join(others)
        logger.warning("%s: of the run, not of the plan: %s (see `run`)", given["suite"], names)
    return {name: value for name, value in found.items() if name not in others}


def _beside(told: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given goes before; what belongs to a value that it replaces goes with that."""
    left = dict(told)
    if given.get("backbone", told.get("backbone")) != told.get("backbone"):
        for of_other in ("weights", "backbone_args"):
            left.pop(of_other, None)
    of_pruner = left.pop("pruner_options", {})
    if given.get("pruner", told.get("pruner")) != told.get("pruner"):
        of_pruner = {}
    options = {**of_pruner, **(given.get("pruner_options") or {})}
    return {**left, **given, **({"pruner_options": options} if options else {})}


def _keywords(document: Mapping[Any, Any], lines: Mapping[str, int], path: Path) -> dict[str, Any]:
    known = _known()
    told: dict[str, Any] = {}
    for key, value in document.items():
        where, word = f"{path}:{lines[str(key)]}", str(key).replace("-", "_")
        if word == "search" and "method" in document:
            raise ValueError(f"{path}: is a search space; a sweep takes it with --method {path}")
        if word in BESIDE_THE_COMMAND:
            flag = f"--{word.replace('_', '-')}"
            raise ValueError(
                f"{where}: {key} is said beside the command: orchestrator sweep {path} {flag}"
            )
        if word not in known:
            words = {_word(field) for field in known.values()}
            raise ValueError(f"{where}: {unknown('key', str(key), words)}")
        field, is_pruners = known[word], known[word].option.group == "Pruner"
        target = told.setdefault("pruner_options", {}) if is_pruners else told
        if field.name in target:
            raise ValueError(f"{where}: {key}: stands there twice, by two names")
        if value is not None:  # as if the line were not there
            target[field.name] = _value(field, key, value, path, where)
    return told


def _value(field: Field, key: str, value: Any, path: Path, where: str) -> Any:
    named = replace(field, option=replace(field.option, flag=str(key)))
    try:
        found = converted(named, value)
        check_option(named, found)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if field.type is Path:
        return path.parent.absolute() / found
    if field.name == "backbone":
        return _backbone(found, path.parent.absolute(), where)
    if field.name == "suite":
        return _from_folder(found, suite_names(), path.parent.absolute())
    if field.name in ("methods", "warm_start"):
        names = space_names() if field.name == "methods" else ()
        return [
            _from_folder(one, names, path.parent.absolute()) if isinstance(one, str) else one
            for one in found
        ]
    return found


def _backbone(name: str, folder: Path, where: str) -> str:
    """A name; a folder of a model, as all paths, as seen from a folder."""
    try:
        of_hub = hub_name(name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if of_hub is None or of_hub.source != "local-dir":
        return name
    return f"local-dir:{folder / Path(of_hub.place).expanduser()}"


def _from_folder(name: str, names: Any, folder: Path) -> str:
    """A path as seen from a folder; a name, also a mistyped one, stays one."""
    beside = folder / Path(name).expanduser()
    is_path = os.sep in name or name.endswith((".py", *ENDINGS)) or beside.exists()
    return str(beside) if name not in names and is_path else name


def _word(field: Field) -> str:
    """As it is typed, without dashes in front."""
    return field.name if field.option.positional else field.flag.removeprefix("--")


def _known() -> dict[str, Field]:
    """By the word that is typed and by the keyword in Python, with underscores for dashes."""
    requests = (PlanRequest, RunRequest, PriceRequest, StartRequest)
    fields = [field for request in requests for field in fields_of(request)]
    fields = [field for field in fields if field.option.in_commands]
    fields += [option.field for option in pruner_options()]
    by_keyword = {field.name: field for field in fields}
    return {**by_keyword, **{_word(field).replace("-", "_"): field for field in fields}}
