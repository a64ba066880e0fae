"""Frozen Vision Transformers, by timm name or from a file.

A name is timm's, with the pretraining behind a dot: `vit_base_patch16_224.mae`. With a file the
tag still says how to read the features and normalise the images; `moco_v3` is a tag of ours.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import VisionTransformer
from torch import Tensor, nn

from methods.backbone_names import MOCO_V3, pretrained_config, split_name
from methods.families import check_supported, family_of
from methods.network import Network, make_network, network_of
from methods.timm_names import QUICKSTART
from methods.weights.configs import take_configs
from methods.weights.decide import check_shape_hints, decide_network
from methods.weights.fit import fitted, num_blocks
from methods.weights.hints import Hints
from methods.weights.layouts import convert
from methods.weights.networks import Found, choose, networks
from methods.weights.reading import read_weights
from methods.weights.recipes import Recipe, recipe_of
from methods.weights.remarks import take_remarks
from methods.weights.timm_own import in_timms_names

_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen ViT in evaluation mode, and what the images must look like for it."""

    vit: VisionTransformer
    name: str
    pretraining: str
    """orig_in21k, augreg_in21k, mae, moco_v3 ...: never mix two of them in one table."""
    weights: Path | None
    """The file they came from; None: timm's hub, the package itself, or chance."""
    weights_sha256: str
    """A digest of the names, shapes and values in the ViT, so equal for two files with equal
    weights; not of the position embedding, since resampling it rounds differently on different
    processors. Also of `network`, where that is not the one that timm builds under this name."""
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    readout: str
    """cls, mean_no_cls or attn_pool: how its features were read in pretraining."""
    num_parameters: int
    network: Network
    """Heads, activation and norm epsilon, which no tensor shows."""
    part: str | None = None
    """Which of the networks in the file; None without a file."""
    other_parts: tuple[str, ...] = ()
    """The other networks in the file."""
    assumed: str = ""
    """In one line: network and part, and from where they are known. '' where nothing was open."""
    normalised_by: str = ""
    """In one line: who says mean and std."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What an earlier load of the same file decided, so that nothing is asked or assumed again."""

    network: Network | None
    """The network that was decided on; None: as timm builds it, which was so before files were
    asked."""
    part: str | None = None
    """The part of the file that was meant; None: chosen by the rules."""


def load_backbone(
    name: str,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
    pretrained: bool = True,
    decided: Decided | None = None,
) -> Backbone:
    """A frozen ViT by its timm name.

    Weights come from `weights` (a file or a hub's folder; docs/weights.md says which are read),
    else from timm's hub, else, where `pretrained` is false, from chance. Position embeddings are
    resampled for `image_size`.
    """
    weights = None if weights is None else Path(weights)
    if name == QUICKSTART:
        return _load_quickstart(weights, image_size, decided)
    architecture, tag = split_name(name)
    name = f"{architecture}.{tag}" if tag else architecture
    config = _image_config(architecture, tag)
    image_size = image_size or int(config["input_size"][-1])
    from_hub = pretrained and weights is None
    if from_hub and tag == MOCO_V3:
        raise ValueError(f"{name}: timm has no MoCo-v3 weights; give a file")
    vit = _create(name if from_hub else architecture, image_size, from_hub)
    own = network_of(vit)
    if weights is None:
        if tag == "mae":
            _read_as_mae(vit)
        pretraining = (tag or config["tag"]) if from_hub else "random"
        return _finish(vit, name, pretraining, None, config, own)
    about = _load_file(vit, weights, name, decided)
    if tag == "mae":
        _read_as_mae(vit)
    config, normalised_by = _images(config, tag, about)
    return dataclasses.replace(
        _finish(vit, name, tag or "file", weights, config, own),
        part=about.part,
        other_parts=about.other_parts,
        assumed=about.assumed,
        normalised_by=normalised_by,
    )


def parts_of(weights: Path) -> tuple[str, ...]:
    """The networks in a file, each as `Decided.part` names it."""
    return tuple(network.part for network in networks(read_weights(weights)))


def _finish(
    vit: VisionTransformer,
    name: str,
    pretraining: str,
    weights: Path | None,
    config: dict,
    own: Network,
) -> Backbone:
    """`own` is the network that timm builds under the name."""
    vit.requires_grad_(False).eval()
    return Backbone(
        vit=vit,
        name=name,
        pretraining=pretraining,
        weights=weights,
        weights_sha256=_content_hash(vit, own),
        image_size=family_of(vit).image_size(vit)[0],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        readout=family_of(vit).readout(vit),
        num_parameters=sum(p.numel() for p in vit.parameters()),
        network=network_of(vit),
    )


def _content_hash(vit: VisionTransformer, own: Network) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(vit.state_dict().items()):
        if key == "pos_embed":
            continue
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().data)
    if (network := network_of(vit)) != own:
        digest.update(str(network).encode())
    return digest.hexdigest()


def save_frozen(backbone: Backbone, path: Path) -> None:
    """Write the tensors as they are in use, for `load_frozen` on another machine."""
    state = {name: tensor.contiguous() for name, tensor in backbone.vit.state_dict().items()}
    safetensors.torch.save_file(state, path, metadata={"pretraining": backbone.pretraining})


def load_frozen(name: str, path: Path, *, image_size: int, network: Network | None) -> Backbone:
    """The backbone that `save_frozen` wrote: nothing is fetched, renamed or resampled again.

    `network` is what was decided when its file was read; None: as timm builds it.
    """
    outline = load_backbone(name, image_size=image_size, pretrained=False)
    own = network_of(outline.vit)
    with safetensors.safe_open(path, "pt") as file:
        pretraining = file.metadata()["pretraining"]
    outline.vit.load_state_dict(safetensors.torch.load_file(path))
    if network is not None:
        make_network(outline.vit, network)
    return dataclasses.replace(
        outline,
        pretraining=pretraining,
        weights=path,
        weights_sha256=_content_hash(outline.vit, own),
        network=network_of(outline.vit),
    )


# By name


def _image_config(architecture: str, tag: str) -> dict[str, Any]:
    """timm's settings of this pretraining: size, normalisation, interpolation."""
    if tag == MOCO_V3:
        config = pretrained_config(architecture, "")
        normalisation = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        return {**config, **normalisation, "tag": MOCO_V3}
    return pretrained_config(architecture, tag)


def _create(name: str, image_size: int, from_hub: bool) -> VisionTransformer:
    def create(**options: Any) -> nn.Module:
        return timm.create_model(name, num_classes=0, **options)

    with torch.device("meta"):  # nothing is allocated or fetched before the model is known to fit
        outline = create()
    try:
        check_supported(outline)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    assert isinstance(outline, VisionTransformer)
    patch = outline.patch_embed.patch_size[0]
    if image_size < patch or image_size % patch:
        below = max(image_size // patch, 1) * patch
        raise ValueError(
            f"{name}: image size {image_size} is not a multiple of its patch size {patch};"
            f" {below} or {below + patch} would be"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if not from_hub:
            vit = create(img_size=image_size)
        else:
            try:
                _ask_hub(name)
                vit = create(img_size=image_size, pretrained=True)
            except Exception as error:  # timm, its hub client and its transports raise many kinds
                raise ValueError(
                    f"{name}: timm could not get pretrained weights"
                    f" ({type(error).__name__}: {error}); give a file with the weights instead"
                ) from error
    assert isinstance(vit, VisionTransformer)
    return vit


def _ask_hub(name: str) -> None:
    """Fail within seconds where the hub cannot be reached: timm's own client tries for long."""
    config = timm.models.get_pretrained_cfg(name)
    repository = config and config.hf_hub_id
    if not repository:
        return
    names = ("model.safetensors", "pytorch_model.bin")
    if not any(isinstance(try_to_load_from_cache(repository, file), str) for file in names):
        HfApi().model_info(repository, timeout=10)


def _read_as_mae(vit: VisionTransformer) -> None:
    """MAE's features are the mean of the tokens, then the pretrained norm."""
    vit.global_pool = "avg"
    vit.fc_norm, vit.norm = vit.norm, nn.Identity()


# From a file


@dataclass(frozen=True, kw_only=True)
class _About:
    """What was found out about a file while it was read."""

    part: str
    other_parts: tuple[str, ...]
    assumed: str
    hints: Hints
    recipe: Recipe | None


def _load_file(vit: VisionTransformer, path: Path, name: str, decided: Decided | None) -> _About:
    """Fill `vit` with the weights of a file and make it their network, or say what does not fit."""
    content = in_timms_names(read_weights(path), vit)
    part = decided.part if decided else None
    chosen = choose(content, lambda found: _has_size_of(vit, found), part)
    layout = chosen.network.layout
    try:
        converted = convert(layout, chosen.network.tensors, _separated(chosen.network.part))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    hints = Hints()
    recipe = recipe_of(name.partition(".")[2], chosen, converted)
    state = fitted(converted.state, vit, name, path, layout)
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
        )
    else:
        network, assumed = decided.network, ""
    vit.load_state_dict(state)
    if network is not None:
        try:
            make_network(vit, network)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if chosen.reason:
        others = ", ".join(map(repr, chosen.others[:3])) + (" ..." if chosen.others[3:] else "")
        assumed += f"; weights under {chosen.network.part!r} ({chosen.reason}), not {others}"
    return _About(
        part=chosen.network.part,
        other_parts=chosen.others,
        assumed=assumed,
        hints=hints,
        recipe=recipe,
    )


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


def _images(config: dict[str, Any], tag: str, about: _About) -> tuple[dict[str, Any], str]:
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


# From the package


def _load_quickstart(
    weights: Path | None, image_size: int | None, decided: Decided | None
) -> Backbone:
    description = _ASSETS / f"{QUICKSTART}.json"
    if not description.is_file():
        raise ValueError(f"{QUICKSTART}: {description.name} is not part of this installation")
    config = json.loads(description.read_text())
    keys = ("img_size", "patch_size", "embed_dim", "depth", "num_heads")
    vit = VisionTransformer(num_classes=0, **{key: config[key] for key in keys})
    own = network_of(vit)
    about = _load_file(vit, weights or _ASSETS / f"{QUICKSTART}.safetensors", QUICKSTART, decided)
    if image_size is not None and image_size != config["img_size"]:
        if image_size % config["patch_size"]:
            raise ValueError(
                f"{QUICKSTART}: image size {image_size} is not a multiple of its patch size"
                f" {config['patch_size']}"
            )
        vit.set_input_size((image_size, image_size))
    config = {"interpolation": "bicubic", "crop_pct": 1.0, **config}
    backbone = _finish(vit, QUICKSTART, "quickstart", weights, config, own)
    if weights is None:
        return backbone
    return dataclasses.replace(
        backbone,
        part=about.part,
        other_parts=about.other_parts,
        assumed=about.assumed,
        normalised_by=f"of {QUICKSTART}",
    )
