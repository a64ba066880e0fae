"""A network of timm as its name and arguments say, in the size of the images."""

from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from torch import nn

from methods.argument_values import Arguments
from methods.backbone_names import sketch_of
from methods.build_arguments import as_typed, built_with
from methods.families import check_supported, family_of
from methods.weights.reading import bytes_of

_BESIDE_A_FILE = 2**30
"""So many numbers may a network have that its file has not: of another one, that is told apart in
words, or positions of larger images."""


def create_network(
    name: str,
    image_size: int,
    from_timm: bool,
    arguments: Arguments,
    said: Arguments,
    weights: Path | None = None,
) -> Any:
    """The network that timm builds, with its own pretrained weights where it is `from_timm`, else
    with random ones, always the same.

    `said` are those of the arguments that the user gave, the others are of a config.json.
    ValueError where it is of no family, cannot be built so, takes no images of this size, or is
    by far too large for its file of `weights`, which is seen before memory is taken.
    """

    def create(**options: Any) -> nn.Module:
        return timm.create_model(name, num_classes=0, **options)

    options: dict[str, Any] = {}
    if arguments:
        kind = type(sketch_of(name.partition(".")[0]))
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
    patch = family_of(sketch).patch_size(sketch)[0]
    if image_size < patch or image_size % patch:
        below = max(image_size // patch, 1) * patch
        raise ValueError(
            f"{name}: image size {image_size} is not a multiple of its patch size {patch};"
            f" {below} or {below + patch} would be"
        )
    # What is dropped in training the recipe says alone; timm's Swin would have 0.1 of its own.
    options |= {"img_size": image_size, "drop_path_rate": 0.0}
    if arguments and weights is not None:
        with torch.device("meta"):
            _refuse_larger(create(**options), name, arguments, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if not from_timm:
            vit = create(**options)
        else:
            try:
                _ask_hub(name)
                vit = create(pretrained=True, **options)
            except Exception as error:  # timm, its hub client and its transports raise many kinds
                raise ValueError(
                    f"{name}: timm could not get pretrained weights"
                    f" ({type(error).__name__}: {error}); give a file with the weights instead"
                ) from error
    family_of(vit).set_image_size(vit, (image_size, image_size))
    if "_dinov3" in name and "global_pool" not in arguments:
        _read_class_token(vit)
    return vit


def _refuse_larger(sketch: nn.Module, name: str, arguments: Arguments, weights: Path) -> None:
    """A number takes a byte or more in a file; positions and tables may be more than there."""
    count = sum(t.numel() for t in (*sketch.parameters(), *sketch.buffers()))
    size = bytes_of(weights)
    if count > size + _BESIDE_A_FILE:
        raise ValueError(
            f"{name}: with {as_typed(arguments):.200} it has {count:,} numbers, too many for its"
            f" weights of {size:,} bytes ({weights}): they do not belong together"
        )


def _read_class_token(vit: Any) -> None:
    """DINOv3's authors take the class token, where timm takes the mean of the patches."""
    vit.global_pool = "token"


def _ask_hub(name: str) -> None:
    """Fail within seconds where the hub cannot be reached: timm's own client tries for long."""
    config = timm.models.get_pretrained_cfg(name)
    repository = config and config.hf_hub_id
    if not repository:
        return
    names = ("model.safetensors", "pytorch_model.bin")
    if not any(isinstance(try_to_load_from_cache(repository, file), str) for file in names):
        HfApi().model_info(repository, timeout=10)
