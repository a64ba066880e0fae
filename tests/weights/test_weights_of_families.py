"""Weights of networks that are no plain ViTs: of timm, transformers and their authors."""

import re

import pytest
import timm
import torch
import transformers
from tiny_backbones import tiny_vit
from tiny_weights import HUB, images, read, renamed, saved, shaken

from methods import Linear, load_backbone, tune
from methods.agreement import check_agreement
from methods.backbones import Decided, load_frozen, save_frozen

NAMES = [
    *("vit_tiny_patch16_dinov3_qkvb", "eva02_tiny_patch14_224", "vit_pe_core_tiny_patch16_384"),
    *("vit_small_patch16_rope_mixed_224", "test_vit_relpos"),
    *("naflexvit_base_patch16_radio_v3", "naflexvit_base_patch16_parfac_gap"),
]


def features(vit):
    with torch.no_grad():
        return tune(vit, Linear(), num_classes=2).prefix(images())


def other_values(name, **changes):
    """The same tiny network with values of its own."""
    return shaken(tiny_vit(name, **changes))


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_by_name_is_loaded_saved_and_loaded_again(name, tmp_path):
    size = 4 * (14 if "patch14" in name else 16)
    there = timm.create_model(name, num_classes=0, img_size=size, depth=2)
    backbone = load_backbone(name, pretrained=False, image_size=size, arguments={"depth": 2})
    check_agreement(backbone.vit)
    path = saved(shaken(there).state_dict(), tmp_path / "w.safetensors")
    filled = load_backbone(name, weights=path, image_size=size, arguments={"depth": 2})
    assert filled.vit.state_dict().keys() == there.state_dict().keys()
    assert all(v.equal(there.state_dict()[k]) for k, v in filled.vit.state_dict().items())
    save_frozen(filled, tmp_path / "frozen.safetensors")
    decided = Decided(network=filled.network, arguments=filled.arguments)
    again = load_frozen(name, tmp_path / "frozen.safetensors", image_size=size, decided=decided)
    assert again.weights_sha256 == filled.weights_sha256 and again.readout == filled.readout
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert again.vit(image).equal(filled.vit(image))


@pytest.mark.parametrize(
    ("name", "arguments", "readout"),
    [
        ("vit_small_patch16_dinov3", {}, "cls"),
        ("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", {}, "cls"),
        ("vit_small_patch16_dinov3", {"global_pool": "avg"}, "mean_no_cls"),
        ("eva02_tiny_patch14_224", {}, "mean_no_cls"),
        ("vit_pe_core_tiny_patch16_384", {}, "attn_pool"),
    ],
)
def test_dinov3_is_read_as_its_authors_do_unless_told(name, arguments, readout):
    backbone = load_backbone(name, pretrained=False, arguments={"depth": 1, **arguments})
    assert backbone.readout == readout


@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "gated"])
def test_dinov3_of_transformers_gives_its_features(gated, tmp_path):
    options = {"use_gated_mlp": True, "hidden_act": "silu"} if gated else {}
    biases = {"query_bias": not gated, "value_bias": not gated}
    config = transformers.DINOv3ViTConfig(**{**HUB, **options, **biases}, num_register_tokens=4)
    model = shaken(transformers.DINOv3ViTModel(config))
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(images()).pooler_output
    mlp = {"swiglu_mlp": True, "swiglu_align_to": 8} if gated else {}
    into = tiny_vit(
        "dinov3", depth=2, global_pool="token", qkv_bias=not gated, **mlp, norm_layer=norm(1e-5)
    )
    filled, _ = read(tmp_path, into)
    torch.testing.assert_close(features(filled), expected, rtol=1e-4, atol=1e-4)


def norm(eps):
    return lambda *args, **options: timm.layers.LayerNorm(*args, eps=eps, **options)


def test_dinov3_under_its_authors_names(tmp_path):
    """Its biases are in one tensor, in which those of the keys are not used."""
    there = other_values("dinov3", qkv_bias=True)
    state = renamed(
        there.state_dict(),
        (r"gamma_([12])", r"ls\1.gamma"),
        (r"reg_token", "storage_tokens"),
    )
    for key in [key for key in state if key.endswith("q_bias")]:
        q, v = state.pop(key), state.pop(key.replace("q_bias", "v_bias"))
        state[key.replace("q_bias", "qkv.bias")] = torch.cat([q, torch.randn_like(q), v])
        state[key.replace("q_bias", "qkv.bias_mask")] = torch.ones(3 * len(q))
    state |= {"mask_token": torch.zeros(1, 24), "rope_embed.periods": torch.ones(2)}
    path = saved(state, tmp_path / "dinov3.pth")
    filled, _ = read(path, tiny_vit("dinov3", qkv_bias=True))
    assert features(filled).equal(features(there))
    with pytest.raises(ValueError, match=r"biases of queries and values .* end in _qkvb"):
        read(path, tiny_vit("dinov3"))
    blank = {k: torch.zeros_like(v) if k.endswith("qkv.bias") else v for k, v in state.items()}
    read(saved(blank, tmp_path / "blank.pth"), tiny_vit("dinov3"))


def test_a_plain_vits_file_fills_a_naflex_network(tmp_path):
    """timm's authors convert their own so: the same blocks, positions on a grid."""
    there = other_values("registers", reg_tokens=1, class_token=False, global_pool="avg")
    path = saved(there.state_dict(), tmp_path / "vit.pth")
    into = tiny_vit(
        "naflex", class_token=False, reg_tokens=1, global_pool="avg", init_values=0.5,
        pos_embed_grid_size=(4, 4),
    )  # fmt: skip
    filled, _ = read(path, into)
    torch.testing.assert_close(features(filled), features(there), rtol=1e-5, atol=1e-5)


def test_eva_clip_beside_its_text_encoder(tmp_path, capfd):
    there = other_values("eva02")
    state = renamed(
        there.state_dict(),
        (r"mlp\.fc1_g", "mlp.w1"),
        (r"mlp\.fc1_x", "mlp.w2"),
        (r"mlp\.fc2", "mlp.w3"),
        (r"mlp\.norm", "mlp.ffn_ln"),
        (r"attn\.norm", "attn.inner_attn_ln"),
        (r"attn\.([qv])_proj\.bias", r"attn.\1_bias"),
        (r"^", "visual."),
    )
    state |= {"text.token_embedding.weight": torch.ones(4, 24), "logit_scale": torch.ones(1)}
    filled, about = read(saved(state, tmp_path / "eva.pt"), tiny_vit("eva02"))
    assert features(filled).equal(features(there)) and about.part == "visual."
    assert capfd.readouterr() == ("", "")


def test_perception_encoder_under_its_authors_names(tmp_path):
    there = other_values("perception_core")
    state = renamed(
        there.state_dict(),
        (r"patch_embed\.proj", "conv1"),
        (r"pos_embed", "positional_embedding"),
        (r"^cls_token", "class_embedding"),
        (r"^norm_pre", "ln_pre"),
        (r"^norm\.", "ln_post."),
        (r"^blocks\.", "transformer.resblocks."),
        (r"(resblocks\.\d+)\.norm([12])", r"\1.ln_\2"),
        (r"(resblocks\.\d+)\.attn\.qkv\.", r"\1.attn.in_proj_"),
        (r"(resblocks\.\d+)\.attn\.proj", r"\1.attn.out_proj"),
        (r"(resblocks\.\d+)\.mlp\.fc1", r"\1.mlp.c_fc"),
        (r"(resblocks\.\d+)\.mlp\.fc2", r"\1.mlp.c_proj"),
        (r"^attn_pool\.latent", "attn_pool.probe"),
        (r"^attn_pool\.norm", "attn_pool.layernorm"),
        (r"^attn_pool\.proj", "attn_pool.attn.out_proj"),
        (r"^attn_pool\.mlp\.fc1", "attn_pool.mlp.c_fc"),
        (r"^attn_pool\.mlp\.fc2", "attn_pool.mlp.c_proj"),
    )
    for end in ("weight", "bias"):
        q, kv = state.pop(f"attn_pool.q.{end}"), state.pop(f"attn_pool.kv.{end}")
        state[f"attn_pool.attn.in_proj_{end}"] = torch.cat([q, kv])
    state["class_embedding"] = state["class_embedding"].flatten()
    state["positional_embedding"] = state["positional_embedding"][0]
    state["proj"] = torch.ones(24, 12)
    state = {f"visual.{key}": value for key, value in state.items()}
    filled, _ = read(saved(state, tmp_path / "pe.pt"), tiny_vit("perception_core"))
    assert features(filled).equal(features(there))


def test_positions_are_resampled_for_the_size_of_the_images(tmp_path):
    there = other_values("eva02")
    path = saved(there.state_dict(), tmp_path / "w.pth")
    filled, _ = read(path, tiny_vit("eva02", img_size=48))
    there.set_input_size((48, 48))
    torch.testing.assert_close(filled.pos_embed, there.pos_embed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blocks.1.gamma_1"), "missing: blocks.1.gamma_1"),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected: extra"),
        (lambda s: s.update({"blocks.0.gamma_2": torch.ones(7)}), r"gamma_2 is \(7,\), not \(24,"),
        (lambda s: [s.pop(k) for k in list(s) if "blocks.2" in k], r"missing: blocks\.2\.attn"),
        (lambda s: s.update(cls_token=torch.full((1, 1, 24), torch.nan)), "cls_token holds NaN"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(change, words, tmp_path):
    state = tiny_vit("dinov3").state_dict()
    change(state)
    path = saved(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=words) as refused:
        read(path, tiny_vit("dinov3"))
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


def test_a_plain_vit_is_told_that_a_file_is_of_another_family(tmp_path):
    path = saved(tiny_vit("eva02").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=re.escape("(BEiT, EVA)")):
        read(path)
