"""`methods` and `spaces` say what there is, with the numbers of the papers."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.plan.space import shipped_spaces


def ask(*arguments: str) -> list[dict]:
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.mark.parametrize(
    ("method", "values", "trained"),
    [
        ("linear", [], 0),
        ("full", [], 85_798_656),
        ("partial", ["num_blocks=1"], 7_089_408),
        ("bias", [], 102_912),
        ("vpt", ["deep=false", "num_tokens=50"], 38_400),
        ("vpt", ["deep=true", "num_tokens=50"], 460_800),
        ("spt", ["deep=false", "num_tokens=100"], 76_800),
        ("spt", ["deep=true", "num_tokens=20"], 184_320),
        ("gatevpt", ["num_tokens=100"], 76_823),
        ("gatevpt", ["num_tokens=1"], 791),
        ("lspt", ["num_tokens=10", "hidden=96"], 10 * 768 + 221_952),
        ("apt", ["num_tokens=200", "rank=4"], 1_916_940),
        ("lora", ["rank=8"], 294_912),
        ("adapter", ["bottleneck=8"], 165_984),
    ],
)
def test_trained_parameters_on_vit_b_are_the_published_ones(method, values, trained):
    (row,) = ask("methods", method, *values)
    assert row["trained_parameters"] == trained


def test_spt_deep_stays_under_four_thousandths_of_the_backbone():
    (row,) = ask("methods", "spt", "num_tokens=20")
    assert row["percent_of_backbone"] < 0.4


def test_a_reconstruction_is_called_one():
    titles = {row["method"]: row["title"] for row in ask("methods")}
    assert [name for name, title in titles.items() if "reconstruction" in title] == ["lspt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["methods", "vptt"], "did you mean 'vpt'"),
        (["methods", "vpt", "num_token=1"], "did you mean 'num_tokens'"),
        (["methods", "vpt", "num_tokens"], "expected name=value"),
        (["methods", "vpt", "num_tokens=0"], "must be a whole number, at least 1"),
        (["spaces", "show", "vpt_dep"], "did you mean 'vpt_deep'"),
        (["methods", "--backbones", "dinvo2"], "did you mean 'dinov2'"),
        (["methods", "--backbones", "vit_base_patch16_224.foo"], "no backbone has 'vit_base_"),
        (["methods", "--backbones", "xyzzy"], "no backbone has 'xyzzy' in its name"),
    ],
)
def test_a_wrong_name_or_value_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_every_space_is_listed_and_shown():
    assert [row["space"] for row in ask("spaces", "list")] == shipped_spaces()
    result = CliRunner().invoke(app, ["spaces", "show", "gatevpt"], catch_exceptions=False)
    for expected in ("gate_init", "gating_depth", "1,960 configurations"):
        assert expected in result.output


def test_backbones_are_listed_by_what_people_call_them():
    shown = CliRunner().invoke(app, ["methods", "--backbones"], catch_exceptions=False).output
    for known in ("AIMv2", "SigLIP 2", "BEiT-3", "I-JEPA", "C-RADIO", "MetaCLIP 2", "DFN"):
        assert f"\n{known}  " in shown
    assert "vit_base_patch16_224.orig_in21k" in shown


def test_a_text_lists_the_names_that_have_it_and_why_others_are_refused():
    asked = ["methods", "--backbones", "dinov2"]
    shown = CliRunner().invoke(app, asked, catch_exceptions=False).output
    assert shown.count(".lvd142m") == 8 and "apache-2.0" in shown and "518" in shown
    asked = ["methods", "--backbones", "resnet50"]
    shown = CliRunner().invoke(app, asked, catch_exceptions=False).output
    assert "\nresnet50 cannot be tuned: it is of timm's resnet, of no family" in f"\n{shown}"


@pytest.mark.parametrize("name", ["ResNet50", "timm/resnet50.a1_in1k"])
def test_a_name_is_refused_however_it_is_typed(name):
    asked = ["methods", "--backbones", name]
    shown = CliRunner().invoke(app, asked, catch_exceptions=False).output
    assert shown.startswith("resnet50 cannot be tuned: ")


def test_listing_backbones_imports_neither_torch_nor_timm():
    code = (
        "import sys; from orchestrator.cli import main\n"
        "sys.argv = ['orchestrator', 'methods', '--backbones', 'mae']\n"
        "try: main()\n"
        "finally: assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
