"""Which networks of timm can be tuned, and why the others cannot, without torch and timm.

timm and the walk are the truth. `backbone_catalogue.json` is what they say, written by
`python -m methods.write_backbone_catalogue` for the version of timm that it names.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("backbone_catalogue.json")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network of timm that can be tuned."""

    name: str
    family: str
    """timm's class: VisionTransformer, Eva, ..."""
    parameters: int
    """Without a head."""
    image_size: int
    """Of its pretrainings; other sizes are resampled."""
    licenses: Mapping[str, str | None]
    """Of the weights that timm knows, by pretraining; None where timm does not say."""

    @property
    def names(self) -> list[str]:
        """What `--backbone` takes: with the pretraining behind a dot, else the network alone."""
        return [f"{self.name}.{tag}" for tag in self.licenses] or [self.name]


def timm_version() -> str:
    """The timm that the file was written with."""
    return _document()["timm"]


def architectures() -> list[Architecture]:
    """All that can be tuned, in timm's order."""
    accepted: Mapping[str, Mapping[str, Any]] = _document()["accepted"]
    return [Architecture(name=name, **about) for name, about in accepted.items()]


def refused(text: str) -> dict[str, str]:
    """Why networks with `text` in their names cannot be tuned, by name; that very name first."""
    document = _document()
    single: Mapping[str, str] = document["refused"]
    whole = {name: of["why"] for of in document["refused_modules"].values() for name in of["names"]}
    found = {name: why for name, why in {**single, **whole}.items() if text in name}
    return dict(sorted(found.items(), key=lambda entry: (entry[0] != text, entry[0])))


@functools.cache
def _document() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))
