"""Writes `backbone_catalogue.json`: of every network that timm knows, whether it can be tuned.

    python -m methods.write_backbone_catalogue

Run it with a new timm, or after a change of what is supported; a test says what then differs.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from methods.backbone_catalogue import FILE
from methods.backbone_names import split_name
from methods.families import check_supported
from methods.timm_names import SUPPORTED

_INITIAL_VALUES = frozenset(
    ("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_")
)


class _WithoutValues(TorchFunctionMode):
    """Leaves out what fills new weights: on the meta device they have no values, and saying so
    takes two thirds of the time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if args and getattr(func, "__name__", "") in _INITIAL_VALUES:
            return args[0]
        return func(*args, **(kwargs or {}))


def document() -> dict[str, Any]:
    """What stands in the file when it is up to date."""
    accepted, refused, modules = {}, {}, {}
    for name in timm.list_models():
        try:
            split_name(name)
        except ValueError:
            kind = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
            why = f"it is of timm's {kind}, of no family that is known here"
            modules.setdefault(kind, {"why": why, "names": []})["names"].append(name)
            continue
        with torch.device("meta"), _WithoutValues():
            network = timm.create_model(name, num_classes=0)
        try:
            check_supported(network)
        except ValueError as error:
            _, _, why = str(error).partition("cannot be tuned: ")
            refused[name] = why.removesuffix(f". {SUPPORTED}")
        else:
            accepted[name] = _about(name, network)
    return {
        "timm": timm.__version__,
        "accepted": accepted,
        "refused": refused,
        "refused_modules": dict(sorted(modules.items())),
    }


def _about(name: str, network: nn.Module) -> dict[str, Any]:
    """What timm says of it and of its weights."""
    tags = timm.list_pretrained(name)
    configs = {tag: timm.models.get_pretrained_cfg(tag) for tag in tags}
    own = timm.models.get_pretrained_cfg(name)
    assert own is not None, name
    return {
        "family": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "image_size": own.input_size[-1],
        "licenses": {
            tag.partition(".")[2]: config and config.license for tag, config in configs.items()
        },
    }


def _text(whole: Mapping[str, Any]) -> str:
    """A line per network, so that a change reads as one."""
    lines = []
    for key, value in whole.items():
        if not isinstance(value, dict):
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
            continue
        entries = (f"{json.dumps(name)}: {json.dumps(about)}" for name, about in value.items())
        lines.append(f"{json.dumps(key)}: {{\n" + ",\n".join(entries) + "\n}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(_text(document()), encoding="utf-8")
