"""Heads, activation and norm epsilon of a file: stated by it, known of its recipe, or assumed."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.models import VisionTransformer
from torch import nn

from methods.argument_values import Arguments
from methods.backbone_names import has_tensors, outline, present_name, tags_of
from methods.build_arguments import built_with
from methods.network import ACTIVATIONS, Network, network_of
from methods.weights.hints import Hint, Hints, Standing
from methods.weights.layouts import OPENAI_CLIP, TIMM, TRANSFORMERS_CLIP, Converted, Layout
from methods.weights.networks import Found
from methods.weights.recipes import AMBIGUOUS, Recipe

logger = logging.getLogger(__name__)

_FIELDS = ("num_heads", "activation", "norm_eps")
_ARGUMENTS = {"num_heads": "num_heads", "activation": "act_layer"}
"""What timm calls the argument that says it."""
_OPENAI = {"input_resolution", "context_length", "vocab_size"}
"""Numbers that OpenAI's own CLIP files carry, and no others."""


def decide_network(
    vit: VisionTransformer,
    name: str,
    *,
    path: Path,
    found: Found,
    converted: Converted,
    hints: Hints,
    recipe: Recipe | None,
    arguments: Arguments,
) -> tuple[Network, str]:
    """The network of the file, and in one line what it is and from where that is known.

    `arguments` are those that the user gave: what they say is not asked of the file.
    ValueError where the file contradicts itself, is of another architecture than the backbone,
    leaves open what its family does in more than one way, or has a number that is not this
    network's and may be another module's.
    """
    own = network_of(vit)
    architecture, _, tag = name.partition(".")
    _check_architectures(hints.architectures, vit, architecture, path, arguments)
    by_name = [
        (network_of(there), f"{hint.source} says {hint.value!r}")
        for hint in hints.architectures
        if (known := present_name(hint.value))
        and (there := _outline(known, hint, arguments, path)) is not None
    ]
    network, words = own, []
    for key in _FIELDS:
        if _ARGUMENTS.get(key) in arguments:
            words.append((key, getattr(own, key), f"--backbone-args {_ARGUMENTS[key]}"))
            continue
        said: list[Hint] = getattr(hints, key)
        stated = [hint for hint in said if hint.standing is not Standing.LOOSE]
        stated += [Hint(value=getattr(n, key), source=source) for n, source in by_name]
        if key == "num_heads" and converted.num_heads:
            stated.append(Hint(value=converted.num_heads, source="the shapes in the file"))
        known = _known(key, vit, name, found, recipe)
        value, source = _weigh(key, stated, known, path)
        if value is None:
            _check_open(key, vit, name, hints, path)
            value, source = getattr(own, key), f"of {architecture}; the file does not say"
        if tag:
            usual = known or Hint(value=getattr(own, key), source=name)
            _check_tag(key, stated, usual, name, path)
        loose = [hint for hint in said if hint.standing is Standing.LOOSE]
        _check_loose(key, loose, value, vit, architecture, path)
        if loose and source.endswith("does not say"):
            source = loose[0].source
        network = replace(network, **{key: value})
        words.append((key, value, source))
    _check_numbers(network, vit, path)
    return network, _line(words)


def _outline(known: str, hint: Hint, arguments: Arguments, path: Path) -> VisionTransformer | None:
    """The network of a name that was said of the file, built as was said, too."""
    plain = outline(known)
    if plain is None or not (hint.arguments or arguments):
        return plain
    said = {name: value for name, value in hint.arguments.items() if name not in arguments}
    source = f"{path.with_name(hint.source)}: model_args"
    options = {
        **built_with(said, type(plain), source=source),
        **built_with(arguments, type(plain), source="--backbone-args"),
    }
    try:
        return outline(known, **options)
    except Exception as error:  # timm's constructors raise many kinds
        raise ValueError(
            f"{path.with_name(hint.source)}: {known} cannot be built: {error}"
        ) from error


def check_shape_hints(hints: Hints, *, path: Path, patch: int, depth: int, width: int) -> None:
    """ValueError where a config beside the weights is of other weights.

    Of a remark in the file, where a patch may be a crop of an image, there is a warning: the
    tensors are known to fit.
    """
    for what, stated, actual in (
        ("patch size", hints.patch_size, patch),
        ("number of blocks", hints.depth, depth),
        ("width", hints.width, width),
    ):
        for hint in stated:
            if hint.value == actual:
                continue
            if hint.standing is Standing.CONFIG:
                raise ValueError(
                    f"{path}: its tensors have a {what} of {actual}, but {hint.source} says"
                    f" {hint.value}: they do not belong together"
                )
            logger.warning(
                "%s: %s says %s, its tensors have a %s of %s: the tensors are believed",
                path, hint.source, hint.value, what, actual,
            )  # fmt: skip


def _known(
    key: str, vit: VisionTransformer, name: str, found: Found, recipe: Recipe | None
) -> Hint | None:
    """What is known without the file's saying so."""
    if key == "num_heads" and recipe and (heads := recipe.num_heads.get(vit.embed_dim)):
        return Hint(value=heads, source=f"{recipe.title}'s")
    if key == "norm_eps" and any("layer_scale1" in tensor for tensor in found.tensors):
        return Hint(value=1e-6, source="DINOv2's")
    if key == "norm_eps" and found.layout.norm_eps is not None:
        return Hint(value=found.layout.norm_eps, source=_library(found.layout))
    if key == "norm_eps" and found.layout is TRANSFORMERS_CLIP:
        eps = 1e-5 if "embeddings.class_embedding" in found.tensors else 1e-6
        return Hint(value=eps, source="transformers' default")
    if key == "activation":
        return _known_activation(vit, name, found)
    return None


def _library(layout: Layout) -> str:
    return f"the default behind {layout.title}"


def _known_activation(vit: VisionTransformer, name: str, found: Found) -> Hint | None:
    architecture, _, tag = name.partition(".")
    if found.layout is OPENAI_CLIP and found.beside >= _OPENAI:
        return Hint(value="quick_gelu", source="OpenAI's CLIP")
    if found.layout is TRANSFORMERS_CLIP and "embeddings.class_embedding" not in found.tensors:
        return Hint(value="gelu_tanh", source="SigLIP's")
    if not _has_pre_norm(vit):
        return None
    if tag and found.layout is not TIMM:
        twin = _quick_twin(architecture)
        quick = "quickgelu" in architecture or (twin is not None and tag in tags_of(twin))
        return Hint(value="quick_gelu" if quick else "gelu", source=f"the pretraining {tag!r}")
    if tag or "quickgelu" in architecture:
        return Hint(value=network_of(vit).activation, source=f"the backbone's name {name}")
    return None


def _weigh(key: str, stated: Sequence[Hint], known: Hint | None, path: Path) -> tuple[Any, str]:
    """The value and who says so; (None, '') where nobody does."""
    if len({hint.value for hint in stated}) > 1:
        raise ValueError(f"{path}: contradicts itself about {_word(key)}: {_all(stated)}")
    if not stated:
        return (known.value, known.source) if known else (None, "")
    first = stated[0]
    if known and known.value != first.value and key == "num_heads":
        raise ValueError(
            f"{path}: {first.source}: {first.value} heads, but {known.source} ViT of this width"
            f" has {known.value}; name the pretraining that it is (the part of the backbone's name"
            " behind the dot), or none"
        )
    return first.value, first.source


def _check_tag(key: str, stated: Sequence[Hint], usual: Hint, name: str, path: Path) -> None:
    """What a checkpoint says of itself may not overrule the pretraining that the user named."""
    for hint in stated:
        if hint.standing is Standing.DESCRIPTION and hint.value != usual.value:
            raise ValueError(
                f"{path}: {hint.source} says {_worded(key, hint.value)}, but {name} has"
                f" {_worded(key, usual.value)}; give the backbone without the pretraining (the part"
                " behind the dot) to take what the file says"
            )


def _check_loose(
    key: str, loose: Sequence[Hint], value: Any, vit: VisionTransformer, name: str, path: Path
) -> None:
    """A number of which nobody knows the module is neither obeyed nor passed over."""
    for hint in loose:
        if hint.value != value:
            again = f"{{'embed_dim': {vit.embed_dim}, '{key}': {hint.value!r}}}"
            raise ValueError(
                f"{path}: {hint.source} says {_worded(key, hint.value)}, but this {name} has"
                f" {_worded(key, value)}: whether that is said of this network or of another module"
                " cannot be told. If of another, save the weights alone, with"
                " torch.save(checkpoint[NAME], 'weights.pth'); if of this network, save beside"
                f" them {again}"
            )


def _check_architectures(
    stated: Iterable[Hint],
    vit: VisionTransformer,
    architecture: str,
    path: Path,
    arguments: Arguments,
) -> None:
    """The file may name its own architecture, and it must be a ViT like the backbone.

    A remark that names a network of quite other tensors is not of these: there is a warning.
    """
    for hint in stated:
        known = present_name(hint.value)
        if known is None:
            continue
        there = _outline(known, hint, arguments, path)
        if there is None and hint.standing is not Standing.CONFIG and not has_tensors(known, vit):
            logger.warning(
                "%s: %s says %r, its tensors are those of a %s: the tensors are believed",
                path, hint.source, hint.value, architecture,
            )  # fmt: skip
        elif there is None:
            raise ValueError(
                f"{path}: is a {known} ({hint.source}), which is no plain ViT and cannot be"
                f" the weights of {architecture}"
            )
        elif differences := _differences(there, vit):
            raise ValueError(
                f"{path}: is a {known} ({hint.source}), not a {architecture}:"
                f" {'; '.join(differences)}; give --backbone {known}"
            )


def _differences(there: VisionTransformer, here: VisionTransformer) -> list[str]:
    pairs = [
        ("patch size", *(v.patch_embed.patch_size[0] for v in (there, here))),
        ("blocks", *(len(v.blocks) for v in (there, here))),
        ("width", *(v.embed_dim for v in (there, here))),
        ("register tokens", *(v.num_reg_tokens for v in (there, here))),
    ]
    pairs += [
        (_word(key), *(getattr(network_of(v), key) for v in (there, here))) for key in _FIELDS
    ]
    return [f"{what} {a}, not {b}" for what, a, b in pairs if a != b]


def _check_open(key: str, vit: VisionTransformer, name: str, hints: Hints, path: Path) -> None:
    """Ask where the family leaves it open and a guess would be wrong half the time."""
    architecture, _, tag = name.partition(".")
    for hint in hints.architectures if key == "num_heads" and not tag else ():
        if meaning := AMBIGUOUS.get((hint.value, vit.embed_dim)):
            raise ValueError(
                f"{path}: {hint.source} says {hint.value!r}, which has {meaning}: name the"
                f" pretraining, {architecture}.moco_v3 or {architecture}.dino"
            )
    if key != "activation" or not _has_pre_norm(vit):
        return
    twin = _quick_twin(architecture)
    tags = [t for t in tags_of(architecture) if not twin or t not in tags_of(twin)]
    gelu = f"{architecture}.{tags[0]}" if tags else architecture
    quick = f"{twin}.{tags_of(twin)[0]}" if twin and tags_of(twin) else "a quickgelu backbone"
    raise ValueError(
        f"{path}: its activation is not known: of CLIP's networks some were trained with GELU,"
        f" others with QuickGELU, and the file does not say. Name the pretraining: {gelu} (GELU)"
        f" or {quick} (QuickGELU); or give a folder with config.json"
    )


def _quick_twin(architecture: str) -> str | None:
    twin = architecture.replace("_clip_", "_clip_quickgelu_")
    return twin if twin != architecture and timm.is_model(twin) else None


def _has_pre_norm(vit: VisionTransformer) -> bool:
    return not isinstance(vit.norm_pre, nn.Identity)


def _check_numbers(network: Network, vit: VisionTransformer, path: Path) -> None:
    heads, activation, eps = network.num_heads, network.activation, network.norm_eps
    if heads < 1 or vit.embed_dim % heads:
        raise ValueError(f"{path}: {heads} heads do not divide a width of {vit.embed_dim}")
    if activation not in (network_of(vit).activation, *ACTIVATIONS):
        raise ValueError(
            f"{path}: its activation is {activation!r}; supported are {', '.join(ACTIVATIONS)}"
        )
    if not 0 <= eps <= 1:
        raise ValueError(f"{path}: a norm eps of {eps:g} is none")


def _word(key: str) -> str:
    return {"num_heads": "heads", "activation": "the activation", "norm_eps": "norm eps"}[key]


def _worded(key: str, value: Any) -> str:
    return f"{value} heads" if key == "num_heads" else f"{_word(key)} {value}"


def _all(stated: Iterable[Hint]) -> str:
    return ", ".join(f"{hint.value} ({hint.source})" for hint in stated)


def _line(words: Sequence[tuple[str, Any, str]]) -> str:
    """One source is said once, behind all that it is the source of."""
    texts = {"num_heads": "{} heads", "activation": "{}", "norm_eps": "norm eps {:g}"}
    parts: list[tuple[list[str], str]] = []
    for key, value, source in words:
        text = texts[key].format(value)
        if parts and parts[-1][1] == source:
            parts[-1][0].append(text)
        else:
            parts.append(([text], source))
    return "; ".join(f"{', '.join(texts)} ({source})" for texts, source in parts)
