"""Weights of the families that are read in timm's own names, or in those that timm renames."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from methods.backbone_names import present_name
from methods.weights.fit import mismatches
from methods.weights.hints import Hint, Standing
from methods.weights.layouts import TIMM, check_values
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


def renamed_by_timm(found: Found, vit: Any, name: str, path: Path) -> dict[str, Tensor]:
    """The tensors as `vit` takes them: timm renames and resamples what it knows.

    ValueError says what does not fit.
    """
    tensors = {}
    for key, tensor in found.tensors.items():
        if TIMM.rename(key) is not None:  # heads and the like
            if tensor.is_floating_point():
                try:
                    check_values(key, tensor)
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from error
                tensor = tensor.float()
            tensors[key] = tensor
    # Each of timm's files has one, by this name.
    rename = sys.modules[type(vit).__module__].checkpoint_filter_fn
    try:
        state = rename(tensors, vit)
    except Exception as error:  # of other layouts it asks for names that are not there
        raise ValueError(
            f"{path}: not the weights of this {type(vit).__name__} ({name.partition('.')[0]}):"
            f" timm cannot read them ({type(error).__name__}: {error})"
        ) from error
    expected = vit.state_dict()
    state = {key: tensor for key, tensor in state.items() if TIMM.rename(key) is not None}
    if problems := mismatches(state, expected):
        raise ValueError(
            f"{path}: not the weights of this {type(vit).__name__} ({name.partition('.')[0]}):"
            f" {'; '.join(problems)}"
        )
    return state
