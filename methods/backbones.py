"""Frozen Vision Transformers, by timm name, from a file, or from a folder in the hub's format.

A name is timm's, with the pretraining behind a dot: `vit_base_patch16_224.mae`. With a file the
tag still says how to read the features and normalise the images; `moco_v3` is a tag of ours. Or it
says where the folder is whose config.json names the network: `hf-hub:OWNER/NAME`, `local-dir:PATH`.
"""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import VisionTransformer
from torch import nn

from methods.argument_values import Arguments, Value, as_value
from methods.asked_backbone import Asked, Decided
from methods.backbone_names import MOCO_V3, pretrained_config, sketch_of, split_name
from methods.built import create_network
from methods.families import family_of
from methods.from_file import images_of, load_file
from methods.hub_models import HubModel, commit_of, folder_of, read_config
from methods.hub_names import HubName, hub_name
from methods.network import Network, make_network, network_of
from methods.timm_names import QUICKSTART
from methods.weights.networks import networks
from methods.weights.reading import read_weights

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

    vit: Any
    name: str
    pretraining: str
    """orig_in21k, augreg_in21k, mae, moco_v3 ...: never mix two of them in one table."""
    weights: Path | None
    """The file they came from; None: timm's hub, the package itself, or chance."""
    weights_sha256: str
    """A digest of the names, shapes and values in the ViT, so equal for two files with equal
    weights; not of position embeddings and tables, since resampling them rounds differently on
    different processors. Also of `network`, where that is not the one that timm builds under this
    name, and of arguments that no tensor shows."""
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    readout: str
    """cls, mean_no_cls or attn_pool: how its features were read in pretraining."""
    num_parameters: int
    network: Network | None
    """Heads, activation and norm epsilon, which no tensor shows; None of a family for which timm
    alone says them."""
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
    given = decided.arguments if decided else _as_written(arguments or {})
    asked = Asked(
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
    vit = create_network(
        name if from_timm else architecture,
        asked.image_size or int(config["input_size"][-1]),
        from_timm,
        asked.arguments,
        asked.said,
        weights,
    )
    own = _network(vit)
    if weights is None:
        if tag == "mae":
            _read_as_mae(vit)
        pretraining = (tag or config["tag"]) if from_timm else "random"
        return _finish(vit, name, pretraining, asked, config, own)
    about = load_file(vit, weights, name, asked)
    if tag == "mae":
        _read_as_mae(vit)
    config, normalised_by = images_of(config, tag, about)
    return dataclasses.replace(
        _finish(vit, name, tag or "file", asked, config, own),
        part=about.part,
        other_parts=about.other_parts,
        assumed=about.assumed,
        normalised_by=normalised_by,
    )


def _as_written(arguments: Mapping[str, Any]) -> dict[str, Value]:
    """As they would come from a command; ValueError names one that cannot be written down."""
    written = {}
    for name, value in arguments.items():
        try:
            written[name] = as_value(list(value) if isinstance(value, tuple) else value)
        except ValueError as error:
            raise ValueError(f"argument {name} is {value!r:.60}: {error}") from error
    return written


def parts_of(weights: Path) -> tuple[str, ...]:
    """The networks in a file, each as `Decided.part` names it."""
    return tuple(network.part for network in networks(read_weights(weights)))


def _finish(
    vit: Any,
    name: str,
    pretraining: str,
    asked: Asked,
    config: dict,
    own: Network | None,
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
        network=_network(vit),
        architecture=architecture or name.partition(".")[0],
        arguments=asked.arguments,
    )


def _network(vit: Any) -> Network | None:
    return network_of(vit) if isinstance(vit, VisionTransformer) else None


_SEEN_IN_TENSORS = {
    *("patch_size", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "proj_bias", "qk_norm"),
    *("scale_attn_norm", "scale_mlp_norm", "init_values", "class_token", "reg_tokens", "pre_norm"),
    *("final_norm", "fc_norm", "pos_embed", "dynamic_img_size"),
}
"""Arguments that names and shapes of tensors tell, or that change no feature."""


def _content_hash(vit: Any, own: Network | None, arguments: Arguments) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(vit.state_dict().items()):
        if key == "pos_embed" or key.endswith("relative_position_bias_table"):
            continue
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().data)
    if (network := _network(vit)) != own:
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
    own = _network(empty.vit)
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
        network=_network(empty.vit),
    )


# By name


def _image_config(architecture: str, tag: str) -> dict[str, Any]:
    """timm's settings of this pretraining: size, normalisation, interpolation."""
    if tag == MOCO_V3:
        config = pretrained_config(architecture, "")
        normalisation = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        return {**config, **normalisation, "tag": MOCO_V3}
    return pretrained_config(architecture, tag)


def _read_as_mae(vit: Any) -> None:
    """MAE's features are the mean of the tokens, then the pretrained norm."""
    vit.global_pool = "avg"
    vit.fc_norm, vit.norm = vit.norm, nn.Identity()


# From a folder in the hub's format, here or there


def _load_from_hub(name: HubName, asked: Asked) -> Backbone:
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
        if model.pretraining == "mae" and "global_pool" not in found:
            pooled += (
                "; the class token is read, as timm does, where MAE's authors read the mean:"
                f" --backbone {architecture}.mae --weights FOLDER does"
            )
    config = {**_image_config(architecture, ""), **OF_HUB_MODELS, **images}
    image_size = asked.image_size or int(config["input_size"][-1])
    vit = create_network(architecture, image_size, False, asked.arguments, asked.said, weights)
    own = _network(vit)
    if weights is None:
        return _finish(vit, str(name), "random", asked, config, own, architecture)
    about = load_file(vit, weights, architecture, asked)
    config, normalised_by = images_of(config, "", about)
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
        assumed=(about.assumed + pooled).removeprefix("; "),
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
    plain = sketch_of(architecture)
    if arguments.get("class_token", family_of(plain).has_class_token(plain)):
        pooling, read = {"global_pool": "token"}, "the class token"
    else:
        known = inspect.signature(type(plain)).parameters
        norms = {name: False for name in ("fc_norm", "use_fc_norm") if name in known}
        pooling, read = {"global_pool": "avg", **norms}, "the mean of the patches"
    return {**arguments, **pooling}, f"; {config.name} pools nothing: {read} is read"


# From the package


def _load_quickstart(asked: Asked) -> Backbone:
    weights, image_size = asked.weights, asked.image_size
    description = _ASSETS / f"{QUICKSTART}.json"
    if not description.is_file():
        raise ValueError(f"{QUICKSTART}: {description.name} is not part of this installation")
    config = json.loads(description.read_text())
    keys = ("img_size", "patch_size", "embed_dim", "depth", "num_heads")
    vit = VisionTransformer(num_classes=0, **{key: config[key] for key in keys})
    own = _network(vit)
    about = load_file(vit, weights or _ASSETS / f"{QUICKSTART}.safetensors", QUICKSTART, asked)
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
