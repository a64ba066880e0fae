"""Weights of other libraries and of training scripts: the same features as theirs, or a reason.

Features are compared with those of the library itself where it is installed (transformers,
torchvision), else with timm's own reader or with timm's network under the other names.
"""

import argparse
import dataclasses
import datetime
import functools
import gzip
import json
import pathlib
import pickle
import re
import zipfile
from collections import defaultdict

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
import transformers
from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn

from methods import backbones, load_backbone
from methods.network import network_of
from methods.weights.decide import decide_network
from methods.weights.hints import Hint, Hints, Standing
from methods.weights.layouts import convert
from methods.weights.networks import networks
from methods.weights.reading import read_weights
from orchestrator.plan.prepare import _plan_backbone
from orchestrator.plan.request import SweepRequest
from orchestrator.training.backbone import BackbonePlan, load_planned_backbone

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
    return into.eval(), backbones._load_file(into, path, name, decided)


def saved(content, path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in content.items()}, path)
    else:
        torch.save(content, path)
    return path


@torch.no_grad()
def features(model, of=None):
    return model(images() if of is None else of)


@pytest.fixture(scope="module")
def state():
    return shaken(vit()).state_dict()


def with_values(state, into=None):
    into = into or vit()
    into.load_state_dict(state)
    return into.eval()


# The libraries' own features


def first(output):
    return output.last_hidden_state[:, 0]


HUB_MODELS = {
    "ViT": ("ViT", {}, {}, first),
    "ViTMSN": ("ViTMSN", {}, {}, first),
    "DINOv2": ("Dinov2", {}, {"init_values": 1.0}, first),
    "DINOv2 giant": (
        "Dinov2",
        {"use_swiglu_ffn": True},
        {
            "init_values": 1.0,
            "mlp_layer": timm.layers.SwiGLUPacked,
            "mlp_ratio": 128 / WIDTH,
            "act_layer": torch.nn.SiLU,
        },
        first,
    ),
    "DINOv2 with registers": (
        "Dinov2WithRegisters",
        {},
        {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True},
        first,
    ),
    "CLIP": (
        "CLIPVision",
        {},
        {"pre_norm": True},
        lambda output: output.pooler_output,
    ),
    "SigLIP": (
        "SiglipVision",
        {},
        {"class_token": False, "global_pool": "map"},
        lambda output: output.pooler_output,
    ),
    "I-JEPA": (
        "IJepa",
        {},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        lambda output: output.last_hidden_state.mean(dim=1),
    ),
}


@pytest.mark.parametrize("family", HUB_MODELS)
def test_a_folder_of_transformers_gives_its_features(family, tmp_path):
    """Heads, activation and epsilon are those of its config.json, not those of the backbone."""
    kind, settings, options, pick = HUB_MODELS[family]
    eps = 1e-3  # large, so that ignoring it shows
    config = getattr(transformers, f"{kind}Config")(
        **{**HUB, **settings, "num_attention_heads": 6, "layer_norm_eps": eps}
    )
    model = shaken(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = pick(model(images()))
    filled, about = read(tmp_path, vit(**options))
    torch.testing.assert_close(features(filled), expected, rtol=1e-4, atol=1e-4)
    assert network_of(filled).num_heads == 6 and "6 heads" in about.assumed
    assert "config.json" in about.assumed


def test_weights_of_transformers_without_their_config(tmp_path):
    """In the names of its files and in those of its modules in memory, which differ."""
    model = shaken(transformers.ViTForImageClassification(transformers.ViTConfig(**HUB)))
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = first(model.vit(images()))
    (tmp_path / "config.json").unlink()
    for path in (tmp_path / "model.safetensors", saved(model.state_dict(), tmp_path / "own.pth")):
        filled, about = read(path)
        torch.testing.assert_close(features(filled), expected, rtol=1e-4, atol=1e-4)
        assert network_of(filled).norm_eps == 1e-12
        assert "3 heads" in about.assumed and "the file does not say" in about.assumed


@pytest.mark.parametrize(
    ("kind", "options", "left_out"),
    [
        ("CLIP", {"pre_norm": True}, ()),
        ("Siglip", {"class_token": False, "global_pool": "map"}, ("hidden_act", "layer_norm_eps")),
    ],
)
def test_the_image_encoder_of_a_pair_is_taken(kind, options, left_out, tmp_path):
    """Its config stands inside of the pair's, and may leave out what is usual."""
    text = {**HUB, "vocab_size": 99, "max_position_embeddings": 8, "eos_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=dict(HUB))
    model = shaken(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    for key in left_out:
        del document["vision_config"][key]
    (tmp_path / "config.json").write_text(json.dumps(document))
    with torch.no_grad():
        expected = model.vision_model(images()).pooler_output
    filled, _ = read(tmp_path, vit(**options))
    torch.testing.assert_close(features(filled), expected, rtol=1e-4, atol=1e-4)


def test_dinov2_of_transformers_without_its_config_has_its_epsilon(tmp_path):
    model = shaken(transformers.Dinov2Model(transformers.Dinov2Config(**HUB)))
    path = saved(model.state_dict(), tmp_path / "dinov2.pth")
    filled, about = read(path, vit(init_values=1.0))
    assert network_of(filled).norm_eps == 1e-6 and "DINOv2's" in about.assumed


def test_the_encoder_of_vit_mae_is_taken_without_its_decoder(tmp_path):
    decoder = {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2}
    config = transformers.ViTMAEConfig(
        **HUB, **decoder, decoder_num_hidden_layers=1, mask_ratio=0.0
    )
    model = shaken(transformers.ViTMAEForPreTraining(config))
    model.save_pretrained(tmp_path)
    noise = torch.arange(16.0).expand(2, -1)
    with torch.no_grad():
        expected = first(model.vit(images(), noise=noise))
    filled, _ = read(tmp_path)
    torch.testing.assert_close(features(filled), expected, rtol=1e-4, atol=1e-4)


def test_weights_of_torchvision(tmp_path):
    model = shaken(
        torchvision.models.VisionTransformer(
            image_size=SIZE, patch_size=8, num_layers=DEPTH, num_heads=HEADS, hidden_dim=WIDTH,
            mlp_dim=4 * WIDTH, num_classes=5,
        )
    )  # fmt: skip
    filled, _ = read(saved(model.state_dict(), tmp_path / "vit_b_16.pth"))
    model.heads = torch.nn.Identity()
    torch.testing.assert_close(features(filled), features(model), rtol=1e-4, atol=1e-4)


# Names of projects that are not installed, written from timm's network


def renamed(state, *rules):
    found = {}
    for key, value in state.items():
        for pattern, target in rules:
            key = re.sub(pattern, target, key)
        found[key] = value
    return found


def mmpretrain(state):
    return renamed(
        state,
        (r"^blocks\.(\d+)\.norm", r"layers.\1.ln"),
        (r"^blocks\.(\d+)\.mlp\.fc1", r"layers.\1.ffn.layers.0.0"),
        (r"^blocks\.(\d+)\.mlp\.fc2", r"layers.\1.ffn.layers.1"),
        (r"^blocks\.(\d+)\.ls1\.gamma", r"layers.\1.attn.gamma1.weight"),
        (r"^blocks\.(\d+)\.ls2\.gamma", r"layers.\1.ffn.gamma2.weight"),
        (r"^blocks\.", "layers."),
        (r"^norm\.", "ln1."),
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
    )


def deit3(state):
    return renamed(state, (r"ls([12])\.gamma", r"gamma_\1"))


def dinov2_in_chunks(state):
    """As Meta's training writes it: blocks in chunks, positions with the class token."""
    found = renamed(state, (r"^blocks\.(\d+)\.", r"blocks.0.\1."))
    return found | {"mask_token": torch.zeros(1, WIDTH)}


def clip(state):
    found = renamed(
        state,
        (r"^blocks\.(\d+)\.norm", r"transformer.resblocks.\1.ln_"),
        (r"^blocks\.(\d+)\.attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj", r"transformer.resblocks.\1.attn.out_proj"),
        (r"^blocks\.(\d+)\.mlp\.fc1", r"transformer.resblocks.\1.mlp.c_fc"),
        (r"^blocks\.(\d+)\.mlp\.fc2", r"transformer.resblocks.\1.mlp.c_proj"),
        (r"^norm_pre", "ln_pre"),
        (r"^norm\.", "ln_post."),
        (r"^patch_embed\.proj", "conv1"),
        (r"^cls_token", "class_embedding"),
        (r"^pos_embed", "positional_embedding"),
    )
    for key in ("class_embedding", "positional_embedding"):
        found[key] = found[key].squeeze(0)
    found["class_embedding"] = found["class_embedding"].squeeze(0)
    text = {"logit_scale": torch.ones(()), "text_projection": torch.ones(3)}
    return (
        {f"visual.{k}": v for k, v in found.items()} | {"visual.proj": torch.ones(WIDTH, 5)} | text
    )


@pytest.mark.parametrize(
    ("rename", "options", "prefix"),
    [
        (mmpretrain, {"init_values": 1.0}, "backbone."),
        (mmpretrain, {}, ""),
        (deit3, {"init_values": 1.0, "no_embed_class": True}, ""),
        (dinov2_in_chunks, {"init_values": 1.0}, "teacher.backbone."),
    ],
)
def test_names_of_other_projects(rename, options, prefix, tmp_path):
    model = shaken(vit(**options))
    content = {prefix + k: v for k, v in rename(model.state_dict()).items()}
    filled, _ = read(saved(content, tmp_path / "weights.pth"), vit(**options))
    torch.testing.assert_close(features(filled), features(model))


def test_a_layout_that_only_timm_renames(tmp_path):
    """AIMv2: RMS norms, SwiGLU, no class token."""
    norm = functools.partial(timm.layers.RmsNorm, eps=1e-5)
    options = {
        "class_token": False, "global_pool": "avg", "fc_norm": False, "qkv_bias": False,
        "proj_bias": False, "act_layer": "silu", "mlp_layer": timm.layers.SwiGLU,
        "norm_layer": norm, "embed_norm_layer": norm,
    }  # fmt: skip
    model = shaken(vit(**options))
    content = renamed(
        model.state_dict(),
        (r"^patch_embed\.", "preprocessor.patchifier."),
        (r"^pos_embed", "preprocessor.pos_embed"),
        (r"^norm\.", "post_trunk_norm."),
        (r"norm([12])\.", r"norm_\1."),
        (r"fc1_g", "fc1"),
        (r"fc1_x", "fc3"),
    )
    content = {k if k.startswith("pre") else f"trunk.{k}": v for k, v in content.items()}
    filled, _ = read(saved(content, tmp_path / "aimv2.safetensors"), vit(**options))
    assert features(filled).equal(features(model))


def test_registers_of_dinov2_as_meta_writes_them(tmp_path):
    """The class token has a position there, in timm's network none."""
    options = {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True}
    model = shaken(vit(**options))
    content = model.state_dict()
    position = torch.randn(1, 1, WIDTH)
    content |= {
        "register_tokens": content.pop("reg_token"),
        "cls_token": content["cls_token"] - position,
        "pos_embed": torch.cat([position, content["pos_embed"]], dim=1),
        "mask_token": torch.zeros(1, WIDTH),
    }
    filled, _ = read(saved(content, tmp_path / "reg4.pth"), vit(**options))
    torch.testing.assert_close(features(filled), features(model), rtol=1e-4, atol=1e-5)


CLIP = "vit_xsmall_patch16_clip_224"


def test_the_activation_of_clip_is_known_or_asked_for(tmp_path):
    options = {"pre_norm": True, "act_layer": timm.layers.QuickGELU}
    model = shaken(vit(**options))
    content = clip(model.state_dict())
    plain = saved(content, tmp_path / "open_clip.pt")
    with pytest.raises(ValueError, match=r"activation is not known.*QuickGELU"):
        read(plain, vit(pre_norm=True), CLIP)
    openai = {k: torch.tensor(7) for k in ("input_resolution", "context_length", "vocab_size")}
    filled, about = read(saved(content | openai, tmp_path / "openai.pt"), vit(pre_norm=True), CLIP)
    expected = features(model)
    assert "quick_gelu" in about.assumed and "OpenAI" in about.assumed
    # CLIP's epsilon is 1e-5, the tiny ViT's 1e-6
    torch.testing.assert_close(features(filled), expected, rtol=1e-2, atol=1e-3)
    for name, activation in (
        (f"{CLIP}.tinyclip_yfcc15m", "gelu"),
        ("vit_base_patch16_clip_224.openai", "quick_gelu"),
        ("vit_base_patch16_clip_quickgelu_224.openai", "quick_gelu"),
        ("vit_base_patch16_clip_224.laion2b", "gelu"),
    ):
        filled, _ = read(plain, vit(pre_norm=True), name)
        assert network_of(filled).activation == activation, name
    as_timm = checkpoint_filter_fn(dict(content), vit(pre_norm=True))
    del as_timm["head.weight"], as_timm["head.bias"]
    for key, value in as_timm.items():
        assert filled.state_dict()[key].equal(value), key


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


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"prefix": "opt/target/"},
        {"prefix": "params/", "big_vision": True},
        {"prefix": "params/", "big_vision": True, "stacked": True},
    ],
)
@pytest.mark.parametrize("size", [32, 48])
def test_arrays_of_jax_are_read_as_timm_reads_them(form, size, state, tmp_path):
    path = tmp_path / "vit.npz"
    np.savez(path, **jax_arrays(state, HEADS, **form))
    timms = vit(img_size=size)
    timms.load_pretrained(str(path))
    filled, about = read(path, vit(img_size=size))
    assert features(filled, images(size)).equal(features(timms.eval(), images(size)))
    assert "3 heads (the shapes in the file)" in about.assumed


def test_attention_pooling_of_big_vision_in_bfloat16(tmp_path):
    options = {"class_token": False, "global_pool": "map"}
    model = shaken(vit(**options)).to(torch.bfloat16).float()
    own = model.state_dict()
    arrays = jax_arrays(own | {"cls_token": torch.zeros(1, 1, WIDTH)}, HEADS, big_vision=True)
    del arrays["cls"]
    pool = {k.removeprefix("attn_pool."): v.numpy() for k, v in own.items() if "attn_pool" in k}
    key, value = (np.split(pool[f"kv.{end}"], 2) for end in ("weight", "bias"))
    of = {
        "query": (pool["q.weight"], pool["q.bias"]),
        "key": (key[0], value[0]),
        "value": (key[1], value[1]),
    }
    there = "MAPHead_0/MultiHeadDotProductAttention_0"
    for name, (weight, bias) in of.items():
        arrays[f"{there}/{name}/kernel"] = weight.T.reshape(WIDTH, HEADS, -1)
        arrays[f"{there}/{name}/bias"] = bias.reshape(HEADS, -1)
    arrays |= {
        "MAPHead_0/probe": pool["latent"],
        f"{there}/out/kernel": pool["proj.weight"].T.reshape(HEADS, -1, WIDTH),
        f"{there}/out/bias": pool["proj.bias"],
        "MAPHead_0/LayerNorm_0/scale": pool["norm.weight"],
        "MAPHead_0/LayerNorm_0/bias": pool["norm.bias"],
    }
    for number in (0, 1):
        dense = f"MAPHead_0/MlpBlock_0/Dense_{number}"
        arrays[f"{dense}/kernel"] = pool[f"mlp.fc{number + 1}.weight"].T
        arrays[f"{dense}/bias"] = pool[f"mlp.fc{number + 1}.bias"]
    path = tmp_path / "siglip.npz"
    np.savez(path, **{f"params/img/{k}": v for k, v in arrays.items()})
    timms = vit(**options)
    timms.load_pretrained(str(path))
    assert features(read(path, vit(**options))[0]).equal(features(timms))
    half = {  # as JAX writes it: two bytes without a name
        f"params/img/{k}": (v.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view("V2")
        for k, v in arrays.items()
    }
    np.savez(path, **half)
    assert features(read(path, vit(**options))[0]).equal(features(model))


def test_arrays_of_jax_tell_heads_and_blocks(state, tmp_path):
    path = tmp_path / "vit.npz"
    np.savez(path, **jax_arrays(state, 6))
    filled, _ = read(path)
    expected = with_values(state, vit(num_heads=6))
    torch.testing.assert_close(features(filled), features(expected))
    np.savez(path, **jax_arrays(state, HEADS, blocks=4))
    with pytest.raises(ValueError, match="4 blocks, this backbone has 2"):
        read(path)


# Training scripts


@pytest.mark.parametrize(
    "wrapper",
    [
        "model", "state_dict", "model_state_dict", "model_state", "net", "network", "params",
        "weights", "module", "ema_state_dict", "generator", "a.b.c",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "prefix", ["", "module.", "module.module.", "_orig_mod.", "model.backbone.", "visual.trunk."]
)
def test_any_wrapper_and_prefix(wrapper, prefix, state, tmp_path):
    content = {prefix + k: v for k, v in state.items()}
    for word in reversed(wrapper.split(".")):
        content = {word: content, "epoch": 3, "optimizer": {"state": {0: torch.zeros(3)}}}
    filled, _ = read(saved(content, tmp_path / "checkpoint.pth"))
    assert features(filled).equal(features(with_values(state)))


def test_names_between_the_names(state, tmp_path):
    """torch.compile of a block, activation checkpointing and FSDP's wrapping of each."""
    for infix in ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"):
        content = renamed(state, (r"^blocks\.(\d+)\.", rf"blocks.\1.{infix}."))
        filled, _ = read(saved(content, tmp_path / "wrapped.pth"))
        assert features(filled).equal(features(with_values(state)))


def test_what_scripts_put_beside_the_weights_does_no_harm(state, tmp_path):
    content = {
        "model": state,
        "args": argparse.Namespace(lr=1e-3, output=pathlib.PosixPath("/tmp/x"), seed=np.int64(3)),
        "best_acc": np.float64(0.8),
        "acc1": np.float32(0.5),
        "curve": np.arange(3.0),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "when": datetime.datetime(2026, 1, 1),
        "counts": defaultdict(list, {"a": [1]}),
        "torch": torch.__version__,
        "size": torch.Size([2]),
    }
    filled, _ = read(saved(content, tmp_path / "model_best.pth.tar"))
    assert features(filled).equal(features(with_values(state)))


@pytest.mark.parametrize(
    ("meant", "other"),
    [
        ("model_ema", "model"),
        ("state_dict_ema", "state_dict"),
        ("teacher", "student"),
        ("state_dict.module.base_encoder", "state_dict.module.momentum_encoder"),
        ("target_encoder", "encoder"),
    ],
)
def test_the_network_that_is_evaluated_is_taken_and_named(meant, other, state, tmp_path):
    def content(shift):
        result = {}
        for path, values in (
            (other, {k: v + shift for k, v in state.items()}),
            (meant, state),
        ):
            top, _, prefix = path.partition(".")
            result.setdefault(top, {}).update(
                {f"{prefix}.{k}" if prefix else k: v for k, v in values.items()}
            )
        return result

    path = saved(content(1.0), tmp_path / "two.pth")
    filled, about = read(path)
    assert features(filled).equal(features(with_values(state)))
    assert meant in about.assumed and repr(other)[:-1] in about.assumed
    _, about = read(saved(content(0.0), tmp_path / "equal.pth"))
    assert "weights under" not in about.assumed, "equal weights leave no choice"


@pytest.mark.parametrize("size", [{"embed_dim": 48}, {"depth": 4}])
def test_a_teacher_of_another_size_is_not_the_student(size, state, tmp_path):
    teacher = vit(**size).state_dict()
    filled, about = read(saved({"student": state, "teacher": teacher}, tmp_path / "kd.pth"))
    assert features(filled).equal(features(with_values(state)))
    assert "the only one of this size" in about.assumed


# Heads, activation and norms


def test_the_small_vit_of_moco_v3_has_12_heads(tmp_path):
    """By the tag or by the names in the file; without either MoCo's name of it is asked about."""
    name = "vit_small_patch16_224"
    model = shaken(timm.create_model(name, num_classes=0, num_heads=12, img_size=32))
    own = model.state_dict()
    pretrained = {
        "arch": "vit_small",
        "state_dict": {f"module.base_encoder.{k}": v for k, v in own.items()}
        | {f"module.momentum_encoder.{k}": v for k, v in own.items()}
        | {"module.predictor.0.weight": torch.zeros(2)},
    }
    of_linear = {
        "arch": "vit_small",
        "state_dict": {f"module.{k}": v for k, v in own.items()},
    }
    both = saved(pretrained, tmp_path / "vit-s.pth.tar")
    linear = saved(of_linear, tmp_path / "linear-vit-s.pth.tar")
    expected = features(model)
    for path, backbone in ((both, name), (both, f"{name}.moco_v3"), (linear, f"{name}.moco_v3")):
        found = load_backbone(backbone, weights=path, image_size=32)
        torch.testing.assert_close(features(found.vit), expected)
        assert "12 heads (MoCo-v3's)" in found.assumed
        assert found.mean == pytest.approx((0.485, 0.456, 0.406))
    with pytest.raises(ValueError, match=r"12 heads in MoCo-v3 and 6.*moco_v3"):
        load_backbone(name, weights=linear, image_size=32)


@pytest.mark.slow
def test_a_sweep_that_was_planned_before_keeps_its_network(tmp_path):
    """Its trials were trained on the six heads of timm's ViT-S."""
    name = "vit_small_patch16_224"
    model = timm.create_model(name, num_classes=0, img_size=32).eval()
    path = saved(model.state_dict(), tmp_path / "moco.pth")
    plain = load_backbone(name, weights=path, image_size=32)
    plan = dict(
        name=f"{name}.moco_v3", weights=str(path), weights_sha256=plain.weights_sha256,
        image_size=32, num_parameters=plain.num_parameters, resize="squash",
        interpolation="bicubic", crop_fraction=1.0, mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    found = load_planned_backbone(BackbonePlan(**plan), "cpu")
    assert network_of(found.vit).num_heads == 6
    now = load_backbone(f"{name}.moco_v3", weights=path, image_size=32)
    assert now.weights_sha256 != plain.weights_sha256, "nothing kept of the one serves the other"
    network = {"num_heads": 12, "activation": "gelu", "norm_eps": 1e-6}
    again = BackbonePlan(**{**plan, **network, "weights_sha256": now.weights_sha256})
    assert network_of(load_planned_backbone(again, "cpu").vit).num_heads == 12
    frozen = tmp_path / "frozen.safetensors"
    backbones.save_frozen(now, frozen)
    there = load_planned_backbone(again, "cpu", frozen=frozen)
    assert features(there.vit).equal(features(now.vit))


@pytest.mark.parametrize(
    ("planned", "others", "now"),
    [
        ("model", ("model_ema",), "model_ema"),
        ("model", ("momentum_model",), None),
        ("model", ("momentum_model", "a_broken_one", "student"), None),
        ("student", ("momentum_model", "teacher", "a_broken_one"), "teacher"),
    ],
)
def test_a_sweep_that_was_planned_on_other_weights_finds_them(planned, others, now, tmp_path):
    """Older versions took `model`, whatever stood beside it; the sha256 in the plan tells."""
    model = timm.create_model("test_vit", num_classes=0).state_dict()
    content = {
        name: {k: v + (i + 1) / 2 for k, v in model.items()} for i, name in enumerate(others)
    }
    if "a_broken_one" in content:
        content["a_broken_one"]["cls_token"] /= 0
    path = saved({**content, planned: model}, tmp_path / "two.pth")
    before = load_backbone("test_vit", weights=saved(model, tmp_path / "model.pth"))
    if now is None:
        with pytest.raises(ValueError, match="which one is meant cannot be told"):
            load_backbone("test_vit", weights=path)
    else:
        assert load_backbone("test_vit", weights=path).part == now
    plan = BackbonePlan(
        name="test_vit", weights=str(path), weights_sha256=before.weights_sha256,
        image_size=160, num_parameters=before.num_parameters, resize="squash",
        interpolation="bicubic", crop_fraction=1.0, mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    assert load_planned_backbone(plan, "cpu").part == planned
    changed = dataclasses.replace(plan, weights_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"weights changed|cannot be told"):
        load_planned_backbone(changed, "cpu")


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ({"arch": "vit_base_patch16_224"}, "is a vit_base_patch16_224.*width 768, not 64"),
        (
            {
                "hyper_parameters": {"embed_dim": 64, "num_heads": 4},
                "config": {"hidden_size": 64, "num_heads": 2},
            },
            "contradicts itself",
        ),
        ({"embed_dim": 64, "num_heads": 5}, "5 heads do not divide"),
        ({"patch_size": 16, "hidden_act": "mish"}, "its activation is 'mish'; supported are gelu"),
        ({"patch_size": 16, "norm_eps": -1.0}, "norm eps of -1"),
    ],
)
def test_a_file_that_says_it_is_another_network_is_refused(beside, words, tmp_path):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    path = saved({"model": state, **beside}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=words):
        load_backbone("test_vit", weights=path)


OF_NOBODY = [
    ({"num_heads": 4}, r"num_heads in the file says 4 heads, but this test_vit has 2 heads"),
    ({"args": argparse.Namespace(heads=4)}, "args.heads in the file says 4 heads"),
    ({"hyper_parameters": {"cross": {"n_heads": 4}}}, "hyper_parameters.cross.n_heads .* 4 heads"),
    ({"args": {"activation": "relu"}}, "args.activation .* the activation relu, but .* gelu"),
    ({"args": {"act_layer": "mish"}}, "args.act_layer .* the activation mish, but"),
    ({"args": {"norm_eps": 1e-3}}, "args.norm_eps .* norm eps 0.001, but this test_vit has"),
    ({"args": {"embed_dim": 512, "num_heads": 8}}, "args.num_heads .* 8 heads"),
    ({"args": {"patch_size": 96, "num_heads": 4}}, "args.num_heads .* 4 heads"),
    ({"args": {"model": "resnet50", "activation": "relu"}}, "args.activation .* relu"),
]


@pytest.mark.parametrize(("beside", "words"), OF_NOBODY)
def test_a_number_of_a_module_that_nobody_knows_is_never_obeyed(beside, words, tmp_path):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    path = saved({"model": state, **beside}, tmp_path / "other.pth")
    for name in ("test_vit", "test_vit.r160_in1k"):
        with pytest.raises(ValueError, match=f"{words}.*cannot be told.*torch.save"):
            load_backbone(name, weights=path)


def test_numbers_of_other_modules_are_not_the_network_s(tmp_path):
    """The tensors of a backbone in a detector: 2 heads and GELU, whatever its heads have."""
    of_others = {
        module: {"num_heads": 4, "activation": "relu", "norm_eps": 1e-3, "embed_dim": 64}
        for module in (
            "head", "decode_head", "bboxHead", "classifier", "linear-probe", "neck", "proj",
            "projector", "decoder", "transformer_decoder", "criterion", "optimizer", "predictor",
        )
    }  # fmt: skip
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    content = {
        "state_dict": {f"backbone.{k}": v for k, v in state.items()},
        "hyper_parameters": {**of_others, "activation": "softmax", "num_heads": 2},
        "cfg": {"model": {"head": {"inner": {"num_heads": 4}}}},
    }
    found = load_backbone("test_vit", weights=saved(content, tmp_path / "detector.pth"))
    own = load_backbone("test_vit", pretrained=False)
    assert found.network == own.network


@pytest.mark.parametrize(
    "beside", [{"embed_dim": 64}, {"hidden_size": "64"}, {"patch_size": 16}, {"arch": "my_vit"}]
)
def test_a_description_of_the_network_is_obeyed_unless_a_pretraining_is_named(beside, tmp_path):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    content = {"model": state, "config": {**beside, "num_heads": 4, "activation": "relu"}}
    path = saved(content, tmp_path / "own.pth")
    network = load_backbone("test_vit", weights=path).network
    assert (network.num_heads, network.activation) == (4, "relu")
    with pytest.raises(
        ValueError, match=r"config.num_heads .* 4 heads, but test_vit.r160_in1k has"
    ):
        load_backbone("test_vit.r160_in1k", weights=path)


@pytest.mark.parametrize(
    ("remark", "words"),
    [
        ({"patch_size": 96}, "args.patch_size in the file says 96, .* patch size of 16"),
        ({"model": "resnet50"}, "args.model in the file says 'resnet50'"),
        ({"backbone": "swin_tiny_patch4_window7_224"}, "args.backbone in the file says 'swin_tiny"),
    ],
)
def test_a_remark_that_the_tensors_disprove_is_a_warning(remark, words, tmp_path, caplog):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    path = saved({"model": state, "args": argparse.Namespace(**remark)}, tmp_path / "a.pth")
    found = load_backbone("test_vit", weights=path)
    assert found.network == load_backbone("test_vit", pretrained=False).network
    (warning,) = caplog.messages
    assert re.search(words, warning) and "the tensors are believed" in warning


def test_another_architecture_in_a_config_is_no_slip(tmp_path):
    """timm's hub says so in config.json, where nothing else is meant."""
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    path = saved(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "resnet50"}')
    with pytest.raises(ValueError, match="is a resnet50"):
        load_backbone("test_vit", weights=path)


VIT, OPEN = "config.json", "open_clip_config.json"
SIZES = {"width": 64, "head_width": 32}


@pytest.mark.parametrize(
    ("name", "document", "words"),
    [
        (VIT, {"model_type": "vit", "layer_norm_eps": None}, "layer_norm_eps is None"),
        (VIT, {"model_type": "vit", "layer_norm_eps": "1e-6"}, "layer_norm_eps is '1e-6'"),
        (VIT, {"model_type": "vit", "num_attention_heads": "3"}, "num_attention_heads is '3'"),
        (VIT, {"model_type": "vit", "num_attention_heads": 0}, "num_attention_heads is 0"),
        (VIT, {"model_type": "vit", "hidden_size": [64]}, r"hidden_size is \[64\]"),
        (VIT, {"model_type": "vit", "patch_size": [16, 8]}, r"patch_size is \[16, 8\]"),
        (VIT, {"model_type": "vit", "hidden_act": None}, "hidden_act is None"),
        (VIT, {"model_type": ["vit"]}, r"model_type is \['vit'\]"),
        (VIT, {"model_type": "clip", "vision_config": None}, "vision_config is None"),
        (
            VIT,
            {"model_type": "clip", "vision_config": {"patch_size": None}},
            "vision_config.patch_size is None",
        ),
        (VIT, {"architecture": 5}, "architecture is 5"),
        (VIT, {"architecture": "test_vit", "pretrained_cfg": None}, "pretrained_cfg is None"),
        (
            VIT,
            {"architecture": "test_vit", "model_args": {"num_heads": "x"}},
            "model_args.num_heads is 'x'",
        ),
        (VIT, ["vit"], "holds a list"),
        (OPEN, {"model_cfg": None}, "model_cfg is None"),
        (OPEN, {"model_cfg": {"vision_cfg": "ViT-B"}}, "model_cfg.vision_cfg is 'ViT-B'"),
        (OPEN, {"model_cfg": {"vision_cfg": {**SIZES, "head_width": 0}}}, "head_width is 0"),
        (OPEN, {"model_cfg": {"vision_cfg": {"width": 24}}}, "width is 24, .* head_width, 64"),
        (OPEN, {"model_cfg": {"vision_cfg": {**SIZES, "layers": [3, 4]}}}, "layers is"),
        (OPEN, {"model_cfg": {"vision_cfg": {"timm_model_name": 3}}}, "timm_model_name is 3"),
        (OPEN, {"model_cfg": {"quick_gelu": "no", "vision_cfg": SIZES}}, "quick_gelu is 'no'"),
        (OPEN, {"preprocess_cfg": []}, r"preprocess_cfg is \[\]"),
        (OPEN, {"preprocess_cfg": {"interpolation": 3}}, "interpolation is 3"),
        ("preprocessor_config.json", {"resample": [1]}, r"resample is \[1\]"),
        ("preprocessor_config.json", {"image_mean": [0.5, "a", 0.5]}, "image_mean is"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "image_std is"),
        ("preprocessor_config.json", {"image_std": [10**400] * 3}, "image_std is"),
        ("preprocessor_config.json", {"do_normalize": "false"}, "do_normalize is 'false'"),
    ],
)
def test_a_malformed_description_is_named_with_its_key(name, document, words, tmp_path):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    path = saved(state, tmp_path / "model.safetensors")
    (tmp_path / name).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=words) as error:
        load_backbone("test_vit", weights=path)
    assert str(error.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        (
            "vit_base_patch32_clip_224",
            "vit_base_patch32_clip_quickgelu_224",
            "the activation quick_gelu, not gelu; give --backbone",
        ),
        ("vit_small_patch16_224", "vit_small_patch16_rope_ape_224", "which is no plain ViT"),
    ],
)
def test_a_network_of_equal_shapes_that_is_another_is_refused(name, said, words, tmp_path):
    """Only the name in the file tells them apart."""
    with torch.device("meta"):
        into = timm.create_model(name, num_classes=0)
    hint = Hint(value=said, source="arch in the file", standing=Standing.DESCRIPTION)
    kernel = torch.ones(into.patch_embed.proj.weight.shape)
    path = saved({"patch_embed.proj.weight": kernel}, tmp_path / "x.pth")
    found = networks(read_weights(path))[0]
    with pytest.raises(ValueError, match=words):
        decide_network(
            into,
            name,
            path=path,
            found=found,
            converted=convert(found.layout, found.tensors, ""),
            hints=Hints(architectures=[hint]),
            recipe=None,
        )


@pytest.mark.parametrize(
    ("config", "document", "expected"),
    [
        ("config.json", {"architecture": "test_vit"}, "2 heads, gelu, norm eps 1e-06 (config.json"),
        (
            "config.json",
            {"architecture": "vit_base_patch16_224"},
            ValueError("is a vit_base_patch16_224"),
        ),
        (
            "config.json",
            {"model_type": "clip", "text_config": {}, "vision_config": {"num_attention_heads": 4}},
            "4 heads, quick_gelu, norm eps 1e-05 (config.json)",
        ),
        (
            "open_clip_config.json",
            {"model_cfg": {"quick_gelu": True, "vision_cfg": {"width": 64, "head_width": 16}}},
            "4 heads, quick_gelu (open_clip_config.json)",
        ),
    ],
)
def test_descriptions_beside_a_hub_s_file_are_heard(config, document, expected, tmp_path):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    path = saved(state, tmp_path / "model.safetensors")
    (tmp_path / config).write_text(json.dumps(document))
    if isinstance(expected, ValueError):
        with pytest.raises(ValueError, match=str(expected)):
            load_backbone("test_vit", weights=path)
    else:
        assert expected in load_backbone("test_vit", weights=path).assumed
    elsewhere = path.rename(tmp_path / "my_own_name.safetensors")
    assert "the file does not say" in load_backbone("test_vit", weights=elsewhere).assumed


def test_what_the_file_says_of_itself_is_said(tmp_path):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    silent = load_backbone("test_vit", weights=saved(state, tmp_path / "a.pth"))
    assert "2 heads, gelu, norm eps 1e-06 (of test_vit; the file does not say)" in silent.assumed
    assert "a guess: timm's for test_vit" in silent.normalised_by
    content = {"state_dict": state, "args": argparse.Namespace(model="test_vit")}
    named = load_backbone("test_vit", weights=saved(content, tmp_path / "b.pth"))
    assert "2 heads, gelu, norm eps 1e-06 (args.model" in named.assumed
    tagged = load_backbone("test_vit.r160_in1k", weights=tmp_path / "a.pth")
    assert tagged.normalised_by == "of the pretraining 'r160_in1k'"


def test_the_plan_says_what_was_assumed_and_who_normalises(tmp_path):
    class NoSuite:
        default_backbone = None

    path = saved(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "a.pth")
    request = SweepRequest(suite="x", backbone="timm/test_vit", weights=path, image_size=32)
    plan, _ = _plan_backbone(request, NoSuite())
    assert plan.name == "test_vit"
    assert plan.network == load_backbone("test_vit", weights=path).network
    network, normalised = plan.sources()
    assert network.startswith("its network: 2 heads, gelu") and "the file does not say" in network
    assert normalised.startswith("its images: mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (a guess")
    asked = SweepRequest(
        suite="x", backbone="test_vit", weights=path, image_size=32, normalization="imagenet"
    )
    assert "(--normalization imagenet)" in _plan_backbone(asked, NoSuite())[0].sources()[1]


def test_images_are_normalised_as_the_folder_says(tmp_path):
    config = {**HUB, "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2}
    config |= {"intermediate_size": 192, "patch_size": 16}
    transformers.ViTModel(transformers.ViTConfig(**config)).save_pretrained(tmp_path)
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    found = load_backbone("test_vit", weights=tmp_path, image_size=32)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert found.interpolation == "bilinear"
    assert found.normalised_by == "preprocessor_config.json"
    document = json.loads((tmp_path / "config.json").read_text())
    for key, value in (("patch_size", 8), ("num_hidden_layers", 12), ("model_type", "beit")):
        (tmp_path / "config.json").write_text(json.dumps({**document, key: value}))
        with pytest.raises(ValueError, match="beit" if key == "model_type" else "belong together"):
            load_backbone("test_vit", weights=tmp_path, image_size=32)


# What is no such network


def spoilt(state, **changes):
    return {**state, **changes}


@pytest.mark.parametrize(
    ("content", "into", "words"),
    [
        (lambda s: vit(depth=4).state_dict(), {}, "4 blocks, this backbone has 2"),
        (lambda s: vit(patch_size=16).state_dict(), {}, "patches of 16×16 pixels, .* has 8×8"),
        (lambda s: vit(in_chans=1).state_dict(), {}, "images of 1 channels"),
        (lambda s: vit(embed_dim=48).state_dict(), {}, "width 48, this backbone has 24"),
        (lambda s: vit(reg_tokens=4).state_dict(), {}, "4 register tokens, .* has none"),
        (lambda s: s, {"reg_tokens": 4}, "no register tokens, this backbone has 4"),
        (lambda s: vit(init_values=1.0).state_dict(), {}, "a layer scale, .* has none"),
        (lambda s: s, {"init_values": 1.0}, "no layer scale, this backbone has one"),
        (lambda s: vit(pre_norm=True).state_dict(), {}, "a norm before the blocks"),
        (lambda s: vit(global_pool="avg").state_dict(), {}, "fc_norm"),
        (lambda s: vit(class_token=False, global_pool="map").state_dict(), {}, "no class token"),
        (lambda s: vit(qk_norm=True).state_dict(), {}, "normalised queries and keys"),
        (lambda s: vit(qkv_bias=False).state_dict(), {}, "missing: blocks.0.attn.qkv.bias"),
        (lambda s: vit(no_embed_class=True).state_dict(), {}, "16 positions, which are no square"),
        (lambda s: spoilt(s, dist_token=torch.ones(1, 1, WIDTH)), {}, "distillation token"),
        (
            lambda s: spoilt(s, **{"blocks.0.attn.relative_position_bias_table": torch.ones(4, 3)}),
            {},
            "relative positions .BEiT",
        ),
        (lambda s: {"layer1.0.conv1.weight": torch.ones(3)}, {}, "holds a ResNet"),
        (lambda s: {"epoch": 5, "loss": 0.4}, {}, "no ViT is found in it, it holds epoch, loss"),
        (lambda s: torch.ones(3), {}, "a single tensor"),
        (lambda s: spoilt(s, cls_token=torch.ones(1, 1, WIDTH) / 0), {}, "holds infinity"),
        (lambda s: spoilt(s, cls_token=torch.ones(1, 1, WIDTH).int()), {}, "cls_token is int32"),
        (lambda s: spoilt(s, cls_token=torch.ones(1, 1, WIDTH) * 1j), {}, "cls_token is complex64"),
        (lambda s: spoilt(s, cls_token=torch.ones(1, 1, WIDTH).to_sparse()), {}, "is sparse"),
        (lambda s: spoilt(s, cls_token=torch.ones(1, 1, WIDTH, device="meta")), {}, "no values"),
        (
            lambda s: spoilt(s, cls_token=torch.ones(1).expand(1, 10**6, 10**6)),
            {},
            "claims 1,000,000,000,000 values",
        ),
    ],
)  # fmt: skip
def test_another_network_is_refused_in_numbers(content, into, words, state, tmp_path):
    path = saved(content(state), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=words) as error:
        read(path, vit(**into))
    assert str(error.value).startswith(f"{path}: ")


def test_the_backbone_that_would_fit_is_named(tmp_path):
    state = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).state_dict()
    with pytest.raises(ValueError, match=r"width 192, .* has 64.*vit_tiny_patch16_224"):
        load_backbone("test_vit", weights=saved(state, tmp_path / "tiny.pth"))


def test_two_tensors_for_one_place_are_refused(state, tmp_path):
    content = {**state, "blocks.0.0.norm1.bias": state["blocks.0.norm1.bias"] + 1}
    with pytest.raises(ValueError, match=r"another tensor of the file is blocks\.0\.norm1\.bias"):
        read(saved(content, tmp_path / "twice.pth"))


def test_fine_tuned_mae_calls_its_norm_another_name(tmp_path):
    """Its one norm stands behind the mean of the tokens, where the tag mae reads it."""
    timms = shaken(timm.create_model("test_vit", num_classes=0, global_pool="avg", img_size=32))
    path = saved({"model": timms.state_dict()}, tmp_path / "mae_finetuned.pth")
    filled, _ = read(path, timm.create_model("test_vit", num_classes=0, img_size=32), "x.mae")
    backbones._read_as_mae(filled)
    torch.testing.assert_close(features(filled), features(timms))
    with pytest.raises(ValueError, match="fc_norm"):
        load_backbone("test_vit", weights=path)


def test_patches_are_resampled_for_flexivit_alone(state, tmp_path):
    path = tmp_path / "flexivit.npz"
    np.savez(path, **jax_arrays(state, HEADS))
    timms = vit(patch_size=16)
    timms.load_pretrained(str(path))
    filled, _ = read(path, vit(patch_size=16), "flexivit_small")
    torch.testing.assert_close(features(filled), features(timms))
    with pytest.raises(ValueError, match="patches of 8×8 pixels, this backbone has 16×16"):
        read(path, vit(patch_size=16))


def test_a_mapping_that_holds_itself_is_read_once(state, tmp_path):
    content = {"model": dict(state)}
    for i in range(50):
        content[f"again{i}"] = content
    filled, _ = read(saved(content, tmp_path / "knot.pth"))
    assert features(filled).equal(features(with_values(state)))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.npz"])
def test_weights_that_are_not_finite_are_refused(name, state, tmp_path):
    spoiled = {k: v.clone() for k, v in state.items()}
    spoiled["blocks.1.mlp.fc1.weight"][0, 0] = float("nan")
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, **jax_arrays(spoiled, HEADS))
        words = "encoderblock_1/MlpBlock_3/Dense_0/kernel holds NaN"
    else:
        saved(spoiled, path)
        words = r"blocks\.1\.mlp\.fc1\.weight holds NaN \(1 of"
    with pytest.raises(ValueError, match=words):
        read(path)


# What is no file of weights


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def files(folder):
    """Every kind of file that is not weights, and what is said of it."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 346293852\n"
    network = torch.nn.Linear(2, 2)
    torch.save({"model": {}, "cfg": Evil()}, folder / "evil")
    torch.save(timm.create_model("test_vit"), folder / "whole")
    torch.jit.trace(network, torch.ones(1, 2)).save(folder / "script")
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("weights.bin", b"1")
    torch.save({"a": torch.ones(1000)}, folder / "short")
    whole = (folder / "short").read_bytes()
    safe = safetensors.torch.save({"a": torch.ones(1000)})
    index = b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    np.savez(folder / "bomb", **{"embedding/kernel": np.zeros(3)})
    np.savez_compressed(folder / "zeros", **{"embedding/kernel": np.zeros(2_000_000)})
    return {
        "pointer": (pointer, "pointer of Git LFS.*346,293,852 bytes.*git lfs pull"),
        "page": (b"<!DOCTYPE html><html><title>404</title>", "web page .'404'"),
        "empty": (b"", "is empty"),
        "gzip": (gzip.compress(whole), "gunzip"),
        "json": (b'{"error": "Not Found"}', "JSON text .error"),
        "index": (index, "several files"),
        "text": (b"not weights", "begins with b'not weights'"),
        "zeros_only": (bytes(9000), "zero bytes"),
        "torn_zip": (whole[:-100], "cut short"),
        "torn_safe": (safe[:-100], "cut short"),
        "torn_header": (safe[:30], "cut short"),
        "pickle5": (b"\x80\x05\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.", "another protocol"),
        "pickle2": (pickle.dumps({"a": 1}, protocol=2), "something else than torch.save"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        "evil": (None, "could run code: .*print"),
        "whole": (None, "whole pickled model .*VisionTransformer.*state_dict"),
        "script": (None, "TorchScript.*torch.jit.load"),
        "zip": (None, "zip archive with weights.bin"),
        "zeros.npz": (None, "would unpack to 16,000,"),
    }


def test_what_is_no_weights_is_called_what_it_is(tmp_path, capsys):
    for name, (content, words) in files(tmp_path).items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        for suffix in (".pth", ".safetensors", ".npz"):  # the name is no promise
            named = path.with_name(f"x_{name}{suffix}")
            named.write_bytes(path.read_bytes())
            with pytest.raises(ValueError, match=words) as error:
                read(named)
            assert "\n" not in str(error.value) and "weights_only argument" not in str(error.value)
    assert "executed" not in capsys.readouterr().out


def test_folders_that_hold_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"folder without model.safetensors .* nothing"):
        read(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="several files"):
        read(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        read(tmp_path / "absent.pth")


def test_weights_that_were_saved_on_a_gpu_are_read_here(state, tmp_path, monkeypatch):
    """The file names the device of every tensor; here there is none such."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        for zipped in (True, False):
            path = tmp_path / f"cuda{zipped}.pth"
            torch.save(state, path, _use_new_zipfile_serialization=zipped)
            assert b"cuda:0" in path.read_bytes()
    for zipped in (True, False):
        filled, _ = read(tmp_path / f"cuda{zipped}.pth")
        assert features(filled).equal(features(with_values(state)))


# Names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_base_patch16_224_in21k", "now it is vit_base_patch16_224.augreg_in21k"),
        ("vit_small_patch16_224_dino", "now it is vit_small_patch16_224.dino"),
        ("google/vit-base-patch16-224", "looks like a model of the Hugging Face hub"),
        ("timm/vit_base_patch16_224.nonsense", "has no pretraining 'nonsense'"),
        ("test_vit3", "pool_include_prefix"),
    ],
)
def test_names_that_are_not_taken_say_what_is(name, words):
    with pytest.raises(ValueError, match=words):
        load_backbone(name, pretrained=False)


def test_the_hub_s_prefix_is_no_other_backbone():
    for prefix in ("timm/", "hf_hub:timm/", "hf-hub:timm/"):
        assert load_backbone(f"{prefix}test_vit", pretrained=False).name == "test_vit"
