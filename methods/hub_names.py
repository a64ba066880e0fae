"""Names of backbones that timm's registry has not: `hf-hub:OWNER/NAME` and `local-dir:FOLDER`.

Both mean a folder in the format of the Hugging Face hub, config.json beside the weights. Needs
neither torch nor timm, so that a typo is told at once.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_SOURCES = {"hf-hub": "hf-hub", "hf_hub": "hf-hub", "local-dir": "local-dir"}
"""As timm takes them, the second by its older spelling."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_REVISION = re.compile(r"[\w./-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class HubName:
    """Where a model that is no entry of timm's registry lies."""

    source: Literal["hf-hub", "local-dir"]
    place: str
    """OWNER/NAME of a repository, or the path of a folder."""
    revision: str | None = None
    """A branch, a tag or a commit of the repository; None: its main branch."""

    @property
    def folder(self) -> Path:
        """Of `local-dir`, from anywhere; links are not followed, as their names may say more."""
        return Path(os.path.abspath(Path(self.place).expanduser()))  # noqa: PTH100

    def __str__(self) -> str:
        """As it is typed; of a folder only its last part, since folders move."""
        if self.source == "local-dir":
            return f"local-dir:{self.folder.name}"
        return f"hf-hub:{self.place}" + (f"@{self.revision}" if self.revision else "")


def hub_name(name: str) -> HubName | None:
    """What the name means; None where it is one of timm's registry, also as `hf-hub:timm/NAME`.

    ValueError where it begins like one and is none.
    """
    word, colon, place = name.partition(":")
    source = _SOURCES.get(word.lower())
    if not colon or source is None:
        return None
    if source == "local-dir":
        if not place:
            raise ValueError(f"{name}: names no folder; give local-dir:FOLDER")
        return HubName(source="local-dir", place=place)
    repository, at, revision = place.partition("@")
    if repository.startswith("timm/") and not at:
        return None
    if not _REPOSITORY.fullmatch(repository) or (at and not _REVISION.fullmatch(revision)):
        raise ValueError(
            f"{name}: is no model of the hub; give hf-hub:OWNER/NAME, or hf-hub:OWNER/NAME@REVISION"
            " with a branch, a tag or a commit"
        )
    return HubName(source="hf-hub", place=repository, revision=revision or None)


def refuse_absent_folder(name: HubName) -> None:
    """ValueError where a folder on this disk is none, or has no description of its network."""
    if name.source != "local-dir":
        return
    if not name.folder.is_dir():
        what = "is a file, not a folder" if name.folder.exists() else "there is no such folder"
        raise ValueError(f"local-dir:{name.place}: {what}")
    if not (name.folder / "config.json").is_file():
        raise ValueError(
            f"local-dir:{name.place}: has no config.json, which says what network it is; give the"
            " name of timm's architecture as --backbone and the folder as --weights"
        )
