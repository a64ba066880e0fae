"""A model in the format of the Hugging Face hub: config.json beside its weights, here or there.

timm's own factory takes the same two sources. We look at the files ourselves, so that weights are
read without running code from them, and a plan can write down what the config said.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from methods.argument_values import Arguments, Value, as_value
from methods.build_arguments import of_features
from methods.hub_names import HubName, refuse_absent_folder
from methods.weights.reading import WEIGHTS_OF_FOLDERS

logger = logging.getLogger(__name__)

CONFIG = "config.json"
SECONDS = 10
"""How long the hub may be silent."""


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """What a config.json of timm's format says, and where the weights are."""

    config: Path
    architecture: str
    """timm's name, without a pretraining."""
    arguments: Arguments = field(default_factory=dict)
    """Those that say what the network computes."""
    pretraining: str = ""
    """The tag behind timm's name, where it says one."""
    images: Mapping[str, Any] = field(default_factory=dict)
    """Of timm's settings of a pretraining (`pretrained_cfg`), those about images."""


def folder_of(name: HubName) -> Path:
    """The folder with config.json and weights: on this disk, or fetched from the hub into its
    cache."""
    if name.source == "local-dir":
        refuse_absent_folder(name)
        return name.folder
    return _cached(name) or _fetched(name)


def commit_of(name: HubName, folder: Path) -> str | None:
    """The commit that a fetched folder is of: the cache calls it so."""
    return folder.name if name.source == "hf-hub" else None


def read_config(folder: Path) -> HubModel:
    """ValueError names the file and what is wrong in it."""
    path = folder / CONFIG
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(document, Mapping) or not isinstance(document.get("architecture"), str):
        kind = document.get("model_type") if isinstance(document, Mapping) else None
        what = f"describes a {kind!r} of transformers" if isinstance(kind, str) else "says no"
        raise ValueError(
            f"{path}: {what}{'' if kind else ' architecture'}, not an architecture of timm; give"
            " timm's name of it as --backbone and this folder as --weights"
        )
    arguments = _inner(document, "model_args", path)
    images = _inner(document, "pretrained_cfg", path) if "pretrained_cfg" in document else document
    said: dict[str, Value] = {}
    for name, value in of_features(arguments).items():
        try:
            said[name] = as_value(value)
        except ValueError as error:
            raise ValueError(f"{path}: model_args.{name} is {value!r:.60}: {error}") from error
    if arguments.get("in_chans", 3) != 3:
        raise ValueError(
            f"{path}: model_args.in_chans is {arguments['in_chans']!r:.60}: the network takes"
            " images of other than three channels, which is not supported"
        )
    return HubModel(
        config=path,
        architecture=document["architecture"].partition(".")[0],
        arguments=said,
        pretraining=str(images.get("tag") or "")[:60],
        images={**_image_size(arguments, images, path), **_crop(images, path)},
    )


def _inner(document: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: {key} is {value!r:.60}, not names and values")
    return value


def _image_size(
    arguments: Mapping[str, Any], images: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    size: Any = arguments.get("img_size")
    if size is None and isinstance(shape := images.get("input_size"), list):
        size = shape[1:]
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if size is None:
        return {}
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 2048:
        raise ValueError(f"{path}: its images are of {size!r:.60} pixels; squares are supported")
    return {"input_size": (3, size, size)}


def _crop(images: Mapping[str, Any], path: Path) -> dict[str, Any]:
    value = images.get("crop_pct")
    if value is None:
        return {}
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError(f"{path}: crop_pct is {value!r:.60}, not a share from 0 to 1")
    return {"crop_pct": float(value)}


# The hub


def _cached(name: HubName) -> Path | None:
    """A folder that was fetched before, where the revision is a commit: that never changes."""
    revision = name.revision or "main"
    if len(revision) != 40 or not all(digit in "0123456789abcdef" for digit in revision):
        return None
    return _in_cache(name.place, revision)


def _in_cache(repository: str, revision: str) -> Path | None:
    config = try_to_load_from_cache(repository, CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if any((folder / file).is_file() for file in WEIGHTS_OF_FOLDERS) else None


def _fetched(name: HubName) -> Path:
    try:
        info = HfApi().model_info(name.place, revision=name.revision, timeout=SECONDS)
        folder = Path(hf_hub_download(name.place, CONFIG, revision=name.revision)).parent
        there = {file.rfilename for file in info.siblings or ()}
        weights = next((file for file in WEIGHTS_OF_FOLDERS if file in there), None)
        if weights is not None:
            hf_hub_download(name.place, weights, revision=folder.name)
    except Exception as error:  # the hub's client and its transports raise many kinds
        is_away = not isinstance(error, RepositoryNotFoundError | RevisionNotFoundError)
        if is_away and (folder := _in_cache(name.place, name.revision or "main")):
            logger.warning(
                "%s: the hub does not answer (%s); taken is the copy that was fetched before, of"
                " commit %s", name, type(error).__name__, folder.name[:12],
            )  # fmt: skip
            return folder
        raise ValueError(f"{name}: {_why_not(error, name)}") from error
    if weights is None:
        raise ValueError(
            f"{name}: has none of {', '.join(WEIGHTS_OF_FOLDERS)}; download its weights and give"
            " timm's name of the architecture as --backbone and the file as --weights"
        )
    return folder


def _why_not(error: Exception, name: HubName) -> str:
    """What the hub said, and what to do. No token is in it: the client never shows one."""
    log_in = "run `hf auth login` or set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        return (
            "is gated, its owner wants to know who uses it: ask for access on its page, then"
            f" {log_in}; or download its folder and give local-dir:FOLDER"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"the model has no revision {name.revision!r}"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub has no such model, or it is private: then {log_in} of who may see it"
    if isinstance(error, RemoteEntryNotFoundError):
        return (
            f"has no {CONFIG}, which says what network it is; download its weights and give timm's"
            " name of the architecture as --backbone and the file as --weights"
        )
    if status in (401, 403):
        return (
            f"the hub refuses it to you ({status}): {log_in} of who may see it, or download its"
            " folder and give local-dir:FOLDER"
        )
    # HF_ENDPOINT may hold a password, which stands in the address that the client names.
    reason = re.sub(r"//[^/\s@]*@", "//", str(error).partition("\n")[0])
    return (
        f"could not be fetched ({type(error).__name__}: {reason}); download its folder elsewhere"
        " and give local-dir:FOLDER, or --weights FOLDER for what was planned with it"
    )
