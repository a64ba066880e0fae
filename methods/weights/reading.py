"""The tensors of a file or a folder, and what is written beside them."""

import json
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from methods.weights.kinds import kind_of, refuse_absent, sharded_reason
from methods.weights.pickles import read_pickle

WEIGHTS_OF_FOLDERS = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""What the hub's libraries call the weights in a folder, in the order in which they look."""

_CONFIGS = ("config.json", "open_clip_config.json", "preprocessor_config.json")
_MAX_DEPTH = 6
_MAX_REMARKS = 5000
_INFIX = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""torch.compile, FSDP and activation checkpointing put these between the names."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a file holds, before anybody knows what it means."""

    path: Path
    groups: Mapping[str, Mapping[str, Tensor]]
    """The tensors of each mapping in the file, by the path to that mapping ('' for the top)."""
    remarks: Mapping[str, Any] = field(default_factory=dict)
    """Numbers and texts by their path: `args.model`, `arch`, `epoch`."""
    configs: Mapping[str, Any] = field(default_factory=dict)
    """The documents of a folder of the hub: config.json and the like, by name."""
    top: str = ""
    """In words: what stands at the top of the file."""
    is_jax: bool = False


def read_weights(path: Path) -> Content:
    """Read a file, or the folder of a hub's model. ValueError says what it is instead."""
    try:
        refuse_absent(path)
        if path.is_dir():
            path = _file_of_folder(path)
        kind = kind_of(path)
        if kind == "safetensors":
            content = _read_safetensors(path)
        elif kind == "npz":
            content = _read_npz(path)
        else:
            content = _read_torch(path, read_pickle(path, kind))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{path}: cannot be read as weights: {reason}") from error
    return content


def bytes_of(path: Path) -> int:
    """Of the file of weights, which may lie in a folder of the hub's."""
    refuse_absent(path)
    return (_file_of_folder(path) if path.is_dir() else path).stat().st_size


def _file_of_folder(folder: Path) -> Path:
    for name in WEIGHTS_OF_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    names = sorted(file.name for file in folder.iterdir())
    if any(name.endswith(".index.json") for name in names):
        raise ValueError(f"{folder}: {sharded_reason()}")
    shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "nothing"
    raise ValueError(
        f"{folder}: is a folder without {' or '.join(WEIGHTS_OF_FOLDERS[:2])}; it holds {shown}"
    )


def _configs_beside(path: Path) -> dict[str, Any]:
    """The hub's descriptions, where the file bears one of the hub's names."""
    if path.name not in WEIGHTS_OF_FOLDERS:
        return {}
    found = {}
    for name in _CONFIGS:
        file = path.with_name(name)
        if file.is_file():
            try:
                document = json.loads(file.read_text(encoding="utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}: is not JSON: {error}") from error
            found[name] = document
    return found


def _read_safetensors(path: Path) -> Content:
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {_plain(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            remarks = dict(file.metadata() or {})
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}: cannot be read as weights, it is cut short or damaged ({error});"
            " copy or download it again"
        ) from error
    for key, value in list(remarks.items()):  # metadata are texts; some are JSON
        if value.startswith("{"):
            try:
                remarks.update(_remarks(json.loads(value), key))
            except (ValueError, RecursionError):
                continue
    return Content(
        path=path,
        groups={"": tensors},
        remarks=remarks,
        configs=_configs_beside(path),
        top=_named(tensors),
    )


def _read_npz(path: Path) -> Content:
    tensors = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if member.file_size > 100 * member.compress_size + 10_000_000:
                    raise ValueError(f"{name} would unpack to {member.file_size:,} bytes")
                with archive.open(member) as file:
                    array = _read_array(file, member.file_size)
                if array is not None:
                    tensors[name] = torch.from_numpy(array)
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: cannot be read as weights, it is cut short or damaged ({error})"
        ) from error
    return Content(path=path, groups={"": tensors}, top=_named(tensors), is_jax=True)


def _read_array(file: Any, size: int) -> np.ndarray | None:
    """An array of floats; None for texts and objects. Its shape is believed only as far as `size`.

    bfloat16 of JAX comes without its name, as two bytes.
    """
    version = np.lib.format.read_magic(file)
    reader = np.lib.format
    header = (reader.read_array_header_1_0, reader.read_array_header_2_0)[min(version[0], 2) - 1]
    shape, in_columns, dtype = header(file)
    count = int(np.prod(shape, dtype=object))
    if dtype.hasobject or dtype.kind in "USM" or (dtype.kind == "V" and dtype.itemsize != 2):
        return None
    if count * dtype.itemsize > size:
        raise ValueError(f"an array claims {count:,} values, its part of the file has {size:,} B")
    data = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    if dtype.kind == "V":
        data = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    data = data.astype(data.dtype.newbyteorder("="))
    return data.reshape(shape, order="F" if in_columns else "C")


def _read_torch(path: Path, value: Any) -> Content:
    if isinstance(value, Tensor):
        raise ValueError(f"{path}: holds a single tensor of shape {tuple(value.shape)}, no network")
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{path}: holds a {type(value).__name__}, not weights by their names; save"
            " model.state_dict()"
        )
    groups = {name: tensors for name, tensors in _groups(value, "") if tensors}
    return Content(
        path=path,
        groups=groups,
        remarks=dict(_remarks(value, "")),
        configs=_configs_beside(path),
        top=_named(value),
    )


def _groups(
    value: Mapping, at: str, depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each mapping once: a pickle may hold one that holds itself, or the same one many times."""
    seen = set() if seen is None else seen
    seen.add(id(value))
    yield at, {_plain(str(k)): v for k, v in value.items() if isinstance(v, Tensor)}
    for key, inner in value.items() if depth < _MAX_DEPTH else ():
        if isinstance(inner, Mapping) and id(inner) not in seen:
            yield from _groups(inner, f"{at}.{key}" if at else str(key), depth + 1, seen)


def _remarks(value: Any, at: str, depth: int = 0, seen: set[int] | None = None) -> dict[str, Any]:
    seen = set() if seen is None else seen
    seen.add(id(value))
    found: dict[str, Any] = {}
    items = vars(value) if isinstance(value, Namespace) else value
    for key, inner in items.items() if isinstance(items, Mapping) else ():
        name = f"{at}.{key}" if at else str(key)
        if isinstance(inner, str | int | float | bool):
            found[name] = inner
        elif (
            isinstance(inner, Mapping | Namespace) and depth < _MAX_DEPTH and id(inner) not in seen
        ):
            found.update(_remarks(inner, name, depth + 1, seen))
        if len(found) > _MAX_REMARKS:
            break
    return found


def _plain(name: str) -> str:
    for infix in _INFIX:
        name = name.replace(infix, "")
    return name


def _named(value: Mapping) -> str:
    names = [str(key) for key in value]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more if names else "nothing"
