"""Tiny networks with values, and their weights as others would write them."""

import re

import numpy as np
import safetensors.torch
import torch
from timm.models import VisionTransformer

from methods.asked_backbone import Asked
from methods.from_file import load_file

WIDTH, DEPTH, HEADS, SIZE = 24, 2, 3, 32


TINY = {"img_size": SIZE, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}


HUB = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "image_size": SIZE,
    "patch_size": 8,
}


def vit(**options):
    return VisionTransformer(**{**TINY, "num_classes": 0, **options}).eval()


def shaken(model):
    """The model with values nowhere near zero, large enough for an activation to matter."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def images(size=SIZE):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def read(path, into=None, name="tiny", decided=None):
    """A tiny ViT that was filled from a file as a backbone is, and what was found out."""
    into = into or vit()
    asked = Asked(
        weights=path, image_size=None, pretrained=True, arguments={}, said={}, decided=decided
    )
    return into.eval(), load_file(into, path, name, asked)


def saved(content, path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in content.items()}, path)
    else:
        torch.save(content, path)
    return path


@torch.no_grad()
def features(model, of=None):
    return model(images() if of is None else of)


def with_values(state, into=None):
    into = into or vit()
    into.load_state_dict(state)
    return into.eval()


# Names of projects that are not installed, written from timm's network


def renamed(state, *rules):
    found = {}
    for key, value in state.items():
        for pattern, target in rules:
            key = re.sub(pattern, target, key)
        found[key] = value
    return found


# JAX


def jax_arrays(state, heads, *, blocks=DEPTH, prefix="", big_vision=False, stacked=False):
    attention, mlp, second = (0, 0, 1) if big_vision else (1, 3, 2)
    width = state["cls_token"].shape[-1]
    state = {k: v.numpy() for k, v in state.items()}
    position = "pos_embedding" if big_vision else "Transformer/posembed_input/pos_embedding"
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        position: state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": np.zeros((width, 5), np.float32),
        "head/bias": np.zeros(5, np.float32),
    }
    layers = []
    for i in range(blocks):
        ours, layer = f"blocks.{i % DEPTH}.", {}
        for number, norm in ((0, "norm1"), (second, "norm2")):
            layer[f"LayerNorm_{number}/scale"] = state[f"{ours}{norm}.weight"]
            layer[f"LayerNorm_{number}/bias"] = state[f"{ours}{norm}.bias"]
        there = f"MultiHeadDotProductAttention_{attention}"
        weights = np.split(state[f"{ours}attn.qkv.weight"], 3)
        biases = np.split(state[f"{ours}attn.qkv.bias"], 3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            layer[f"{there}/{name}/kernel"] = weight.T.reshape(width, heads, -1)
            layer[f"{there}/{name}/bias"] = bias.reshape(heads, -1)
        layer[f"{there}/out/kernel"] = state[f"{ours}attn.proj.weight"].T.reshape(heads, -1, width)
        layer[f"{there}/out/bias"] = state[f"{ours}attn.proj.bias"]
        for number in (0, 1):
            dense = f"MlpBlock_{mlp}/Dense_{number}"
            layer[f"{dense}/kernel"] = state[f"{ours}mlp.fc{number + 1}.weight"].T
            layer[f"{dense}/bias"] = state[f"{ours}mlp.fc{number + 1}.bias"]
        layers.append(layer)
    if stacked:
        for key in layers[0]:
            arrays[f"Transformer/encoderblock/{key}"] = np.stack([one[key] for one in layers])
    else:
        for i, layer in enumerate(layers):
            arrays |= {f"Transformer/encoderblock_{i}/{k}": v for k, v in layer.items()}
    return {prefix + key: value for key, value in arrays.items()}
