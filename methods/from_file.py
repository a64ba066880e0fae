"""A network filled with the weights of a file, and what was found out about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.models import VisionTransformer
from torch import Tensor

from methods.asked_backbone import Asked
from methods.families import family_of
from methods.network import make_network
from methods.weights.by_timm import check_named, check_said, renamed_by_timm
from methods.weights.configs import take_configs
from methods.weights.decide import check_shape_hints, decide_network
from methods.weights.fit import fitted, num_blocks
from methods.weights.hints import Hints
from methods.weights.layouts import convert
from methods.weights.networks import Chosen, Found, choose
from methods.weights.reading import read_weights
from methods.weights.recipes import Recipe, recipe_of
from methods.weights.remarks import take_remarks
from methods.weights.timm_own import in_timms_names


@dataclass(frozen=True, kw_only=True)
class About:
    """What was found out about a file while it was read."""

    part: str
    other_parts: tuple[str, ...]
    assumed: str
    hints: Hints
    recipe: Recipe | None


def load_file(vit: Any, path: Path, name: str, asked: Asked) -> About:
    """Fill `vit` with the weights of a file and make it their network, or say what does not fit."""
    if not isinstance(vit, VisionTransformer):
        return _load_by_timm(vit, path, name, asked)
    content = in_timms_names(read_weights(path), vit)
    decided = asked.decided
    part = decided.part if decided else None
    chosen = choose(content, lambda found: _has_size_of(vit, found), part)
    layout = chosen.network.layout
    try:
        converted = convert(layout, chosen.network.tensors, _separated(chosen.network.part))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    hints = Hints()
    recipe = recipe_of(name.partition(".")[2], chosen, converted)
    state = fitted(converted.state, vit, name, path, layout, asked.arguments, asked.said)
    if decided is None:
        patch = _patch_size(converted.state, vit)
        take_remarks(hints, content, width=vit.embed_dim, patch=patch)
        take_configs(hints, content)
        check_shape_hints(
            hints,
            path=path,
            patch=patch,
            depth=num_blocks(state),
            width=vit.embed_dim,
        )
        network, assumed = decide_network(
            vit,
            name,
            path=path,
            found=chosen.network,
            converted=converted,
            hints=hints,
            recipe=recipe,
            arguments=asked.said,
        )
    else:
        network, assumed = decided.network, ""
    vit.load_state_dict(state)
    if network is not None:
        try:
            make_network(vit, network)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return _about(chosen, assumed, hints, recipe)


def _about(chosen: Chosen, assumed: str, hints: Hints, recipe: Recipe | None) -> About:
    if chosen.reason:
        others = ", ".join(map(repr, chosen.others[:3])) + (" ..." if chosen.others[3:] else "")
        assumed += f"; weights under {chosen.network.part!r} ({chosen.reason}), not {others}"
    return About(
        part=chosen.network.part,
        other_parts=chosen.others,
        assumed=assumed.removeprefix("; "),
        hints=hints,
        recipe=recipe,
    )


def _load_by_timm(vit: Any, path: Path, name: str, asked: Asked) -> About:
    """The same for a family whose weights are read in timm's names, or those that timm renames.

    Heads, activation and norms are as timm builds them.
    """
    content = read_weights(path)
    family = family_of(vit)
    width, depth = family.sites(vit)[0].width, len(family.blocks(vit))
    chosen = choose(
        content,
        lambda found: found.width == width and found.depth in (0, depth),
        asked.decided.part if asked.decided else None,
    )
    hints = Hints()
    if asked.decided is None:
        take_configs(hints, content)
        check_named(hints.architectures, name.partition(".")[0], content.path)
        check_said(hints, vit, asked.arguments, asked.said, content.path)
        patch = family.patch_size(vit)[0]
        check_shape_hints(hints, path=path, patch=patch, depth=depth, width=width)
    vit.load_state_dict(renamed_by_timm(chosen.network, vit, name, path))
    return _about(chosen, "", hints, None)


def _has_size_of(vit: VisionTransformer, found: Found) -> bool:
    return found.width == vit.embed_dim and found.depth in (0, len(vit.blocks))


def _patch_size(state: Mapping[str, Tensor], vit: VisionTransformer) -> int:
    """The patch size of the file, which FlexiViT may resample; of `vit` where patches are
    vectors."""
    kernel = state.get("patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4:
        return vit.patch_embed.patch_size[0]
    return kernel.shape[-1]


def _separated(part: str) -> str:
    return part if not part or part.endswith((".", "/")) else f"{part}."


def images_of(config: dict[str, Any], tag: str, about: About) -> tuple[dict[str, Any], str]:
    """What the images must look like for a file, and who says so."""
    hints, recipe = about.hints, about.recipe
    if hints.interpolation:
        config = {**config, "interpolation": hints.interpolation.value}
    if hints.mean and hints.std:
        return {**config, "mean": hints.mean.value, "std": hints.std.value}, hints.mean.source
    if recipe is not None and recipe.from_keys:
        return {**config, "mean": recipe.mean, "std": recipe.std}, f"{recipe.title}'s"
    if tag:
        return config, f"of the pretraining {tag!r}"
    of = f"{config['architecture']}.{config['tag']}" if config.get("tag") else "this backbone"
    return config, f"a guess: timm's for {of}; name the pretraining or give --normalization"
