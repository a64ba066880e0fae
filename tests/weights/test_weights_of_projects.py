"""Names of projects that are not installed, written from timm's network: the same features."""

import functools

import pytest
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from tiny_weights import WIDTH, features, read, renamed, saved, shaken, vit

from methods.network import network_of


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
