"""Pickled checkpoints without running code from them.

torch's own reader refuses every class that it does not know. Training scripts put a few harmless
ones beside the weights (arguments, paths, numbers of NumPy): for these it is given stand-ins that
keep what they say and can do nothing.
"""

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from methods.weights.kinds import Kind


class _Text(str):
    """A version or a path, as text."""

    __slots__ = ()

    def __new__(cls, *parts: object) -> "_Text":
        return super().__new__(cls, "/".join(str(part) for part in parts))


class _Inert:
    """Something of which nothing is kept."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class _NumberType:
    """NumPy's dtype. The real one believes any state, which a file could use against us."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code if isinstance(code, str) else code.decode("ascii", "replace")  # type: ignore[attr-defined]

    def __setstate__(self, state: object) -> None: ...


def _number(kind: object, data: object = b"") -> int | float | bool | None:
    """A NumPy number as Python's; None where it is something else."""
    import numpy as np

    code = getattr(kind, "code", "")
    if isinstance(data, str):
        data = data.encode("latin1")
    if not re.fullmatch(r"[fiu][1248]|b1", code) or not isinstance(data, bytes):
        return None
    found = np.dtype(code)
    return np.frombuffer(data, found)[0].item() if len(data) == found.itemsize else None


def _dictionary(*_: object) -> dict:
    return {}


_STAND_INS: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "types.SimpleNamespace": argparse.Namespace,
    "collections.defaultdict": _dictionary,
    "torch.torch_version.TorchVersion": _Text,
    "numpy.dtype": _NumberType,
    "numpy.ndarray": _Inert,
    **{f"builtins.{kind.__name__}": kind for kind in (bool, int, float, list, dict)},
    **{f"datetime.{name}": _Inert for name in ("date", "datetime", "time", "timedelta")},
    **{
        f"{module}.{system}Path": _Text
        for module in ("pathlib", "pathlib._local")
        for system in ("", "Pure", "Posix", "Windows", "PurePosix", "PureWindows")
    },
    **{f"numpy.{core}.multiarray.scalar": _number for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _Inert for core in ("core", "_core")},
}


def read_pickle(path: Path, kind: Kind) -> Any:
    """What `torch.save` wrote, on the CPU. ValueError: no tensors of torch, or more than data."""
    try:
        with (
            torch.serialization.safe_globals([(v, k) for k, v in _STAND_INS.items()]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # advice to those who write such files
            if kind == "torch_zip" and path.suffix != ".safetensors":
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as file:  # by its name torch would take it for safetensors
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of strangers: torch, pickle and zip raise many kinds
        raise ValueError(f"{path}: {_reason(path, kind, str(error))}") from error


def _reason(path: Path, kind: Kind, message: str) -> str:
    names = _unknown_classes(path, kind) or re.findall(r"GLOBAL (\S+) was not an allowed", message)
    if not names:
        if "Unsupported operand" in message or "magic number" in message:
            return (
                "was pickled by something else than torch.save, or with another protocol than"
                " torch.save's own; write it again with"
                " torch.save(weights, 'weights.pth')"
            )
        first = message.strip().split("\n")[0].split(". ")[0][:200]
        return f"cannot be read as weights, it is cut short or damaged ({first})"
    shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    load = f"torch.load({path.name!r}, map_location='cpu', weights_only=False)"
    models = sorted(filter(_is_model, names), key=lambda name: (not _is_whole(name), name))
    if model := next(iter(models), None):
        return (
            f"holds a whole pickled model ({model}), which cannot be read without running its code;"
            f" where it can be trusted, save its weights: torch.save({load}.state_dict(),"
            " 'weights.pth')"
        )
    return (
        f"holds objects of classes that are not read, since they could run code: {shown};"
        f" where the file can be trusted, save the weights alone: torch.save({load}['model'],"
        " 'weights.pth'), with the name under which they are for 'model'"
    )


def _is_model(name: str) -> bool:
    return _is_whole(name) or name.startswith(
        ("torch.nn.modules", "timm.models", "torchvision.models")
    )


def _is_whole(name: str) -> bool:
    """Not a layer of one."""
    return bool(re.search(r"(VisionTransformer|ViT\w*|Model)$", name))


def _unknown_classes(path: Path, kind: Kind) -> set[str]:
    """All that the pickle names and nobody reads, not only the first that stopped it."""
    try:
        if kind == "torch_zip":
            with torch.serialization.safe_globals([(v, k) for k, v in _STAND_INS.items()]):
                return set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # it is damaged: what stopped the reading says more
        return set()
    return set()
