"""Names of backbones: timm's of today, those of its past, and what is known under each."""

import dataclasses
import difflib
from functools import cache
from typing import Any

import timm
import torch
from timm.models import VisionTransformer
from torch import nn

from methods.families import FAMILIES
from methods.timm_names import MODULES, SUPPORTED, plain_name, unknown_backbone
from methods.timm_private import DEPRECATED_NAMES

MOCO_V3 = "moco_v3"
"""A tag of ours: timm has no weights of MoCo-v3."""


def split_name(name: str) -> tuple[str, str]:
    """Architecture and tag of a backbone that can be tuned, else ValueError with the right name."""
    architecture, _, tag = plain_name(name).partition(".")
    if architecture in DEPRECATED_NAMES:
        now = DEPRECATED_NAMES[architecture] or "another name"
        if tag:
            now = f"{now.partition('.')[0]}.{tag}"
        raise ValueError(f"{name}: is a name of older timm; now it is {now}")
    if not timm.is_model(architecture):
        raise ValueError(unknown_backbone(name))
    module = timm.models.model_entrypoint(architecture).__module__
    if module not in {*MODULES, *(kind.partition(":")[0] for kind in FAMILIES)}:
        raise ValueError(f"{architecture} cannot be tuned: it is of no known family. {SUPPORTED}")
    if tag and tag != MOCO_V3 and tag not in (known := tags_of(architecture)):
        close = difflib.get_close_matches(tag, known, n=1) or known
        there = f"there is {', '.join(close)}" if close else "timm has no weights for it"
        raise ValueError(f"{architecture} has no pretraining {tag!r}; {there}")
    return architecture, tag


def tags_of(architecture: str) -> list[str]:
    return [name.partition(".")[2] for name in timm.list_pretrained(architecture)]


def present_name(text: str) -> str | None:
    """timm's architecture of today that a script called so, of whatever kind; None if unknown."""
    plain = plain_name(text.strip()).partition(".")[0]
    plain = (DEPRECATED_NAMES.get(plain) or plain).partition(".")[0]
    return plain if timm.is_model(plain) else None


def pretrained_config(architecture: str, tag: str) -> dict[str, Any]:
    """timm's settings of a pretraining: size, normalisation, interpolation."""
    config = timm.models.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    assert config is not None, architecture
    return dataclasses.asdict(config)


def plain_vits() -> list[str]:
    """Every architecture of timm that may be a plain ViT."""
    return [m for module in MODULES for m in timm.list_models(module=module.split(".")[-1])]


@cache
def sketch_of(architecture: str, **options: Any) -> nn.Module:
    """The network without values, nothing allocated, of whatever kind.

    It is shared: look at it, do not change it.
    """
    with torch.device("meta"):
        return timm.create_model(architecture, num_classes=0, **options)


def outline(architecture: str, **options: Any) -> VisionTransformer | None:
    """The same of a plain ViT; None where it is none."""
    if timm.models.model_entrypoint(architecture).__module__ not in MODULES:
        return None
    vit = sketch_of(architecture, **options)
    return vit if isinstance(vit, VisionTransformer) else None


@cache
def _tensors_of(architecture: str) -> dict[str, torch.Size] | None:
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture, num_classes=0)
    except Exception:  # timm's hundreds of models raise many kinds where there are no values
        return None
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def has_tensors(architecture: str, vit: VisionTransformer) -> bool:
    """Whether the tensors of `vit` may be those of any network of timm: all of its names and
    shapes are there. True also where that cannot be found out."""
    there = _tensors_of(architecture)
    own = {name: tensor.shape for name, tensor in vit.state_dict().items() if name != "pos_embed"}
    return there is None or own.items() <= there.items()
