"""Frozen Vision Transformers, by timm name, from a file, or from a folder in the hub's format.

A name is timm's, with the pretraining behind a dot: `vit_base_patch16_224.mae`. With a file the
tag still says how to read the features and normalise the images; `moco_v3` is a tag of ours. Or it
says where the folder is whose config.json names the network: `hf-hub:OWNER/NAME`, `local-dir:PATH`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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

from methods.backbone_names import MOCO_V3, outline, pretrained_config, split_name
from methods.build_arguments import Arguments, Value, as_typed, built_with
from methods.families import check_supported, family_of
from methods.hub_models import HubModel, commit_of, folder_of, read_config
from methods.hub_names import HubName, hub_name
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

OF_HUB_MODELS = {
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
}
"""What timm takes where the config.json of a model does not say."""

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
    architecture: str
    """timm's name of what was built."""
    arguments: Arguments
    """What it was built with beside its name."""
    revision: str | None = None
    """The commit of the hub's repository; None elsewhere."""
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
    architecture: str | None = None
    """Of a model of the hub or a folder: what its config.json said."""
    arguments: Arguments = field(default_factory=dict)
    """All that it was built with, those of a config.json among them."""
    revision: str | None = None
    """The commit that a model of the hub was of."""


def load_backbone(
    name: str,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
    pretrained: bool = True,
    arguments: Arguments | None = None,
    decided: Decided | None = None,
) -> Backbone:
    """A frozen ViT by its timm name, or as `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.

    Weights come from `weights` (a file or a hub's folder; docs/weights.md says which are read),
    else from where the name says, timm's hub as a rule; else, where `pretrained` is false, from
    chance. Position embeddings are resampled for `image_size`. `arguments` are those of timm's
    constructor beyond what the name says; of an earlier load `decided` has all.
    """
    weights = None if weights is None else Path(weights)
    given = decided.arguments if decided else arguments or {}
    asked = _Asked(
        weights=weights,
        image_size=image_size,
        pretrained=pretrained,
        arguments=given,
        said=given,
        decided=decided,
    )
    if name == QUICKSTART:
        if asked.arguments:
            raise ValueError(f"{name}: is built as it is; --backbone-args are for networks of timm")
        return _load_quickstart(asked)
    if (of_hub := hub_name(name)) is not None:
        return _load_from_hub(of_hub, asked)
    architecture, tag = split_name(name)
    name = f"{architecture}.{tag}" if tag else architecture
    config = _image_config(architecture, tag)
    from_timm = pretrained and weights is None
    if from_timm and tag == MOCO_V3:
        raise ValueError(f"{name}: timm has no MoCo-v3 weights; give a file")
    vit = _create(
        name if from_timm else architecture,
        asked.image_size or int(config["input_size"][-1]),
        from_timm,
        asked.arguments,
        asked.said,
    )
    own = network_of(vit)
    if weights is None:
        if tag == "mae":
            _read_as_mae(vit)
        pretraining = (tag or config["tag"]) if from_timm else "random"
        return _finish(vit, name, pretraining, asked, config, own)
    about = _load_file(vit, weights, name, asked)
    if tag == "mae":
        _read_as_mae(vit)
    config, normalised_by = _images(config, tag, about)
    return dataclasses.replace(
        _finish(vit, name, tag or "file", asked, config, own),
        part=about.part,
        other_parts=about.other_parts,
        assumed=about.assumed,
        normalised_by=normalised_by,
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What `load_backbone` was given."""

    weights: Path | None
    image_size: int | None
    pretrained: bool
    arguments: Arguments
    """All that the network is built with beside its name."""
    said: Arguments
    """Those of them that the user gave."""
    decided: Decided | None


def parts_of(weights: Path) -> tuple[str, ...]:
    """The networks in a file, each as `Decided.part` names it."""
    return tuple(network.part for network in networks(read_weights(weights)))


def _finish(
    vit: VisionTransformer,
    name: str,
    pretraining: str,
    asked: _Asked,
    config: dict,
    own: Network,
    architecture: str | None = None,
) -> Backbone:
    """`own` is the network that timm builds, before a file says of heads and the like."""
    vit.requires_grad_(False).eval()
    return Backbone(
        vit=vit,
        name=name,
        pretraining=pretraining,
        weights=asked.weights,
        weights_sha256=_content_hash(vit, own, asked.arguments),
        image_size=family_of(vit).image_size(vit)[0],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        readout=family_of(vit).readout(vit),
        num_parameters=sum(p.numel() for p in vit.parameters()),
        network=network_of(vit),
        architecture=architecture or name.partition(".")[0],
        arguments=asked.arguments,
    )


_SEEN_IN_TENSORS = {
    *("patch_size", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "proj_bias", "qk_norm"),
    *("scale_attn_norm", "scale_mlp_norm", "init_values", "class_token", "reg_tokens", "pre_norm"),
    *("final_norm", "fc_norm", "pos_embed", "dynamic_img_size"),
}
"""Arguments that names and shapes of tensors tell, or that change no feature."""


def _content_hash(vit: VisionTransformer, own: Network, arguments: Arguments) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(vit.state_dict().items()):
        if key == "pos_embed":
            continue
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().data)
    if (network := network_of(vit)) != own:
        digest.update(str(network).encode())
    if others := {k: v for k, v in arguments.items() if k not in _SEEN_IN_TENSORS}:
        digest.update(json.dumps(others, sort_keys=True).encode())
    return digest.hexdigest()


def save_frozen(backbone: Backbone, path: Path) -> None:
    """Write the tensors as they are in use, for `load_frozen` on another machine."""
    state = {name: tensor.contiguous() for name, tensor in backbone.vit.state_dict().items()}
    safetensors.torch.save_file(state, path, metadata={"pretraining": backbone.pretraining})


def load_frozen(name: str, path: Path, *, image_size: int, decided: Decided) -> Backbone:
    """The backbone that `save_frozen` wrote: nothing is fetched, renamed or resampled again."""
    empty = load_backbone(name, image_size=image_size, pretrained=False, decided=decided)
    own = network_of(empty.vit)
    with safetensors.safe_open(path, "pt") as file:
        pretraining = file.metadata()["pretraining"]
    empty.vit.load_state_dict(safetensors.torch.load_file(path))
    if decided.network is not None:
        make_network(empty.vit, decided.network)
    return dataclasses.replace(
        empty,
        pretraining=pretraining,
        weights=path,
        weights_sha256=_content_hash(empty.vit, own, decided.arguments),
        network=network_of(empty.vit),
    )


# By name


def _image_config(architecture: str, tag: str) -> dict[str, Any]:
    """timm's settings of this pretraining: size, normalisation, interpolation."""
    if tag == MOCO_V3:
        config = pretrained_config(architecture, "")
        normalisation = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        return {**config, **normalisation, "tag": MOCO_V3}
    return pretrained_config(architecture, tag)


def _create(
    name: str, image_size: int, from_timm: bool, arguments: Arguments, said: Arguments
) -> VisionTransformer:
    """`said` are those of the arguments that the user gave, the others are of a config.json."""

    def create(**options: Any) -> nn.Module:
        return timm.create_model(name, num_classes=0, **options)

    options: dict[str, Any] = {}
    if arguments:
        plain = outline(name.partition(".")[0])
        kind = VisionTransformer if plain is None else type(plain)
        of_config = {k: v for k, v in arguments.items() if k not in said}
        options = {
            **built_with(of_config, kind, source="config.json: model_args"),
            **built_with(said, kind, source="--backbone-args"),
        }
    with torch.device("meta"):  # nothing is allocated or fetched before the model is known to fit
        try:
            sketch = create(**options)
        except Exception as error:  # timm's constructors raise many kinds
            if not arguments:
                raise
            raise ValueError(
                f"{name}: cannot be built with {as_typed(arguments)}:"
                f" {str(error) or type(error).__name__}"
            ) from error
    try:
        check_supported(sketch)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    assert isinstance(sketch, VisionTransformer)
    patch = sketch.patch_embed.patch_size[0]
    if image_size < patch or image_size % patch:
        below = max(image_size // patch, 1) * patch
        raise ValueError(
            f"{name}: image size {image_size} is not a multiple of its patch size {patch};"
            f" {below} or {below + patch} would be"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if not from_timm:
            vit = create(img_size=image_size, **options)
        else:
            try:
                _ask_hub(name)
                vit = create(img_size=image_size, pretrained=True, **options)
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


# From a folder in the hub's format, here or there


def _load_from_hub(name: HubName, asked: _Asked) -> Backbone:
    """A model whose config.json says what is built, unless an earlier load has decided it."""
    weights, revision, decided = asked.weights, None, asked.decided
    if weights is None and asked.pretrained:
        pinned = decided.revision if decided else None
        weights = folder_of(dataclasses.replace(name, revision=pinned or name.revision))
        revision = commit_of(name, weights)
    images, pooled = {}, ""
    if decided is not None and decided.architecture is not None:
        architecture = decided.architecture
    elif weights is None:
        raise ValueError(f"{name}: without its config.json it is not known what is built")
    else:
        model = read_config(weights)
        architecture, images = _architecture(model), model.images
        found, pooled = _with_pooling(architecture, {**model.arguments, **asked.said}, model.config)
        asked = dataclasses.replace(asked, arguments=found)
    config = {**_image_config(architecture, ""), **OF_HUB_MODELS, **images}
    image_size = asked.image_size or int(config["input_size"][-1])
    vit = _create(architecture, image_size, False, asked.arguments, asked.said)
    own = network_of(vit)
    if weights is None:
        return _finish(vit, str(name), "random", asked, config, own, architecture)
    about = _load_file(vit, weights, architecture, asked)
    config, normalised_by = _images(config, "", about)
    if not (about.hints.mean and about.hints.std):
        normalised_by = "timm's default for models of the hub; config.json does not say"
    backbone = _finish(vit, str(name), name.place, asked, config, own, architecture)
    return dataclasses.replace(
        backbone,
        # What was fetched is found again by its commit, a folder by its place.
        weights=None if revision else weights,
        revision=revision,
        part=about.part,
        other_parts=about.other_parts,
        assumed=about.assumed + pooled,
        normalised_by=normalised_by,
    )


def _architecture(model: HubModel) -> str:
    try:
        architecture, _ = split_name(model.architecture)
    except ValueError as error:
        raise ValueError(f"{model.config}: {error}") from error
    return architecture


def _with_pooling(
    architecture: str, arguments: Arguments, config: Path
) -> tuple[dict[str, Value], str]:
    """The arguments with a pooling where there is none, as of Virchow2, whose users read what they
    like; and what to say of it. The tensors are the same."""
    if arguments.get("global_pool") != "":
        return dict(arguments), ""
    plain = outline(architecture)
    if arguments.get("class_token", getattr(plain, "has_class_token", False)):
        pooling, read = {"global_pool": "token"}, "the class token"
    else:
        pooling, read = {"global_pool": "avg", "fc_norm": False}, "the mean of the patches"
    return {**arguments, **pooling}, f"; {config.name} pools nothing: {read} is read"


# From a file


@dataclass(frozen=True, kw_only=True)
class _About:
    """What was found out about a file while it was read."""

    part: str
    other_parts: tuple[str, ...]
    assumed: str
    hints: Hints
    recipe: Recipe | None


def _load_file(vit: VisionTransformer, path: Path, name: str, asked: _Asked) -> _About:
    """Fill `vit` with the weights of a file and make it their network, or say what does not fit."""
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


def _load_quickstart(asked: _Asked) -> Backbone:
    weights, image_size = asked.weights, asked.image_size
    description = _ASSETS / f"{QUICKSTART}.json"
    if not description.is_file():
        raise ValueError(f"{QUICKSTART}: {description.name} is not part of this installation")
    config = json.loads(description.read_text())
    keys = ("img_size", "patch_size", "embed_dim", "depth", "num_heads")
    vit = VisionTransformer(num_classes=0, **{key: config[key] for key in keys})
    own = network_of(vit)
    about = _load_file(vit, weights or _ASSETS / f"{QUICKSTART}.safetensors", QUICKSTART, asked)
    if image_size is not None and image_size != config["img_size"]:
        if image_size % config["patch_size"]:
            raise ValueError(
                f"{QUICKSTART}: image size {image_size} is not a multiple of its patch size"
                f" {config['patch_size']}"
            )
        vit.set_input_size((image_size, image_size))
    config = {"interpolation": "bicubic", "crop_pct": 1.0, **config}
    backbone = _finish(vit, QUICKSTART, "quickstart", asked, config, own)
    if weights is None:
        return backbone
    return dataclasses.replace(
        backbone,
        part=about.part,
        other_parts=about.other_parts,
        assumed=about.assumed,
        normalised_by=f"of {QUICKSTART}",
    )
