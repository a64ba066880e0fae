"""Arguments that a network of timm is built with, beyond those of its name.

They come from a command or from the config.json of a stranger: a class is one of a table, by its
name, and no code is made from a text. Which arguments there are is asked of timm's own classes.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from timm.layers.mlp import GluMlp, Mlp, SwiGLU, SwiGLUPacked
from timm.layers.norm import LayerNorm, RmsNorm
from torch import nn

from methods.argument_values import Arguments, Value
from methods.checks import did_you_mean
from methods.network import ACTIVATIONS, activation_named

LARGEST = 65_536
"""No width, depth or number of tokens of a ViT is larger; beyond it stands a slip."""

MOST_NUMBERS = 64
"""In a list: one of each stage, of each side, or of each block."""

DEEPEST = 256
"""No ViT has more blocks: laying one out takes its time, also without values."""

MLPS = {"Mlp": Mlp, "GluMlp": GluMlp, "SwiGLU": SwiGLU, "SwiGLUPacked": SwiGLUPacked}
NORMS = {"LayerNorm": LayerNorm, "RmsNorm": RmsNorm}
_ACTIVATION_CLASSES = {"GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}

_SAID_ELSEWHERE = {
    "img_size": "the size of images is said by --image-size",
    "num_classes": "how many classes there are, the task says",
    "in_chans": "images have three channels",
    "dynamic_img_pad": "images are not padded; --image-size says a size that fits",
    "device": "where it computes is not said by the network",
    "dtype": "--precision says what it computes in",
    "weight_init": "the weights are those of a file",
    "fix_init": "the weights are those of a file",
    "drop_rate": "the recipe of a method says what is dropped",
    "pos_drop_rate": "the recipe of a method says what is dropped",
    "patch_drop_rate": "the recipe of a method says what is dropped",
    "proj_drop_rate": "the recipe of a method says what is dropped",
    "attn_drop_rate": "the recipe of a method says what is dropped",
    "drop_path_rate": "the recipe of a method says what is dropped",
}
"""Arguments that change no feature of a network whose weights are given, or are not its to say."""


def of_features(arguments: Arguments) -> dict[str, Value]:
    """Those of a config.json that say what the network computes, of a size and in training or
    not."""
    return {key: value for key, value in arguments.items() if key not in _SAID_ELSEWHERE}


def as_typed(arguments: Arguments) -> str:
    """Arguments as they are typed behind --backbone-args."""
    return " ".join(f"{name}={_text(value)}" for name, value in arguments.items())


def _text(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return f"[{','.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def built_with(arguments: Arguments, kind: type[nn.Module], *, source: str) -> dict[str, Any]:
    """The arguments as the constructor of `kind` takes them, classes instead of their names.

    ValueError names the argument: unknown, of another type, or not one to be said here. `source`
    is named in it.
    """
    parameters = _parameters(kind)
    built = {}
    for name, value in arguments.items():
        where = f"{source}: {name:.60}"
        if name in _SAID_ELSEWHERE:
            raise ValueError(f"{where}: {_SAID_ELSEWHERE[name]}")
        if name not in parameters:
            hint = did_you_mean(name, parameters) or f"there are {', '.join(parameters)}"
            raise ValueError(f"{where}: timm's {kind.__name__} has no such argument; {hint}")
        built[name] = _value(name, value, parameters[name], where)
    return built


def _parameters(kind: type[nn.Module]) -> dict[str, Any]:
    """The arguments of a constructor that can be said, with their types."""
    hints = typing.get_type_hints(kind.__init__)
    names = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    for settings in _options(hints.get("cfg")):  # of a NaFlexVit, which takes their fields as well
        if dataclasses.is_dataclass(settings):
            names += [field.name for field in dataclasses.fields(settings)]
            hints |= typing.get_type_hints(settings)
    return {
        name: hints.get(name, Any)
        for name in names
        if name != "cfg" and name not in _SAID_ELSEWHERE
    }


def _value(name: str, value: Value, annotation: Any, where: str) -> Any:
    if name == "mlp_layer":
        return _one_of(MLPS, value, where)
    if name in ("norm_layer", "embed_norm_layer"):
        return _one_of(NORMS, value, where)
    if name == "act_layer":
        known = str(value)
        activation = _ACTIVATION_CLASSES.get(known) or activation_named(known)
        if activation is None:
            return _one_of({**ACTIVATIONS, "SiLU": nn.SiLU, "GELU": nn.GELU}, value, where)
        return ACTIVATIONS[activation]
    expected = _expected(annotation)
    if not expected:
        raise ValueError(f"{where}: a class of timm's own cannot be said here")
    if not _is_one(value, annotation):
        raise ValueError(f"{where} is {value!r:.60}, not {expected}")
    if name in ("depth", "depths"):
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(one, int) and 1 <= one <= DEEPEST for one in numbers[:DEEPEST]):
            raise ValueError(f"{where} is {value!r:.60}; 1 to {DEEPEST} blocks make sense")
    if isinstance(value, tuple) and len(value) > MOST_NUMBERS:
        raise ValueError(f"{where} is a list of {len(value):,} numbers; at most {MOST_NUMBERS}")
    if isinstance(value, tuple) and not all(-LARGEST <= one <= LARGEST for one in value):
        raise ValueError(f"{where} is {value!r:.60}; at most {LARGEST:,} makes sense")
    if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{where} is {value!r}; at most {LARGEST:,} makes sense")
    return value


def _one_of(table: Mapping[str, Any], value: Value, where: str) -> Any:
    if value not in table:
        hint = did_you_mean(str(value), table) or f"known are {', '.join(table)}"
        raise ValueError(f"{where} is {value!r:.60}; {hint}")
    return table[str(value)]


def _options(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_tuple(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _expected(annotation: Any) -> str:
    """What an argument of this type may be, in words; empty where nothing that can be written."""
    words = []
    for option in _options(annotation):
        if option in _WORDS:
            words.append(_WORDS[option])
        elif option is types.NoneType:
            words.append("null")
        elif _is_tuple(option):
            words.append("a list of numbers")
        elif typing.get_origin(option) is Literal:
            words.append(f"one of {', '.join(repr(word) for word in typing.get_args(option))}")
    return " or ".join(words) if words != ["null"] else ""


def _is_one(value: Value, annotation: Any) -> bool:
    for option in _options(annotation):
        if typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return True
        elif _is_tuple(option):
            if isinstance(value, tuple):
                return True
        elif option is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return True
        elif option in (bool, int, str, types.NoneType) and type(value) is option:
            return True
    return False
