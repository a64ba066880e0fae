"""Models of a hub and of folders in its format: built as their config.json and their users say."""

import json
import re
import sys

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from hub_folders import PUBLISHED, images, published
from hub_stand_in import REVISION, Hub, running_hub
from timm.layers.mlp import SwiGLUPacked

from methods import METHODS, backbones, load_backbone, tune
from methods.agreement import check_agreement
from methods.backbones import Decided
from methods.hub_names import hub_name
from methods.timm_names import refuse_unknown_backbone
from orchestrator.plan.backbone_arguments import parse_arguments


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as hub:
        for constant, value in (  # what HF_ENDPOINT and HF_HOME say, which were read at the start
            ("ENDPOINT", hub.url),
            (
                "HUGGINGFACE_CO_URL_TEMPLATE",
                f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            ),
            ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ):
            monkeypatch.setattr(huggingface_hub.constants, constant, value)
        monkeypatch.setenv("HF_TOKEN", "hf_secret_of_a_test")
        yield hub


def put(hub: Hub, repository: str, folder) -> None:
    for file in folder.iterdir():
        hub.files[f"{repository}/{file.name}"] = file.read_bytes()


def features(vit):
    with torch.no_grad():
        return vit.forward_features(images())


# What they are built as


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_folder_is_the_network_that_its_users_build(name, tmp_path):
    model, said = published(name, tmp_path / name)
    found = load_backbone(f"local-dir:{tmp_path / name}", arguments=said)
    torch.testing.assert_close(features(found.vit), features(model), rtol=0, atol=0)
    check_agreement(found.vit)  # the walk computes it, too
    assert (found.name, found.weights) == (f"local-dir:{name}", tmp_path / name)
    assert found.architecture == PUBLISHED[name][0] and found.image_size == 32
    assert (found.mean, found.std) == ((0.7, 0.5, 0.6), (0.2, 0.3, 0.25))
    assert found.normalised_by == "config.json"
    assert tune(found.vit, METHODS["vpt"](num_tokens=2), num_classes=3)(images()).shape == (2, 3)


def test_what_was_decided_needs_no_config_json(tmp_path):
    _, said = published("uni2-h", tmp_path / "uni2-h")
    name = f"local-dir:{tmp_path / 'uni2-h'}"
    found = load_backbone(name, arguments=said)
    backbones.save_frozen(found, tmp_path / "frozen.safetensors")
    (tmp_path / "uni2-h" / "config.json").unlink()
    decided = Decided(
        network=found.network,
        part=found.part,
        architecture=found.architecture,
        arguments=found.arguments,
    )
    again = load_backbone(name, weights=tmp_path / "uni2-h", decided=decided, image_size=32)
    frozen = backbones.load_frozen(
        found.name, tmp_path / "frozen.safetensors", image_size=32, decided=decided
    )
    for other in (again, frozen):
        assert other.weights_sha256 == found.weights_sha256
        assert features(other.vit).equal(features(found.vit))


def test_what_no_tensor_shows_is_in_the_digest(tmp_path):
    """Half of a gated MLP is the gate: which one, the shapes do not say."""
    name = f"local-dir:{tmp_path / 'uni2-h'}"
    _, said = published("uni2-h", tmp_path / "uni2-h")
    digests = {
        load_backbone(name, arguments={**said, "mlp_layer": mlp, "act_layer": act}).weights_sha256
        for mlp in ("SwiGLUPacked", "GluMlp")
        for act in ("SiLU", "GELU")
    }
    assert len(digests) == 4
    again = load_backbone(name, arguments={**said, "init_values": 1e-3})
    assert again.weights_sha256 in digests  # scales are those of the file


def test_where_nothing_is_pooled_the_class_token_is_read_and_told(tmp_path):
    _, said = published("virchow2", tmp_path / "virchow2")
    found = load_backbone(f"local-dir:{tmp_path / 'virchow2'}", arguments=said)
    assert found.readout == "cls" and "config.json pools nothing" in found.assumed
    mean = load_backbone(
        f"local-dir:{tmp_path / 'virchow2'}",
        arguments={**said, "global_pool": "avg", "fc_norm": False},
    )
    assert mean.readout == "mean_no_cls" and "pools nothing" not in mean.assumed


@pytest.mark.parametrize(
    ("architecture", "arguments", "readout"),
    [
        ("vit_small_patch16_dinov3", {"class_token": False}, "mean_no_cls"),
        ("vit_pe_core_tiny_patch16_384", {}, "cls"),
        ("swin_tiny_patch4_window7_224", {"depths": [1, 1], "num_heads": [1, 2]}, "mean_no_cls"),
    ],
)
def test_of_every_family_something_is_read_where_nothing_is_pooled(
    architecture, arguments, readout, tmp_path
):
    tiny = {"embed_dim": 24, "img_size": 64, "depth": 1, "num_heads": 2, "global_pool": ""}
    if "depths" in arguments:
        del tiny["depth"]
    found = in_folder(architecture, {**tiny, **arguments}, tmp_path)
    assert found.readout == readout and found.assumed.startswith("config.json pools nothing: ")
    check_agreement(found.vit)


def in_folder(architecture, arguments, folder):
    """The backbone of a folder with timm's network of these arguments."""
    model = timm.create_model(architecture, num_classes=0, **arguments)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    document = {"architecture": architecture, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(document))
    return load_backbone(f"local-dir:{folder}")


def test_weights_beside_the_config_of_another_network_are_refused(tmp_path):
    """Heads stand in no tensor of any family: they would fit, and compute something else."""
    name, small = "vit_small_patch16_dinov3", {"embed_dim": 48, "depth": 1}
    in_folder(name, {**small, "num_heads": 3, "img_size": 64}, tmp_path)
    given = {"weights": tmp_path, "image_size": 64}
    with pytest.raises(ValueError, match=r"built with num_heads=3; give --backbone local-dir:"):
        load_backbone(name, arguments=small, **given)
    assert load_backbone(name, arguments={**small, "num_heads": 3}, **given)
    config = {"model_type": "dinov3_vit", "num_attention_heads": 3, "layer_norm_eps": 1e-5}
    for change, words in (
        ({}, "heads 3, this backbone has 6"),
        ({"num_attention_heads": 6, "layer_norm_eps": 1e-3}, "norm eps 0.001, this"),
        ({"num_attention_heads": 6, "patch_size": 14}, "do not belong together"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=words):
            load_backbone(name, arguments=small, **given)


def test_an_empty_entry_of_a_config_says_nothing(tmp_path):
    in_folder("test_vit", {}, tmp_path)
    document = {"architecture": "test_vit", "model_args": None, "pretrained_cfg": None}
    (tmp_path / "config.json").write_text(json.dumps(document))
    assert load_backbone(f"local-dir:{tmp_path}").arguments == {}


def test_of_an_mae_it_is_told_that_timm_reads_another_token(tmp_path):
    published("uni", tmp_path / "model", pretrained_cfg={"tag": "mae"})
    found = load_backbone(f"local-dir:{tmp_path / 'model'}")
    assert found.readout == "cls" and "large_patch16_224.mae --weights FOLDER" in found.assumed


def test_without_mean_and_std_they_are_timms_default_and_told(tmp_path):
    published("uni", tmp_path / "uni", pretrained_cfg={"input_size": [3, 32, 32]})
    found = load_backbone(f"local-dir:{tmp_path / 'uni'}")
    assert found.mean == pytest.approx((0.485, 0.456, 0.406))
    assert "config.json does not say" in found.normalised_by


_SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 4}
_STAGES = {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]}


@pytest.mark.parametrize(
    ("architecture", "arguments", "size", "readout"),
    [
        ("vit_small_patch16_dinov3", _SMALL, 64, "cls"),  # where timm takes the patches' mean
        ("vit_pe_core_tiny_patch16_384", _SMALL, 64, "attn_pool"),
        ("beit_base_patch16_224", _SMALL, 64, "mean_no_cls"),
        ("swin_tiny_patch4_window7_224", _STAGES, 112, "mean_no_cls"),
    ],
)
def test_a_folder_may_be_of_any_family(architecture, arguments, size, readout, tmp_path):
    built = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    model = timm.create_model(architecture, num_classes=7, img_size=size, **built).eval()
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({"model": model.state_dict()}, folder / "pytorch_model.bin")
    document = {"architecture": architecture, "model_args": {**arguments, "img_size": size}}
    (folder / "config.json").write_text(json.dumps(document))
    found = load_backbone(f"local-dir:{folder}")
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert found.vit.forward_features(image).equal(model.forward_features(image))
    check_agreement(found.vit)
    assert (found.readout, found.image_size, found.network) == (readout, size, None)
    short = {k: v for k, v in model.state_dict().items() if "fc2" not in k}
    torch.save(short, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model: not the weights of this.*missing: .*fc2"):
        load_backbone(f"local-dir:{folder}")


# What is refused


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"architecture": "resnet50"}, "config.json: resnet50 cannot be tuned"),
        ({"architecture": None, "model_type": "vit"}, "a 'vit' of transformers, not an arch"),
        ({"architecture": None}, "says no architecture"),
        ({"model_args": {"in_chans": 6}}, "other than three channels"),
        (
            {"model_args": {"evil_layer": "os.system"}},
            "config.json: model_args: evil_layer: timm's",
        ),
        ({"model_args": {"act_layer": "os.system"}}, "act_layer is 'os.system'; known are gelu"),
        ({"model_args": {"mlp_layer": ["x"]}}, "model_args.mlp_layer is"),
        ({"model_args": {"depth": "many"}}, "depth is 'many', not a whole number"),
        ({"model_args": {"depth": 10**9}}, "depth is 1000000000; 1 to 256 blocks"),
        ({"model_args": {"depth": 0}}, "depth is 0; 1 to 256 blocks"),
        ({"model_args": {"reg_tokens": 10**9}}, "at most 65,536"),
        ({"model_args": {"patch_size": [8] * 99}}, "a list of 99 numbers"),
        ({"model_args": {"act_layer": "x" * 10**6}}, "^.{1,300}$"),
        ({"model_args": {"patch_size": 8, "embed_dim": 60_000}}, "too many for its weights of"),
        ({"model_args": []}, None),
        ({"model_args": [1]}, "not names and values"),
    ],
)
def test_a_config_of_a_stranger_is_refused_by_name(document, words, tmp_path):
    published("gigapath", tmp_path / "model", **document)
    with pytest.raises(ValueError, match=words) as error:
        load_backbone(f"local-dir:{tmp_path / 'model'}")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"init_value": 1e-5}, "no such argument; did you mean 'init_values'"),
        ({"mlp_layer": "SwiGLUPackd"}, "mlp_layer is 'SwiGLUPackd'; did you mean 'SwiGLUPacked'"),
        ({"qkv_bias": "maybe"}, "qkv_bias is 'maybe', not true or false"),
        ({"reg_tokens": 2.5}, "reg_tokens is 2.5, not a whole number"),
        ({"global_pool": "best"}, "global_pool is 'best', not one of"),
        ({"block_fn": "Block"}, "block_fn: a class of timm's own cannot be said here"),
        ({"img_size": 64}, "said by --image-size"),
        ({"num_heads": 5}, "cannot be built with"),
    ],
)
def test_an_argument_is_refused_by_name(arguments, words, tmp_path):
    published("uni", tmp_path / "uni")
    with pytest.raises(ValueError, match=words):
        load_backbone(f"local-dir:{tmp_path / 'uni'}", arguments=arguments)


def test_the_arguments_of_a_class_of_settings_are_its_fields():
    name = "naflexvit_base_patch16_gap"
    said = {"depth": 1, "embed_dim": 48, "num_heads": 4, "pos_embed_grid_size": (5, 5)}
    found = load_backbone(name, image_size=64, pretrained=False, arguments=said)
    assert found.vit.embeds.pos_embed.shape == (1, 5, 5, 48)
    with pytest.raises(ValueError, match="no such argument; did you mean 'depth'"):
        load_backbone(name, pretrained=False, arguments={"dept": 1})
    with pytest.raises(ValueError, match="pos_embed_ar_preserving is 'yes', not true or false"):
        load_backbone(name, pretrained=False, arguments={"pos_embed_ar_preserving": "yes"})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("local-dir:", "names no folder"),
        ("local-dir:/nowhere/at/all", "there is no such folder"),
        ("hf-hub:uni", "give hf-hub:OWNER/NAME"),
        ("hf-hub:a/b/c", "give hf-hub:OWNER/NAME"),
        ("MahmoodLab/uni", "named hf-hub:MahmoodLab/uni"),
    ],
)
def test_a_name_is_refused_before_timm_is_there(name, words, monkeypatch):
    monkeypatch.delitem(sys.modules, "timm")
    with pytest.raises(ValueError, match=words):
        refuse_unknown_backbone(name)


def test_names_of_timms_own_hub_stay_those_of_its_registry():
    assert hub_name("hf-hub:timm/vit_tiny_patch16_224.augreg_in21k") is None
    assert str(hub_name("hf_hub:paige-ai/Virchow2@v1.0")) == "hf-hub:paige-ai/Virchow2@v1.0"


@pytest.mark.parametrize(
    ("build", "into", "words"),
    [
        ({"init_values": 0.1}, {}, "init_values=1e-05"),
        ({"reg_tokens": 4, "no_embed_class": True}, {}, "reg_tokens=4 no_embed_class=True"),
        ({"class_token": False, "global_pool": "avg"}, {}, "class_token=False global_pool=avg"),
        ({"class_token": False, "global_pool": "map"}, {}, "class_token=False global_pool=map"),
        (
            {"pre_norm": True, "qkv_bias": False},
            {"act_layer": "GELU"},
            "act_layer=GELU pre_norm=True qkv_bias=False",
        ),
        ({"global_pool": "avg"}, {}, "global_pool=avg"),
        ({"qk_norm": True, "depth": 2}, {}, "depth=2 qk_norm=True"),
        (
            {"mlp_layer": SwiGLUPacked, "mlp_ratio": 5.375},
            {},
            "SwiGLUPacked act_layer=SiLU mlp_ratio",
        ),
        ({}, {"init_values": 0.1, "reg_tokens": 2}, "init_values=null reg_tokens=0"),
    ],
)
def test_weights_that_do_not_fit_name_the_arguments_with_which_they_would(
    build, into, words, tmp_path
):
    model = timm.create_model("test_vit", num_classes=0, **build)
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    with pytest.raises(ValueError, match="not the weights of this ViT") as error:
        load_backbone("test_vit", weights=path, arguments=into)
    said = re.search("--backbone-args (.*) would make it fit", str(error.value))
    assert said and words in said[1]
    arguments = {**into, **parse_arguments(said[1].split())}
    assert load_backbone("test_vit", weights=path, arguments=arguments)


# The hub


def test_a_password_in_the_address_of_a_hub_is_not_shown(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://me:secret@localhost:1/x")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"could not be fetched.*--weights FOLDER") as error:
        load_backbone("hf-hub:a/b")
    assert "secret" not in str(error.value)


def test_a_model_of_the_hub_is_fetched_once_and_known_by_its_commit(hub, tmp_path):
    model, said = published("uni2-h", tmp_path / "source")
    put(hub, "MahmoodLab/UNI2-h", tmp_path / "source")
    found = load_backbone("hf-hub:MahmoodLab/UNI2-h", arguments=said)
    assert features(found.vit).equal(features(model))
    assert (found.revision, found.weights) == (REVISION, None)
    here = load_backbone(f"local-dir:{tmp_path / 'source'}", arguments=said)
    assert here.weights_sha256 == found.weights_sha256
    assert hub.tokens == {"Bearer hf_secret_of_a_test"}
    hub.files.clear()  # as if it was away
    decided = Decided(
        network=found.network,
        architecture=found.architecture,
        arguments=found.arguments,
        revision=REVISION,
    )
    again = load_backbone(found.name, decided=decided, image_size=32)
    assert again.weights_sha256 == found.weights_sha256 and again.revision == REVISION
    pinned = load_backbone(f"hf-hub:MahmoodLab/UNI2-h@{REVISION}", arguments=said)
    assert pinned.weights_sha256 == found.weights_sha256


def test_an_older_copy_is_taken_where_the_hub_does_not_answer(hub, tmp_path, monkeypatch, caplog):
    published("uni", tmp_path / "source")
    put(hub, "MahmoodLab/uni", tmp_path / "source")
    found = load_backbone("hf-hub:MahmoodLab/uni")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    again = load_backbone("hf-hub:MahmoodLab/uni")
    assert again.weights_sha256 == found.weights_sha256
    assert f"of commit {REVISION[:12]}" in caplog.text
    with pytest.raises(ValueError, match="could not be fetched") as error:
        load_backbone("hf-hub:MahmoodLab/other")
    assert "local-dir:FOLDER" in str(error.value)


def test_what_the_hub_refuses_is_one_line_with_what_to_do(hub, tmp_path):
    published("uni", tmp_path / "source")
    put(hub, "MahmoodLab/uni", tmp_path / "source")
    hub.gated.add("MahmoodLab/uni")
    hub.files |= {"some/code": b"", "some/code/README.md": b"", "only/config/config.json": b"{}"}
    for name, words in (
        ("MahmoodLab/uni", "is gated.*HF_TOKEN.*local-dir:FOLDER"),
        ("MahmoodLab/unknown", "no such model, or it is private"),
        ("MahmoodLab/uni@v9", "no revision 'v9'"),
        ("some/code", "has no config.json"),
        ("only/config", "has none of model.safetensors"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            load_backbone(f"hf-hub:{name}")
        assert "\n" not in str(error.value) and "secret" not in str(error.value)
