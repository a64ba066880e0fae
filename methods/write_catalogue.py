"""Writes `catalogue.json`, what is known of the methods without importing them.

    python -m methods.write_catalogue

Run it after a change of a method's file; a test says so where it was forgotten.
"""

import dataclasses
import json
from typing import Any

from methods import METHODS
from methods.catalogue import FILE, declared_by, sha256, type_text
from methods.recipe import Recipe
from methods.size import REFERENCE, num_trained_parameters, reference_vit


def document() -> dict[str, Any]:
    """What stands in the file when it is up to date."""
    vit = reference_vit()
    usual = dataclasses.asdict(Recipe())
    methods = {}
    for name in METHODS.shipped:
        kind = METHODS[name]
        said = declared_by(kind)
        recipe = dataclasses.asdict(said.recipe)
        methods[name] = {
            "sha256": sha256(name),
            "title": said.title,
            "paper": said.paper,
            "learns_prompts": said.learns_prompts,
            "published_as": said.published_as,
            "hyperparameters": {
                field: {"type": type_text(kind_of_value), "default": said.defaults[field]}
                for field, kind_of_value in said.types.items()
            },
            "recipe": {field: value for field, value in recipe.items() if value != usual[field]},
            "trained_parameters": num_trained_parameters(vit, kind()),
        }
    return {
        "backbone": REFERENCE,
        "backbone_parameters": sum(parameter.numel() for parameter in vit.parameters()),
        "methods": methods,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(document(), indent=2) + "\n", encoding="utf-8")
