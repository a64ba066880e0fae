"""Weights of the families that are read in timm's own names, or in those that timm renames."""

import math
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from torch import Tensor

from methods.argument_values import Arguments
from methods.backbone_names import present_name
from methods.build_arguments import as_typed
from methods.families import family_of
from methods.weights.fit import mismatches
from methods.weights.hints import Hint, Hints, Standing
from methods.weights.layouts import TIMM, TRANSFORMERS_DINOV3, check_values, convert
from methods.weights.networks import Found


def check_named(stated: Iterable[Hint], architecture: str, path: Path) -> None:
    """ValueError where a config beside the weights names another network."""
    for hint in stated:
        known = present_name(hint.value)
        if hint.standing is Standing.CONFIG and known not in (None, architecture):
            raise ValueError(
                f"{path}: is a {known} ({hint.source}), not a {architecture}; give --backbone"
                f" {known}"
            )


def check_said(hints: Hints, vit: Any, arguments: Arguments, said: Arguments, path: Path) -> None:
    """ValueError where a config beside the weights is of a network with the same tensors that
    computes something else.

    `vit` is built with `arguments`; of these the user `said` some, which are not asked again.
    """
    for hint in hints.architectures:
        others = {
            name: value
            for name, value in hint.arguments.items()
            if value is not None and name not in said and arguments.get(name) != value
            if not (name == "global_pool" and value == "")  # the readout is chosen for it
        }
        if others and hint.standing is Standing.CONFIG:
            raise ValueError(
                f"{path}: {hint.source} says it is built with {as_typed(others)}; give"
                f" --backbone local-dir:{path.parent}, which takes that, or --backbone-args"
            )
    blocks = family_of(vit).blocks(vit)
    own = {
        "num_heads": ("heads", {block.attn.num_heads for block in blocks}),
        "norm_eps": ("norm eps", {block.norm1.eps for block in blocks}),
    }
    for key, (what, values) in own.items():
        for hint in () if key in said else getattr(hints, key):
            if hint.standing is Standing.CONFIG and values != {hint.value}:
                raise ValueError(
                    f"{path}: {hint.source} says {what} {hint.value:g}, this backbone has"
                    f" {' and '.join(f'{value:g}' for value in sorted(values))}: they would compute"
                    " something else"
                )


def renamed_by_timm(found: Found, vit: Any, name: str, path: Path) -> dict[str, Tensor]:
    """The tensors as `vit` takes them: timm renames and resamples what it knows.

    ValueError says what does not fit, or would be left out although it is used.
    """
    expected = vit.state_dict()
    try:
        renamed = _renamed(found, vit)
        # timm's Eva leaves fused biases out where the network has none, used or not.
        fused = {key: t for key, t in found.tensors.items() if key.endswith(".qkv.bias")}
        blank = _blank_biases({**fused, **renamed}, expected)
        state = {
            key: tensor.float()
            for key, tensor in renamed.items()
            if key in expected or not (key in blank or TIMM.rename(key) is None)
        }
        if problems := mismatches(state, expected):
            architecture = name.partition(".")[0]
            raise ValueError(
                f"not the weights of this {type(vit).__name__} ({architecture}):"
                f" {'; '.join(problems)}"
            )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return state


def _renamed(found: Found, vit: Any) -> Mapping[str, Tensor]:
    if found.layout is TRANSFORMERS_DINOV3:
        return _gated(convert(found.layout, found.tensors, "").state)
    for key, tensor in found.tensors.items():
        if tensor.is_floating_point() and TIMM.rename(key) is not None:  # not heads and the like
            check_values(key, tensor)
    _check_windows(found.tensors, vit)
    # Each of timm's files has one, by this name.
    rename = sys.modules[type(vit).__module__].checkpoint_filter_fn
    try:
        with redirect_stdout(StringIO()):  # Eva's prints what it looks for in vain
            return rename(dict(found.tensors), vit)
    except Exception as error:  # of other layouts it asks for names that are not there
        raise ValueError(
            f"not the weights of this {type(vit).__name__}: timm cannot read them"
            f" ({type(error).__name__}: {error})"
        ) from error


def _check_windows(tensors: Mapping[str, Tensor], vit: Any) -> None:
    """A Swin Transformer of other windows is another network, though timm would resample its bias.

    A window that is as large as all patches of its stage is cut to them: of such none is said.
    """
    end = ".attn.relative_position_bias_table"
    for key, table in tensors.items():
        block: Any = dict(vit.named_modules()).get(key.removesuffix(end))
        if not key.endswith(end) or not hasattr(block, "window_size"):
            continue
        side, own = (math.isqrt(len(t)) // 2 + 1 for t in (table, vit.get_parameter(key)))
        if side != own and min(block.input_resolution) > max(block.window_size):
            raise ValueError(
                f"has windows of {side}×{side} patches, this backbone of {own}×{own}:"
                f" timm's backbones with them have window{side} in their names"
            )


def _gated(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """With the name that timm gives the first layer of an MLP beside one that is its gate."""
    if not any(".mlp.fc1_g." in key for key in state):
        return state
    return {key.replace(".mlp.fc1.", ".mlp.fc1_x."): tensor for key, tensor in state.items()}


def _blank_biases(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> set[str]:
    """Names of biases that are zero, where the network has none.

    DINOv3 has networks with and without biases of queries and values: of those that are not zero
    none is left out.
    """
    blank = set()
    for key, bias in tensors.items():
        match = re.fullmatch(r"(.*)\.(qkv\.bias|[qv]_bias)", key)
        if match is None or key in expected or f"{match[1]}.q_bias" in expected:
            continue
        parts = bias.chunk(3)
        if match[2] == "qkv.bias":
            parts = (parts[0], parts[-1])  # one of the keys changes no attention
        if any(bool(part.any()) for part in parts):
            raise ValueError(
                f"has biases of queries and values ({key}), this backbone has none; timm's"
                " DINOv3 with them are those whose names end in _qkvb"
            )
        blank.add(key)
    return blank
