"""Which of the networks in a file is meant.

A checkpoint may hold several: student and teacher, weights and their running average, an image
and a text encoder. The one that its publishers evaluate is taken, and named.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.weights.layouts import LAYOUTS, TIMM, Layout, lies_in_file
from methods.weights.reading import Content

_PREFERRED = (
    (r"base_encoder|encoder_q", "MoCo evaluates its base encoder"),
    (r"teacher", "DINO and iBOT evaluate the teacher"),
    (r"online(_\w+)?", "BYOL evaluates its online network"),
    (r"target_encoder", "I-JEPA evaluates its target encoder"),
    (r"(\w+_)?ema(_\w+)?", "timm evaluates the running average"),
    (r"visual|vision_model|vision_encoder|image_encoder|img", "the image encoder"),
)
"""A word of the path, and who means the network under it; those above go first."""

_OTHERS = (
    (r"patch_embed\.proj\.0\.", "a ViT with a convolutional stem, which is not supported"),
    (r"(^|\.)layer1\.0\.conv1\.weight", "a ResNet"),
    (r"(^|\.)layers\.0\.blocks\.0\.", "a Swin Transformer"),
    (r"(^|\.)stages\.0\.(blocks\.)?0\.", "a ConvNeXt or another network of stages"),
    (r"(^|\.)features\.0\.", "a convolutional network"),
    (r"lora_(A|B)", "a LoRA adapter, to be merged into its network first"),
    (r"_flat_param$", "FSDP's flattened parts; save them with a full state dict"),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A ViT in a file."""

    part: str
    """Where it stands: the path to its mapping and the prefix of its names ('' where it is all)."""
    layout: Layout
    tensors: Mapping[str, Tensor]
    """By the layout's names."""
    beside: frozenset[str]
    """The other names in the same mapping."""

    @property
    def width(self) -> int:
        """The width of the tokens."""
        for name, kernel in self.tensors.items():
            if re.fullmatch(self.layout.marker, name) and kernel.ndim:
                return kernel.shape[-1 if self.layout.separator == "/" else 0]
        return 0

    @property
    def depth(self) -> int:
        """Number of blocks; 0 where the names do not tell."""
        names = (self.layout.rename(name) or "" for name in self.tensors)
        numbers = (re.match(r"blocks\.(\d+)\.", name) for name in names)
        return max((int(found[1]) + 1 for found in numbers if found), default=0)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    network: Found
    reason: str
    """In words, where there was a choice; '' where there was none."""
    others: tuple[str, ...]


def networks(content: Content) -> list[Found]:
    """Every ViT in a file."""
    found = []
    for at, tensors in content.groups.items():
        for layout in LAYOUTS:
            marker = re.compile(rf"(|.*{re.escape(layout.separator)}){layout.marker}")
            for key in tensors:
                if (match := marker.fullmatch(key)) is None:
                    continue
                prefix = match[1]
                inner = {k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)}
                if layout.beside and not any(re.fullmatch(layout.beside, k) for k in inner):
                    continue
                found.append(
                    Found(
                        part=".".join(filter(None, (at, prefix))),
                        layout=layout,
                        tensors=inner,
                        beside=frozenset(k for k in tensors if not k.startswith(prefix)),
                    )
                )
    return found


def choose(content: Content, fits: Callable[[Found], bool], part: str | None) -> Chosen:
    """The network that is meant: `part` if the file has it, else what the publishers evaluate.

    `fits` says whether a network may be the backbone at all, by its size.
    """
    found = networks(content)
    if not found:
        found = _without_marker(content)
    names = tuple(network.part for network in found)
    planned = next((network for network in found if network.part == part), None)
    if planned is not None:
        return Chosen(network=planned, reason="", others=())
    fitting = [network for network in found if fits(network)] or found
    best = fitting[0]
    reason = ""
    if len(fitting) > 1 and not _all_equal(fitting):
        best, reason = _preferred(content, fitting)
    elif len(fitting) < len(found):
        reason = "the only one of this size"
    return Chosen(
        network=best, reason=reason, others=tuple(name for name in names if name != best.part)
    )


def _preferred(content: Content, found: Sequence[Found]) -> tuple[Found, str]:
    for word, reason in _PREFERRED:
        named = [n for n in found if any(re.fullmatch(word, p) for p in re.split(r"[./]", n.part))]
        if named and len(named) < len(found):
            return (named[0], reason) if len(named) == 1 else _preferred(content, named)
    raise ValueError(
        f"{content.path}: several networks in one file, under"
        f" {_list([n.part for n in found])}; which one is meant cannot be told: save it alone, with"
        " torch.save(checkpoint[NAME], 'weights.pth')"
    )


def _all_equal(found: Sequence[Found]) -> bool:
    first = found[0].tensors
    return all(
        network.tensors.keys() == first.keys()
        and all(_equal(tensor, first[key]) for key, tensor in network.tensors.items())
        for network in found[1:]
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two plain tensors are equal that lie in the file; others are refused later, if they
    are meant."""
    return (
        one.shape == other.shape
        and one.dtype == other.dtype
        and all(lies_in_file(tensor) for tensor in (one, other))
        and torch.equal(one, other)
    )


def _without_marker(content: Content) -> list[Found]:
    """A file in which no patch embedding is found: what it is, or what is missing."""
    for pattern, what in _OTHERS:
        for at, tensors in content.groups.items():
            if any(re.search(pattern, key) for key in tensors):
                where = f" under {at!r}" if at else ""
                raise ValueError(
                    f"{content.path}: not the weights of this ViT: holds{where} {what}"
                )
    for at, tensors in content.groups.items():
        if any(re.match(r"blocks\.\d+\.|cls_token$|pos_embed$", key) for key in tensors):
            return [Found(part=at, layout=TIMM, tensors=tensors, beside=frozenset())]
    raise ValueError(
        f"{content.path}: no ViT is found in it, it holds {content.top}; read are the names of"
        " timm, transformers, torchvision, mmpretrain, CLIP and JAX (docs/weights.md)"
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
