"""What a file says about the network beside its tensors, in the words of many libraries."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from methods.network import activation_named
from methods.weights.reading import Content

_TRANSFORMERS: dict[str, tuple[int, str, float]] = {
    "vit": (12, "gelu", 1e-12),
    "deit": (12, "gelu", 1e-12),
    "vit_mae": (12, "gelu", 1e-12),
    "vit_msn": (12, "gelu", 1e-6),
    "ijepa": (12, "gelu", 1e-12),
    "dinov2": (12, "gelu", 1e-6),
    "dinov2_with_registers": (12, "gelu", 1e-6),
    "clip": (12, "quick_gelu", 1e-5),
    "clip_vision_model": (12, "quick_gelu", 1e-5),
    "siglip": (12, "gelu_pytorch_tanh", 1e-6),
    "siglip_vision_model": (12, "gelu_pytorch_tanh", 1e-6),
}
"""Heads, activation and epsilon that transformers takes where a config.json leaves them out, by
`model_type`. Other types are not read."""

_RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers in preprocessor_config.json."""

_ARCHITECTURE = ("arch", "architecture", "model", "model_name", "model_arch", "backbone")
_NUM_HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads")
_ACTIVATION = ("hidden_act", "act_layer", "activation")
_NORM_EPS = ("layer_norm_eps", "norm_eps")
_PATCH_SIZE = ("patch_size",)
_OF_OTHERS = re.compile(r"decoder|text|teacher|optim|sched|loss|predictor|head_")
"""Words in the path of a remark that is not about the image encoder itself."""


@dataclass(frozen=True, kw_only=True)
class Hint:
    """A statement of the file, and where it stands."""

    value: Any
    source: str


@dataclass(kw_only=True)
class Hints:
    """All statements; several of one kind may contradict each other."""

    num_heads: list[Hint] = field(default_factory=list)
    activation: list[Hint] = field(default_factory=list)
    norm_eps: list[Hint] = field(default_factory=list)
    patch_size: list[Hint] = field(default_factory=list)
    depth: list[Hint] = field(default_factory=list)
    width: list[Hint] = field(default_factory=list)
    architectures: list[Hint] = field(default_factory=list)
    mean: Hint | None = None
    std: Hint | None = None
    interpolation: Hint | None = None


def hints_of(content: Content) -> Hints:
    """Collect them. ValueError for a network of another library that is no plain ViT."""
    hints = Hints()
    for name, value in content.remarks.items():
        _take_remark(hints, name, value)
    if document := content.configs.get("config.json"):
        _take_config(hints, document, str(content.path.with_name("config.json")))
    if document := content.configs.get("open_clip_config.json"):
        _take_open_clip(hints, document)
    if document := content.configs.get("preprocessor_config.json"):
        _take_preprocessor(hints, document)
    return hints


def _take_remark(hints: Hints, name: str, value: Any) -> None:
    path, _, leaf = name.rpartition(".")
    if _OF_OTHERS.search(path) or _OF_OTHERS.match(leaf):
        return
    source = f"{name} in the file"
    if leaf in _ARCHITECTURE and isinstance(value, str):
        hints.architectures.append(Hint(value=value, source=source))
    elif leaf in _NUM_HEADS and (number := _whole(value)):
        hints.num_heads.append(Hint(value=number, source=source))
    elif leaf in _PATCH_SIZE and (number := _whole(value)):
        hints.patch_size.append(Hint(value=number, source=source))
    elif leaf in _ACTIVATION and isinstance(value, str) and (act := activation_named(value)):
        hints.activation.append(Hint(value=act, source=source))
    elif leaf in _NORM_EPS and isinstance(value, float):
        hints.norm_eps.append(Hint(value=value, source=source))


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _take_config(hints: Hints, document: Mapping[str, Any], path: str) -> None:
    """transformers' config.json, or that of timm's own hub models."""
    source = "config.json"
    if isinstance(document.get("architecture"), str):
        hints.architectures.append(Hint(value=document["architecture"], source=source))
        settings = document.get("pretrained_cfg")
        _take_images(hints, settings if isinstance(settings, Mapping) else document, source)
        options = document.get("model_args")
        for key, value in options.items() if isinstance(options, Mapping) else ():
            _take_remark(hints, f"model_args.{key}", value)
        return
    kind = document.get("model_type")
    if kind is None:
        return
    if kind not in _TRANSFORMERS:
        raise ValueError(
            f"{path}: is of transformers' {kind!r}, which is not read as a plain ViT; read are"
            f" {', '.join(_TRANSFORMERS)}"
        )
    inner = document.get("vision_config")
    settings = inner if isinstance(inner, Mapping) else document
    heads, activation, eps = _TRANSFORMERS[kind]
    activation = settings.get("hidden_act", activation)
    if settings.get("use_swiglu_ffn"):  # DINOv2's giant: hidden_act is not looked at
        activation = "silu"
    if activation_named(str(activation)) is None:
        raise ValueError(f"{path}: hidden_act is {activation!r}, which is not supported")
    hints.num_heads.append(Hint(value=settings.get("num_attention_heads", heads), source=source))
    hints.activation.append(Hint(value=activation_named(str(activation)), source=source))
    hints.norm_eps.append(Hint(value=float(settings.get("layer_norm_eps", eps)), source=source))
    for key, where in (
        ("patch_size", hints.patch_size),
        ("num_hidden_layers", hints.depth),
        ("hidden_size", hints.width),
    ):
        if isinstance(settings.get(key), int):
            where.append(Hint(value=settings[key], source=source))


def _take_open_clip(hints: Hints, document: Mapping[str, Any]) -> None:
    source = "open_clip_config.json"
    model = document.get("model_cfg", {})
    vision = model.get("vision_cfg", {})
    if name := vision.get("timm_model_name"):
        hints.architectures.append(Hint(value=name, source=source))
    elif isinstance(vision.get("width"), int):
        heads = vision["width"] // vision.get("head_width", 64)
        act = "quick_gelu" if model.get("quick_gelu") else "gelu"
        hints.num_heads.append(Hint(value=heads, source=source))
        hints.activation.append(Hint(value=act, source=source))
        hints.width.append(Hint(value=vision["width"], source=source))
        if isinstance(vision.get("layers"), int):
            hints.depth.append(Hint(value=vision["layers"], source=source))
        if isinstance(vision.get("patch_size"), int):
            hints.patch_size.append(Hint(value=vision["patch_size"], source=source))
    _take_images(hints, document.get("preprocess_cfg", {}), source)


def _take_preprocessor(hints: Hints, document: Mapping[str, Any]) -> None:
    source = "preprocessor_config.json"
    if document.get("do_normalize", True):
        images = {"mean": document.get("image_mean"), "std": document.get("image_std")}
    else:
        images = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    resample = _RESAMPLE.get(document.get("resample"))  # type: ignore[arg-type]
    _take_images(hints, {**images, "interpolation": resample}, source)


def _take_images(hints: Hints, settings: Mapping[str, Any], source: str) -> None:
    mean, std = settings.get("mean"), settings.get("std")
    if _is_colour(mean) and _is_colour(std):
        hints.mean = Hint(value=tuple(map(float, mean)), source=source)  # type: ignore[arg-type]
        hints.std = Hint(value=tuple(map(float, std)), source=source)  # type: ignore[arg-type]
    if settings.get("interpolation") in _RESAMPLE.values():
        hints.interpolation = Hint(value=settings["interpolation"], source=source)


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(v, int | float) for v in value)
    )
