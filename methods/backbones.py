"""Frozen Vision Transformers, by timm name or from a file.

A name is timm's, with the pretraining behind a dot: `vit_base_patch16_224.mae`. With a file the
tag still says how to read the features and normalise the images; `moco_v3` is a tag of ours.
"""

import dataclasses
import difflib
import hashlib
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from methods.base import POOLINGS, SUPPORTED, check_supported

logger = logging.getLogger(__name__)

QUICKSTART = "vit_quickstart"
"""The small ViT that comes with the package."""

_ASSETS = Path(__file__).parent / "assets"
_MODULES = ("timm.models.vision_transformer", "timm.models.deit")
_MOCO_V3 = "moco_v3"


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
    """Of the names, shapes and values in the ViT, so equal for two files with equal weights; not of
    the position embedding, since resampling it rounds differently on different processors."""
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    readout: str
    """cls, mean_no_cls or attn_pool: how its features were read in pretraining."""
    num_parameters: int


def load_backbone(
    name: str,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
    pretrained: bool = True,
) -> Backbone:
    """A frozen ViT by its timm name.

    Weights come from `weights` (.safetensors, .pth, .pt, .tar, .npz), else from timm's hub, else,
    where `pretrained` is false, from chance. Position embeddings are resampled for `image_size`.
    """
    if name == QUICKSTART:
        return _load_quickstart(weights, image_size)
    architecture, _, tag = name.partition(".")
    config = _pretrained_config(architecture, tag)
    image_size = image_size or int(config["input_size"][-1])
    from_hub = pretrained and weights is None
    if from_hub and tag == _MOCO_V3:
        raise ValueError(f"{name}: timm has no MoCo-v3 weights; give a file")
    vit = _create(name if from_hub else architecture, image_size, from_hub)
    if weights is not None:
        _load_file(vit, Path(weights))
    if tag == "mae":
        _read_as_mae(vit)
    if not from_hub and weights is None:
        tag = "random"
    return _finish(vit, name, tag or ("file" if weights else config["tag"]), weights, config)


def _finish(
    vit: VisionTransformer, name: str, pretraining: str, weights: Path | None, config: dict
) -> Backbone:
    vit.requires_grad_(False).eval()
    return Backbone(
        vit=vit,
        name=name,
        pretraining=pretraining,
        weights=None if weights is None else Path(weights),
        weights_sha256=_content_hash(vit),
        image_size=vit.patch_embed.img_size[0],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        readout=POOLINGS[vit.global_pool],
        num_parameters=sum(p.numel() for p in vit.parameters()),
    )


def _content_hash(vit: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(vit.state_dict().items()):
        if key == "pos_embed":
            continue
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().data)
    return digest.hexdigest()


def save_frozen(backbone: Backbone, path: Path) -> None:
    """Write the tensors as they are in use, for `load_frozen` on another machine."""
    state = {name: tensor.contiguous() for name, tensor in backbone.vit.state_dict().items()}
    safetensors.torch.save_file(state, path, metadata={"pretraining": backbone.pretraining})


def load_frozen(name: str, path: Path, *, image_size: int) -> Backbone:
    """The backbone that `save_frozen` wrote: nothing is fetched, renamed or resampled again."""
    outline = load_backbone(name, image_size=image_size, pretrained=False)
    with safetensors.safe_open(path, "pt") as file:
        pretraining = file.metadata()["pretraining"]
    outline.vit.load_state_dict(_read_state(path))
    return dataclasses.replace(
        outline,
        pretraining=pretraining,
        weights=path,
        weights_sha256=_content_hash(outline.vit),
    )


# By name


def _pretrained_config(architecture: str, tag: str) -> dict[str, Any]:
    """timm's settings of this pretraining: size, normalisation, interpolation."""
    if not timm.is_model(architecture):
        ours = [m for module in _MODULES for m in timm.list_models(module=module.split(".")[-1])]
        close = difflib.get_close_matches(architecture, [*ours, QUICKSTART], n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else SUPPORTED
        raise ValueError(f"timm has no backbone {architecture!r}; {hint}")
    if timm.models.model_entrypoint(architecture).__module__ not in _MODULES:
        raise ValueError(f"{architecture} cannot be tuned: it is not a plain ViT. {SUPPORTED}")
    if tag == _MOCO_V3:
        config = _config_dict(architecture, "")
        normalisation = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        return {**config, **normalisation, "tag": _MOCO_V3}
    known = [pretrained.partition(".")[2] for pretrained in timm.list_pretrained(architecture)]
    if tag and tag not in known:
        close = difflib.get_close_matches(tag, known, n=1) or known
        raise ValueError(f"{architecture} has no pretraining {tag!r}; there is {', '.join(close)}")
    return _config_dict(architecture, tag)


def _config_dict(architecture: str, tag: str) -> dict[str, Any]:
    config = timm.models.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    assert config is not None, architecture
    return dataclasses.asdict(config)


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


def _load_file(vit: VisionTransformer, path: Path) -> None:
    """Fill `vit` with the weights of a file, or say exactly what does not fit."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file of weights")
    if path.suffix == ".npz":
        try:
            vit.load_pretrained(str(path))
        except (KeyError, ValueError, RuntimeError, AssertionError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not the weights of this ViT: {error}") from error
        return
    state = _unwrap(_read_state(path))
    state = {k: v.float() for k, v in _without_prefix(state, path).items()}
    state = checkpoint_filter_fn(state, vit)
    state = {k: v for k, v in state.items() if not k.startswith(_NOT_BACKBONE)}
    _check_fit(state, vit.state_dict(), path)
    vit.load_state_dict(state)


_NOT_BACKBONE = ("head.", "head_dist.", "fc.", "mask_token", "decoder_")
"""Classifiers and pretraining heads, which tuning replaces."""

_WRAPPERS = ("state_dict", "model", "teacher", "model_ema", "module", "backbone", "encoder")
"""Under one of these names checkpoints of training scripts keep the weights."""


def _read_state(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as weights: {error}") from error


def _unwrap(state: Any) -> dict[str, Tensor]:
    while isinstance(state, Mapping):
        inner = next((state[w] for w in _WRAPPERS if isinstance(state.get(w), Mapping)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, Mapping):
        return {}
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _without_prefix(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The backbone's part of the weights, under timm's names.

    A checkpoint may hold several networks (MoCo: base and momentum encoder; DINO: student and
    teacher). The one that was meant to be used stands under the prefix that is tried first.
    """
    marker = "patch_embed.proj.weight"
    prefixes = [key.removesuffix(marker) for key in state if key.endswith(marker)]
    if not prefixes:
        return state  # timm knows the layouts of CLIP and others that have no such key
    preferred = ("base_encoder.", "teacher.", "target_encoder.")
    chosen = [p for p in prefixes if any(word in p for word in preferred)] or prefixes
    if len(chosen) > 1:
        raise ValueError(f"{path}: several networks in one file: {', '.join(map(repr, prefixes))}")
    if chosen[0]:
        logger.info("%s: weights under %r taken, of %s", path, chosen[0], prefixes)
    return {k.removeprefix(chosen[0]): v for k, v in state.items() if k.startswith(chosen[0])}


def _check_fit(state: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    reshaped = sorted(
        f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected.keys() & state.keys()
        if state[key].shape != expected[key].shape
    )
    problems = [
        f"{what}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("shape", reshaped))
        if keys
    ]
    if problems:
        raise ValueError(f"{path}: not the weights of this ViT: {'; '.join(problems)}")


# From the package


def _load_quickstart(weights: Path | None, image_size: int | None) -> Backbone:
    description = _ASSETS / f"{QUICKSTART}.json"
    if not description.is_file():
        raise ValueError(f"{QUICKSTART}: {description.name} is not part of this installation")
    config = json.loads(description.read_text())
    keys = ("img_size", "patch_size", "embed_dim", "depth", "num_heads")
    vit = VisionTransformer(num_classes=0, **{key: config[key] for key in keys})
    _load_file(vit, weights or _ASSETS / f"{QUICKSTART}.safetensors")
    if image_size is not None and image_size != config["img_size"]:
        if image_size % config["patch_size"]:
            raise ValueError(
                f"{QUICKSTART}: image size {image_size} is not a multiple of its patch size"
                f" {config['patch_size']}"
            )
        vit.set_input_size((image_size, image_size))
    config = {"interpolation": "bicubic", "crop_pct": 1.0, **config}
    return _finish(vit, QUICKSTART, "quickstart", weights, config)
