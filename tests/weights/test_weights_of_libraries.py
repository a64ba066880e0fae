"""Weights of transformers and torchvision: features equal to the library's own."""

import json

import pytest
import timm
import torch
import torchvision
import transformers
from tiny_weights import DEPTH, HEADS, HUB, SIZE, WIDTH, features, images, read, saved, shaken, vit

from methods.network import network_of


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
