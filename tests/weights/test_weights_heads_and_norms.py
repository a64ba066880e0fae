"""Heads, activation and norms of a weights file: stated, known or assumed, and said."""

import argparse
import dataclasses
import json
import re

import pytest
import timm
import torch
import transformers
from tiny_weights import HUB, features, saved, shaken

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
        (VIT, {"architecture": "test_vit", "pretrained_cfg": []}, r"pretrained_cfg is \[\]"),
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
            arguments={},
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
