"""What is known of a method without importing it, and with it torch: its titles, names and sizes.

The classes are the truth. `catalogue.json` is what they say, written by
`python -m methods.write_catalogue`; a method whose file changed since is asked itself.
"""

import dataclasses
import functools
import hashlib
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from methods import METHODS
from methods.recipe import Recipe

FILE = Path(__file__).with_name("catalogue.json")

_TYPES = {"bool": bool, "int": int, "float": float, "str": str, "None": NoneType}


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a method says of itself."""

    title: str
    paper: str
    learns_prompts: bool
    published_as: Mapping[str, Mapping[str, Any]]
    types: Mapping[str, Any]
    """Of its own hyper-parameters, by name: `int`, `int | None` ..."""
    defaults: Mapping[str, Any]
    """Their values where a search space names none."""
    recipe: Recipe
    """That of the defaults."""
    trained_parameters: int | None
    """Of its defaults on `reference()`, beside the head; None where nobody counted them."""


def declaration(method: str) -> Declaration:
    """What the method of this name in METHODS says of itself."""
    written = _written()["methods"].get(method)
    return declared_by(METHODS[method]) if written is None else written


def reference() -> tuple[str, int]:
    """The backbone that `trained_parameters` is counted on, and its parameters without a head."""
    document = _written()
    return document["backbone"], document["backbone_parameters"]


def declared_by(kind: Any) -> Declaration:
    """What the class of a method says."""
    fields = [field for field in dataclasses.fields(kind) if field.init]
    return Declaration(
        title=kind.title,
        paper=kind.paper,
        learns_prompts=kind.learns_prompts,
        published_as=kind.published_as,
        types={field.name: field.type for field in fields},
        defaults={field.name: getattr(kind(), field.name) for field in fields},
        recipe=kind().recipe(),
        trained_parameters=None,
    )


@functools.cache
def _written() -> dict[str, Any]:
    """The file, without methods whose source is another by now."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    methods = document["methods"]
    current = {name: entry for name, entry in methods.items() if entry["sha256"] == sha256(name)}
    return {**document, "methods": {name: _read(entry) for name, entry in current.items()}}


def sha256(method: str) -> str:
    """Of the file of a method that comes with this package."""
    module = METHODS.where(method).rpartition(".")[2]
    return hashlib.sha256((FILE.parent / f"{module}.py").read_bytes()).hexdigest()


def _read(entry: Mapping[str, Any]) -> Declaration:
    own = entry["hyperparameters"]
    return Declaration(
        **{name: entry[name] for name in ("title", "paper", "learns_prompts", "published_as")},
        types={name: _type(about["type"]) for name, about in own.items()},
        defaults={name: about["default"] for name, about in own.items()},
        recipe=Recipe(**entry["recipe"]),
        trained_parameters=entry["trained_parameters"],
    )


def _type(text: str) -> Any:
    return functools.reduce(operator.or_, (_TYPES[part] for part in text.split(" | ")))


def type_text(annotation: Any) -> str:
    """`int`, `int | None` ...: as it is written in the file."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    assert _type(text) == annotation, f"{annotation}: not a type that a search space can name"
    return text
