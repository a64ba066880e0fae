"""What a running trial needs to go on: written whole or not at all, and checked when read."""

import hashlib
import io
import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from orchestrator.support.commit_points import commit_point
from orchestrator.support.regular_file import read_regular
from orchestrator.support.whole_file import whole_file

logger = logging.getLogger(__name__)

_MAGIC = b"orchestrator checkpoint 1\n"

MOST_BYTES = 64 * 2**30
"""All weights of the largest ViT with both moments of AdamW are 22 GB."""


def save_checkpoint(state: Any, path: Path, *, owner: str) -> None:
    """Replace the checkpoint at `path`; `owner` says which configuration it belongs to."""
    buffer = io.BytesIO()
    torch.save({"owner": owner, "state": state}, buffer)
    content = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    middle = len(content) // 2
    with whole_file(path) as file:
        file.write(_MAGIC + hashlib.sha256(content).digest() + content[:middle])
        commit_point("half checkpoint", of=f"{path.parent.name} {path.stem}")
        file.write(content[middle:])
    commit_point("after checkpoint")


def load_checkpoint(path: Path, *, owner: str) -> Any | None:
    """The state at `path`, or None if there is none that is whole and of this configuration.

    A checkpoint that cannot be used costs the epochs it held, never the trial: the reason is
    logged and the trial begins again.
    """
    try:
        content = read_regular(path, most_bytes=MOST_BYTES, follow_link=False)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s; the trial begins again", error)
        return None
    head = len(_MAGIC) + hashlib.sha256().digest_size
    digest, body = content[len(_MAGIC) : head], content[head:]
    if not content.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        logger.warning("%s: is damaged, the trial begins again", path)
        return None
    try:
        document = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except UnpicklingError:
        logger.warning("%s: holds more than tensors, the trial begins again", path)
        return None
    except Exception as error:  # with a right checksum, yet written by another: many kinds
        logger.warning("%s: cannot be read (%s), the trial begins again", path, error)
        return None
    if not isinstance(document, dict) or not isinstance(document.get("state"), dict):
        logger.warning("%s: is not one of ours, the trial begins again", path)
        return None
    if document.get("owner") != owner:
        logger.warning("%s: belongs to another configuration, the trial begins again", path)
        return None
    return document["state"]
