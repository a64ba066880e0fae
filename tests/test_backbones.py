"""Backbones: by name or from a file of any common layout, or refused with a reason."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.models import VisionTransformer
from tiny_backbones import FAMILIES, SIZE, shake, tiny_batch, tiny_vit

from methods import METHODS, backbones, built, load_backbone, tune

NAME, WIDTH, DEPTH, HEADS = "test_vit", 64, 6, 2
"""The smallest plain ViT that timm knows by name."""


def weights():
    """Values for it, nowhere near zero."""
    vit = timm.create_model(NAME, num_classes=0).eval()
    generator = torch.Generator().manual_seed(5)
    return {
        key: value + 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in vit.state_dict().items()
    }


def save(state, path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def assert_same_weights(vit, expected):
    for key, value in expected.items():
        torch.testing.assert_close(vit.state_dict()[key], value, msg=key)


# From a file

LAYOUTS = {
    "plain.safetensors": lambda s: s,
    "plain.pth": lambda s: s,
    "state_dict.tar": lambda s: {"state_dict": s, "epoch": 3},
    "mae.pth": lambda s: {
        "model": s | {"mask_token": torch.zeros(1), "decoder_embed.weight": torch.zeros(1)}
    },
    "data_parallel.pt": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "moco_v3.tar": lambda s: {
        "state_dict": {f"module.base_encoder.{k}": v for k, v in s.items()}
        | {f"module.momentum_encoder.{k}": v + 1 for k, v in s.items()}
        | {"module.base_encoder.head.0.weight": torch.zeros(2)}
        | {"module.predictor.0.weight": torch.zeros(2)}
    },
    "dino.pth": lambda s: {
        "student": {f"module.backbone.{k}": v + 1 for k, v in s.items()},
        "teacher": {f"backbone.{k}": v for k, v in s.items()},
    },
    "encoder.pth": lambda s: {f"encoder.{k}": v for k, v in s.items()},
    "lightning.ckpt": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
    "classifier.pth": lambda s: (
        s | {"head.weight": torch.zeros(9, WIDTH), "head.bias": torch.zeros(9)}
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_common_checkpoints_are_understood(layout, tmp_path):
    state = weights()
    path = save(LAYOUTS[layout](state), tmp_path / layout)
    backbone = load_backbone(NAME, weights=path)
    assert_same_weights(backbone.vit, state)
    assert backbone.weights == path and backbone.pretraining == "file"
    plain = load_backbone(NAME, weights=save(state, tmp_path / "again.pth"))
    assert backbone.weights_sha256 == plain.weights_sha256
    assert not backbone.vit.training
    assert not any(p.requires_grad for p in backbone.vit.parameters())


def test_half_precision_files_become_single(tmp_path):
    state = {k: v.half() for k, v in weights().items()}
    backbone = load_backbone(NAME, weights=save(state, tmp_path / "half.safetensors"))
    assert {p.dtype for p in backbone.vit.parameters()} == {torch.float32}
    single = {k: v.float() for k, v in state.items()}
    assert_same_weights(backbone.vit, single)
    larger = load_backbone(NAME, weights=tmp_path / "half.safetensors", image_size=192)
    resampled = timm.layers.resample_abs_pos_embed(single["pos_embed"], [12, 12])
    torch.testing.assert_close(larger.vit.pos_embed, resampled, msg="resampled in half precision")


def test_npz_files_in_the_layout_of_the_original_vit(tmp_path):
    """Written out again from the layout: kernels as (in, out) and heads apart."""
    vit_state = weights()
    state = {k: v.numpy() for k, v in vit_state.items()}
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    for i in range(DEPTH):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for number, norm in ((0, "norm1"), (2, "norm2")):
            arrays[f"{theirs}/LayerNorm_{number}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/LayerNorm_{number}/bias"] = state[f"{ours}.{norm}.bias"]
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(WIDTH * part, WIDTH * (part + 1))
            weight = state[f"{ours}.attn.qkv.weight"][rows]
            arrays[f"{attention}/{name}/kernel"] = weight.T.reshape(WIDTH, HEADS, -1)
            arrays[f"{attention}/{name}/bias"] = state[f"{ours}.attn.qkv.bias"][rows].reshape(
                HEADS, -1
            )
        arrays[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(
            HEADS, -1, WIDTH
        )
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for number, layer in ((0, "fc1"), (1, "fc2")):
            weight = state[f"{ours}.mlp.{layer}.weight"]
            arrays[f"{theirs}/MlpBlock_3/Dense_{number}/kernel"] = weight.T
            arrays[f"{theirs}/MlpBlock_3/Dense_{number}/bias"] = state[f"{ours}.mlp.{layer}.bias"]
    np.savez(tmp_path / "vit.npz", **arrays)
    backbone = load_backbone(NAME, weights=tmp_path / "vit.npz")
    assert_same_weights(backbone.vit, vit_state)
    np.savez(tmp_path / "other.npz", nonsense=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz"):
        load_backbone(NAME, weights=tmp_path / "other.npz")


def without(state, *keys):
    return {k: v for k, v in state.items() if k not in keys}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: without(s, "norm.weight"), "missing: norm.weight"),
        (lambda s: s | {"extra.weight": torch.zeros(1)}, "unexpected: extra.weight"),
        (lambda s: s | {"norm.bias": torch.zeros(7)}, r"norm.bias is \(7,\), not \(64,\)"),
        (lambda s: s | {f"extra{i}.x": torch.zeros(1) for i in range(9)}, "and 4 more"),
        (
            lambda s: {f"{n}.{k}": v + ord(n) for n in "ab" for k, v in s.items()},
            "several networks",
        ),
        (lambda s: [1, 2], "holds a list"),
    ],
)
def test_what_does_not_fit_is_named(spoil, words, tmp_path):
    state = weights()
    path = save(spoil(state), tmp_path / "spoilt.pth")
    with pytest.raises(ValueError, match=words) as error:
        load_backbone(NAME, weights=path)
    assert "spoilt.pth" in str(error.value)


def test_files_that_are_no_weights_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    (tmp_path / "text.npz").write_text("not weights")
    for path in (*sorted(tmp_path.iterdir()), tmp_path / "absent.pth"):
        with pytest.raises(ValueError, match=path.name):
            load_backbone(NAME, weights=path)


# Size of the images


def test_position_embeddings_are_resampled_for_another_image_size(tmp_path):
    state = weights()
    path = save(state, tmp_path / "weights.pth")
    backbone = load_backbone(NAME, weights=path, image_size=64)
    assert backbone.image_size == 64 and backbone.vit.pos_embed.shape == (1, 17, 64)
    expected = timm.layers.resample_abs_pos_embed(state["pos_embed"], [4, 4])
    torch.testing.assert_close(backbone.vit.pos_embed, expected)
    images, _ = tiny_batch(size=64)
    assert tune(backbone.vit, METHODS["vpt"](), num_classes=3)(images).shape == (6, 3)


def test_an_image_size_between_patches_is_refused():
    with pytest.raises(ValueError, match="60 is not a multiple of its patch size 16; 48 or 64"):
        load_backbone(NAME, pretrained=False, image_size=60)


# By name


def test_what_the_images_must_look_like_comes_from_timm():
    backbone = load_backbone(NAME, pretrained=False)
    assert (backbone.mean, backbone.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (backbone.interpolation, backbone.crop_pct) == ("bicubic", 0.95)
    assert backbone.image_size == 160
    assert (backbone.readout, backbone.pretraining) == ("cls", "random")
    assert backbone.num_parameters == sum(v.numel() for v in weights().values())


def test_random_weights_are_always_the_same_and_disturb_nothing():
    state = torch.get_rng_state()
    first = load_backbone(NAME, pretrained=False)
    assert torch.get_rng_state().equal(state)
    assert load_backbone(NAME, pretrained=False).weights_sha256 == first.weights_sha256


def test_the_pretrainings_of_the_papers_are_told_apart():
    configs = {
        tag: backbones._image_config("vit_base_patch16_224", tag)
        for tag in ("orig_in21k", "augreg_in21k", "mae", "moco_v3")
    }
    assert {tag: config["tag"] for tag, config in configs.items()} == {t: t for t in configs}
    assert configs["orig_in21k"]["mean"] == (0.5, 0.5, 0.5)
    for tag in ("mae", "moco_v3"):
        assert configs[tag]["mean"] == pytest.approx((0.485, 0.456, 0.406))


def test_mae_reads_the_mean_of_its_tokens_through_the_pretrained_norm(tmp_path):
    path = save(weights(), tmp_path / "mae.pth")
    vit = load_backbone(NAME, weights=path).vit
    backbone = load_backbone(NAME, weights=path)
    backbones._read_as_mae(backbone.vit)
    images, _ = tiny_batch(size=160)
    linear = tune(backbone.vit, METHODS["linear"](), num_classes=3)
    assert linear.readout == "mean_no_cls"
    tokens = vit.blocks(vit._pos_embed(vit.patch_embed(images)))
    expected = vit.norm(tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(linear.prefix(images), expected)
    torch.testing.assert_close(backbone.vit(images), expected, msg="timm's own forward agrees")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_bse_patch16_224", "did you mean 'vit_base_patch16_224'"),
        ("nonsense", "Supported are"),
        ("resnet50", "resnet50 cannot be tuned"),
        ("hiera_tiny_224", "hiera_tiny_224 cannot be tuned: it is of no known family"),
        ("deit_base_distilled_patch16_224", "VisionTransformerDistilled"),
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock"),
        ("vit_base_patch16_224.orig_in21", "there is orig_in21k"),
        ("vit_base_patch16_224.moco_v3", "give a file"),
    ],
)
def test_what_cannot_be_tuned_is_refused_by_name(name, words):
    with pytest.raises(ValueError, match=words):
        load_backbone(name)


def test_tune_refuses_what_the_walk_would_get_wrong():
    for options, words in (
        ({"patch_drop_rate": 0.5}, "drops patches"),
        ({"global_pool": "avgmax"}, "'avgmax'"),
        ({"block_fn": timm.models.vision_transformer.ResPostBlock}, "ResPostBlock"),
        ({"attn_layer": "diff"}, "DiffAttention"),
    ):
        vit = VisionTransformer(**{**SIZE, **options})
        with pytest.raises(ValueError, match=words):
            tune(vit, METHODS["vpt"](), num_classes=3)


def test_an_unreachable_hub_is_one_clear_error(monkeypatch):
    def refuse(*arguments, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(built.HfApi, "model_info", refuse)
    monkeypatch.setattr(built, "try_to_load_from_cache", lambda *arguments: None)
    with pytest.raises(ValueError, match=r"deit_tiny_patch16_224.*no route.*give a file"):
        load_backbone("deit_tiny_patch16_224")


def test_tune_refuses_gated_attention():
    vit = tiny_vit()
    vit.blocks[1].attn.gate = torch.nn.Linear(24, 24)
    with pytest.raises(ValueError, match="block 1 gates its attention"):
        tune(vit, METHODS["vpt"](), num_classes=3)


# Families


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_stand_behind_class_token_and_registers(family):
    vit = tiny_vit(family)
    model = shake(tune(vit, METHODS["vpt"](num_tokens=2, deep=False), num_classes=3))
    tokens = torch.arange(1.0, 22.0)[: vit.num_prefix_tokens + 16, None].expand(1, -1, 24)
    joined = model._insert(tokens, model.tuning.prompts(0, 1))
    first = {"registers": 5, "siglip": 0, "gap": 0}.get(family, 1)
    assert joined[:, first : first + 2].equal(model.tuning.prompt.detach())
    assert joined[:, :first].equal(tokens[:, :first])
    assert joined[:, first + 2 :].equal(tokens[:, first:])


@pytest.mark.parametrize(("family", "readout"), [("siglip", "attn_pool"), ("gap", "mean_no_cls")])
def test_backbones_without_class_token_read_as_they_were_trained(family, readout):
    model = tune(tiny_vit(family), METHODS["vpt"](), num_classes=3)
    assert model.readout == readout
    recipe = METHODS["vpt"]().recipe()
    for wrong in {"cls", "attn_pool"} - {readout}:
        changed = type(recipe)(readout=wrong)
        with pytest.raises(ValueError, match=f"readout='{wrong}', but the backbone has no"):
            tune(tiny_vit(family), METHODS["vpt"](), num_classes=3, recipe=changed)


# What comes with the package


def test_the_quickstart_backbone_is_what_its_description_says():
    description = backbones._ASSETS / "vit_quickstart.json"
    if not description.is_file():
        with pytest.raises(ValueError, match="not part of this installation"):
            load_backbone("vit_quickstart")
        return
    config = json.loads(description.read_text())
    backbone = load_backbone("vit_quickstart")
    assert backbone.image_size == config["img_size"]
    assert list(backbone.mean) == config["mean"]
    larger = load_backbone("vit_quickstart", image_size=config["img_size"] * 2)
    assert larger.image_size == 2 * config["img_size"]
    with pytest.raises(ValueError, match="not a multiple"):
        load_backbone("vit_quickstart", image_size=config["img_size"] + 1)


def test_the_hash_is_of_names_shapes_and_values(tmp_path):
    state = weights()
    before = load_backbone(NAME, weights=save(state, tmp_path / "a.pth")).weights_sha256
    assert len(before) == len(hashlib.sha256().hexdigest())
    state["norm.bias"][3] += 1e-6
    assert load_backbone(NAME, weights=save(state, tmp_path / "b.pth")).weights_sha256 != before


def test_the_hash_does_not_hang_on_how_positions_were_resampled(tmp_path):
    """Bicubic resampling rounds differently from processor to processor; the file is the same."""
    path = save(weights(), tmp_path / "a.pth")
    hashes = {load_backbone(NAME, weights=path, image_size=s).weights_sha256 for s in (112, 224)}
    assert len(hashes) == 1
