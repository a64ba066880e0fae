"""What a backbone is built with: as it is typed, in a file, in Python, in a plan planned again."""

import pytest
from hub_folders import published
from suites import write_photos

from methods import load_backbone
from orchestrator.api.keywords import _written, request_from
from orchestrator.api.plan_again import keywords_of_plan
from orchestrator.api.requests import PlanRequest
from orchestrator.cli.command import _each_with_its_flag
from orchestrator.data.cache import ImageCache
from orchestrator.plan.backbone_arguments import check_arguments, parse_arguments
from orchestrator.plan.plan import load_plan, save_plan
from orchestrator.plan.prepare import plan_sweep
from orchestrator.support.yaml_io import read_yaml
from orchestrator.training.backbone import load_planned_backbone


def test_values_are_read_as_yaml_has_them():
    typed = "init_values=1e-5 reg_tokens=8 class_token=false fc_norm=null act_layer=SiLU d=[2,6]"
    assert parse_arguments(typed.split()) == {
        "init_values": 1e-5,
        "reg_tokens": 8,
        "class_token": False,
        "fc_norm": None,
        "act_layer": "SiLU",
        "d": (2, 6),
    }


@pytest.mark.parametrize("text", ["reg_tokens", "=3", "a b=3", "x={a: 1}", "x=2026-01-01", "x= "])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(ValueError, match=r"--backbone-args.*(expected|found)"):
        parse_arguments([text])


def test_one_is_not_said_twice():
    with pytest.raises(ValueError, match="reg_tokens stands there twice"):
        parse_arguments(["reg_tokens=1", "reg_tokens=2"])


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (
            "x --backbone-args a=1 b=[1] --out y z",
            "x --backbone-args a=1 --backbone-args b=[1] --out y z",
        ),
        ("--backbone-args a=1 photos c=2", "--backbone-args a=1 photos c=2"),
        ("--method a b=2", "--method a b=2"),
    ],
)
def test_several_may_stand_behind_one_flag(typed, read):
    assert " ".join(_each_with_its_flag(typed.split(" "))) == read


def test_in_python_they_are_a_dictionary():
    given = {"backbone_args": {"init_values": 1e-5, "class_token": False, "act_layer": "SiLU"}}
    request = request_from(PlanRequest, ("photos",), given)
    assert parse_arguments(request.backbone_args) == given["backbone_args"]


def test_a_pair_of_python_is_a_list():
    values = [f"{name}={_written(one)}" for name, one in {"patch_size": (8, 8), "a": 1e-5}.items()]
    assert parse_arguments(values) == {"patch_size": (8, 8), "a": 1e-5}
    with pytest.raises(ValueError, match="argument act_layer is <class"):
        load_backbone("test_vit", pretrained=False, arguments={"act_layer": dict})
    built = load_backbone("test_vit", pretrained=False, arguments={"patch_size": [8, 8]})
    assert built.arguments == {"patch_size": (8, 8)}


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="names its weights itself"):
        check_arguments("hf-hub:a/b", has_weights=True, arguments={})
    with pytest.raises(ValueError, match="timm's own weights of vit_tiny"):
        check_arguments("vit_tiny_patch16_224", has_weights=False, arguments={"reg_tokens": 1})


def test_a_plan_keeps_them_and_is_planned_again_with_them(tmp_path):
    published("virchow2", tmp_path / "virchow2")
    write_photos(tmp_path / "photos", cat=8, dog=8)
    keywords = {
        "backbone": f"local-dir:{tmp_path / 'virchow2'}",
        "backbone_args": {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"},
        "methods": ["linear"],
        "epochs": 2,
    }
    cache = ImageCache(tmp_path / "cache")

    def planned(given):
        request = request_from(PlanRequest, (str(tmp_path / "photos"),), given)
        return plan_sweep(request, name="photos", cache=cache, say=lambda line: None)[0]

    plan = planned(keywords)
    assert plan.backbone.name == "local-dir:virchow2"
    assert plan.backbone.arguments["global_pool"] == "token"
    assert any("mlp_layer=SwiGLUPacked" in line for line in plan.backbone.sources())
    path = tmp_path / "sweep.yaml"
    save_plan(plan, tmp_path)
    kept = load_plan(tmp_path)
    assert kept.backbone == plan.backbone
    (tmp_path / "virchow2" / "config.json").rename(tmp_path / "config.json")
    assert (
        load_planned_backbone(kept.backbone, "cpu").weights_sha256 == plan.backbone.weights_sha256
    )
    (tmp_path / "config.json").rename(tmp_path / "virchow2" / "config.json")
    told = keywords_of_plan(read_yaml(path), path, {})
    again = planned({key: told[key] for key in ("backbone", "backbone_args", "methods")})
    assert again.backbone.weights_sha256 == plan.backbone.weights_sha256
    assert again.backbone.arguments == plan.backbone.arguments
