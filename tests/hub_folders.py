"""Tiny models in the hub's format, as publishers of the fields of science write them."""

import json

import safetensors.torch
import timm
import torch
from timm.layers import SwiGLUPacked
from torch import nn

SIZE = 32
_TINY = {"img_size": SIZE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
_GATED = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
_SAID_GATED = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_IMAGES = {"mean": [0.7, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "input_size": [3, SIZE, SIZE]}

PUBLISHED = {
    # architecture, model_args of config.json, what its users say beside it, file
    "uni": (
        "vit_large_patch16_224",
        {**_TINY, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
        {},
        "pytorch_model.bin",
    ),
    "uni2-h": (
        "vit_giant_patch14_224",
        {
            **{**_TINY, "init_values": 1e-5, "mlp_ratio": 5.33334, "num_classes": 0},
            **{"no_embed_class": True, "reg_tokens": 8, "dynamic_img_size": True},
        },
        _SAID_GATED,
        "pytorch_model.bin",
    ),
    "virchow2": (
        "vit_huge_patch14_224",
        {
            **{**_TINY, "init_values": 1e-5, "mlp_ratio": 5.3375, "num_classes": 0},
            **{"global_pool": "", "reg_tokens": 4, "dynamic_img_size": True},
        },
        _SAID_GATED,
        "model.safetensors",
    ),
    "h-optimus": (
        "vit_giant_patch14_reg4_dinov2",
        {**_TINY, "num_classes": 0},
        {"init_values": 1e-5, "dynamic_img_size": False},
        "pytorch_model.bin",
    ),
    "gigapath": (
        "vit_giant_patch14_dinov2",
        {**_TINY, "in_chans": 3, "init_values": 1e-5, "mlp_ratio": 5.33334, "num_classes": 0},
        {},
        "pytorch_model.bin",
    ),
}


def published(name, folder, **config):
    """A folder as `name` is published, with timm's own network of these weights, and what is said
    beside the name of the model to load it."""
    architecture, arguments, said, file = PUBLISHED[name]
    built = {**arguments, **said, **(_GATED if "mlp_layer" in said else {}), "num_classes": 0}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model(architecture, **built).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder.mkdir(parents=True)
    if file.endswith(".bin"):
        torch.save(model.state_dict(), folder / file)
    else:
        safetensors.torch.save_file(model.state_dict(), folder / file)
    document = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": 24,
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {**_IMAGES, "interpolation": "bicubic", "crop_pct": 1.0},
        **config,
    }
    (folder / "config.json").write_text(json.dumps(document))
    return model, said


def images():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


TINY_FAMILIES = {
    "vit_small_patch16_dinov3": {"embed_dim": 48, "depth": 2, "num_heads": 4},
    "beit_base_patch16_224": {"embed_dim": 48, "depth": 2, "num_heads": 4},
    "vit_relpos_small_patch16_224": {"embed_dim": 48, "depth": 2, "num_heads": 4},
    "naflexvit_base_patch16_gap": {"embed_dim": 48, "depth": 2, "num_heads": 4},
    "swin_tiny_patch4_window7_224": {
        **{"embed_dim": 24, "depths": [1, 2, 1], "num_heads": [1, 2, 4], "window_size": 4},
    },
    "swinv2_tiny_window8_256": {
        **{"embed_dim": 24, "depths": [1, 2, 1], "num_heads": [1, 2, 4], "window_size": 4},
    },
}
"""By architecture, what makes it tiny: one of each family beside the plain ViT, for 64 pixels."""


def tiny_of_family(architecture, folder):
    """A folder with a random network of the architecture; the name under which it is loaded."""
    said = {**TINY_FAMILIES[architecture], "img_size": 64}
    built = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items()}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model(architecture, num_classes=0, **built)
        for parameter in model.parameters():  # layer scale may start near zero
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder.mkdir(parents=True)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    document = {"architecture": architecture, "model_args": said}
    (folder / "config.json").write_text(json.dumps(document))
    return f"local-dir:{folder}"
