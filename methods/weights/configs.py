"""The descriptions that the hub's folders have beside the weights: config.json and the like."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from methods.argument_values import Value, as_value
from methods.build_arguments import of_features
from methods.network import activation_named
from methods.weights.hints import (
    ACTIVATION,
    NORM_EPS,
    NUM_HEADS,
    PATCH_SIZE,
    WIDTH,
    Hint,
    Hints,
    whole,
)
from methods.weights.reading import Content

_TRANSFORMERS: dict[str, tuple[int, str, float]] = {
    "vit": (12, "gelu", 1e-12),
    "deit": (12, "gelu", 1e-12),
    "vit_mae": (12, "gelu", 1e-12),
    "vit_msn": (12, "gelu", 1e-6),
    "ijepa": (12, "gelu", 1e-12),
    "dinov2": (12, "gelu", 1e-6),
    "dinov2_with_registers": (12, "gelu", 1e-6),
    "dinov3_vit": (6, "gelu", 1e-5),
    "clip": (12, "quick_gelu", 1e-5),
    "clip_vision_model": (12, "quick_gelu", 1e-5),
    "siglip": (12, "gelu_pytorch_tanh", 1e-6),
    "siglip_vision_model": (12, "gelu_pytorch_tanh", 1e-6),
}
"""Heads, activation and epsilon that transformers takes where a config.json leaves them out, by
`model_type`. Other types are not read."""

_RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers in preprocessor_config.json, of those that are followed."""


def take_configs(hints: Hints, content: Content) -> None:
    """Add what they say. ValueError names the file and the key of what is no such description, or
    the network of another library that is no plain ViT."""
    for name, take in (
        ("config.json", _take_config),
        ("open_clip_config.json", _take_open_clip),
        ("preprocessor_config.json", _take_preprocessor),
    ):
        if name in content.configs:
            document = content.configs[name]
            file = content.path.with_name(name)
            if not isinstance(document, Mapping):
                raise ValueError(f"{file}: holds a {type(document).__name__}, not names and values")
            take(hints, _Settings(values=document, file=file))


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """A mapping of a config; each reader is a ValueError for a value of another kind."""

    values: Mapping[str, Any]
    file: Path
    at: str = ""

    def __contains__(self, key: str) -> bool:
        return key in self.values

    @property
    def source(self) -> str:
        return self.file.name

    def refuse(self, key: str, wanted: str) -> ValueError:
        shown = repr(self.values[key])
        shown = shown if len(shown) < 80 else f"{shown[:76]} ..."
        return ValueError(f"{self.file}: {self.at}{key} is {shown}, not {wanted}")

    def inner(self, key: str, *, may_be_null: bool = False) -> "_Settings":
        """Without values where it is absent."""
        value = self.values.get(key, {})
        if value is None and may_be_null:
            value = {}
        if not isinstance(value, Mapping):
            raise self.refuse(key, "names and values")
        return _Settings(values=value, file=self.file, at=f"{self.at}{key}.")

    def whole(self, key: str, default: int) -> int:
        if key not in self.values:
            return default
        value = self.values[key]
        if isinstance(value, str) or (number := whole(value)) is None:
            raise self.refuse(key, "a whole number above 0")
        return number

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self.refuse(key, "a text")
        return value

    def yes(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def epsilon(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if not _is_number(value) or not 0 <= value <= 1:
            raise self.refuse(key, "a number from 0 to 1")
        return float(value)

    def activation(self, key: str, default: str) -> str:
        value = self.text(key, default)
        if (name := activation_named(value)) is None:
            raise ValueError(f"{self.file}: {self.at}{key} is {value!r}, which is not supported")
        return name

    def patch(self, key: str) -> int:
        """Also as a pair of equal sides."""
        value = self.values[key]
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        if isinstance(value, str) or (number := whole(value)) is None:
            raise self.refuse(key, "a whole number above 0")
        return number

    def colour(self, key: str, least: float) -> tuple[float, ...] | None:
        value = self.values.get(key)
        if value is None:
            return None
        if (
            not isinstance(value, list)
            or len(value) != 3
            or not all(_is_number(v) and least <= v <= 1000 for v in value)
        ):
            raise self.refuse(key, f"three numbers from {least:g} to 1000")
        return tuple(map(float, value))

    def argument(self, key: str) -> Value:
        try:
            return as_value(self.values[key])
        except ValueError as error:
            raise self.refuse(key, str(error).removeprefix("not ")) from error

    def hint(self, value: Any) -> Hint:
        return Hint(value=value, source=self.source)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    )


def _take_config(hints: Hints, settings: _Settings) -> None:
    """transformers' config.json, or that of timm's own hub models."""
    if "architecture" in settings:
        options = settings.inner("model_args", may_be_null=True)
        named = settings.hint(settings.text("architecture", ""))
        said = {key: options.argument(key) for key in of_features(options.values)}
        hints.architectures.append(replace(named, arguments=said))
        images = settings.inner("pretrained_cfg", may_be_null=True)
        _take_images(hints, images if "pretrained_cfg" in settings else settings)
        _take_model_args(hints, options)
        return
    if "model_type" not in settings:
        return
    kind = settings.text("model_type", "")
    if kind not in _TRANSFORMERS:
        raise ValueError(
            f"{settings.file}: is of transformers' {kind!r}, which is not read as a plain ViT; read"
            f" are {', '.join(_TRANSFORMERS)}"
        )
    vision = settings.inner("vision_config") if "vision_config" in settings else settings
    heads, activation, eps = _TRANSFORMERS[kind]
    if vision.yes("use_swiglu_ffn", False):  # DINOv2's giant: hidden_act is not looked at
        activation = "silu"
    else:
        activation = vision.activation("hidden_act", activation)
    hints.num_heads.append(vision.hint(vision.whole("num_attention_heads", heads)))
    hints.activation.append(vision.hint(activation))
    hints.norm_eps.append(vision.hint(vision.epsilon("layer_norm_eps", eps)))
    _take_sizes(hints, vision, width="hidden_size", depth="num_hidden_layers")


def _take_model_args(hints: Hints, options: _Settings) -> None:
    for key in options.values:
        if key in NUM_HEADS:
            if isinstance(options.values[key], list):  # of each stage: what is built has them
                continue
            hints.num_heads.append(options.hint(options.whole(key, 0)))
        elif key in ACTIVATION:
            hints.activation.append(options.hint(options.activation(key, "")))
        elif key in NORM_EPS:
            hints.norm_eps.append(options.hint(options.epsilon(key, 0)))
        elif key in PATCH_SIZE:
            hints.patch_size.append(options.hint(options.patch(key)))
        elif key in WIDTH:
            hints.width.append(options.hint(options.whole(key, 0)))


def _take_sizes(hints: Hints, settings: _Settings, *, width: str, depth: str) -> None:
    if "patch_size" in settings:
        hints.patch_size.append(settings.hint(settings.patch("patch_size")))
    if depth in settings:
        hints.depth.append(settings.hint(settings.whole(depth, 0)))
    if width in settings:
        hints.width.append(settings.hint(settings.whole(width, 0)))


def _take_open_clip(hints: Hints, settings: _Settings) -> None:
    model = settings.inner("model_cfg")
    vision = model.inner("vision_cfg")
    if vision.values.get("timm_model_name") not in (None, ""):
        hints.architectures.append(vision.hint(vision.text("timm_model_name", "")))
    elif "width" in vision:
        width, per_head = vision.whole("width", 0), vision.whole("head_width", 64)
        if per_head > width:
            raise vision.refuse("width", f"at least the head_width, {per_head}")
        act = "quick_gelu" if model.yes("quick_gelu", False) else "gelu"
        hints.num_heads.append(vision.hint(width // per_head))
        hints.activation.append(vision.hint(act))
        _take_sizes(hints, vision, width="width", depth="layers")
    _take_images(hints, settings.inner("preprocess_cfg"))


def _take_preprocessor(hints: Hints, settings: _Settings) -> None:
    _take_images(hints, settings, "image_")
    if not settings.yes("do_normalize", True):
        hints.mean, hints.std = settings.hint((0.0,) * 3), settings.hint((1.0,) * 3)
    resample = settings.values.get("resample")
    if resample is None:
        return
    if not isinstance(resample, int) or isinstance(resample, bool) or not 0 <= resample <= 5:
        raise settings.refuse("resample", "one of PIL's numbers, 0 to 5")
    if resample in _RESAMPLE:
        hints.interpolation = settings.hint(_RESAMPLE[resample])


def _take_images(hints: Hints, settings: _Settings, prefix: str = "") -> None:
    mean = settings.colour(f"{prefix}mean", -1000)
    std = settings.colour(f"{prefix}std", 1e-6)
    if mean is not None and std is not None:
        hints.mean, hints.std = settings.hint(mean), settings.hint(std)
    if prefix or settings.values.get("interpolation") is None:
        return
    if (interpolation := settings.text("interpolation", "")) in _RESAMPLE.values():
        hints.interpolation = settings.hint(interpolation)
