"""Names of networks are known from timm's files, without timm."""

import re
import subprocess
import sys
from fnmatch import fnmatch

import pytest
import timm
from timm.models._registry import _deprecated_models

from methods import backbone_catalogue, timm_names
from methods.backbone_catalogue import architectures
from methods.timm_names import refuse_unknown_backbone


@pytest.fixture
def before_timm(monkeypatch):
    monkeypatch.delitem(sys.modules, "timm")


def test_every_name_that_timm_knows_passes(before_timm):
    for name in [*timm.list_models(), *timm.list_pretrained(), *_deprecated_models]:
        refuse_unknown_backbone(name)


def test_what_can_be_tuned_is_suggested():
    assert timm_names.tuned_names() == [one.name for one in architectures()]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("swin_base_patch4_window7_225", "swin_base_patch4_window7_224"),
        ("eva02_base_patch14_225", "eva02_base_patch14_224"),
        ("beit_base_patch16_225", "beit_base_patch16_224"),
        ("vit_pe_core_base_patch16_225", "vit_pe_core_base_patch16_224"),
        ("VIT_base_patch16_dinov4", "vit_base_patch16_dinov3"),
    ],
)
def test_a_slip_is_understood_in_every_family(typed, meant):
    assert f"did you mean {meant!r}" in timm_names.unknown_backbone(typed)


def test_what_is_said_to_be_supported_is():
    refused = backbone_catalogue.refused("")
    for pattern in re.findall(r"[a-z]\w*_(?:\*_\w+|\*)", timm_names.SUPPORTED):
        if pattern not in ("vit_*", "deit_*", "swinv2_*"):  # with exceptions, which are named
            is_so = not any(fnmatch(name, pattern) for name in refused)
            assert is_so == (pattern != "swinv2_cr_*"), pattern


@pytest.mark.parametrize("name", ["vit_tiny", "timm/vit_tiny_patch16_223", "vit_quickstar"])
def test_others_do_not(before_timm, name):
    with pytest.raises(ValueError, match="timm has no backbone"):
        refuse_unknown_backbone(name)


def test_where_its_files_cannot_be_read_nothing_is_refused(before_timm, monkeypatch):
    monkeypatch.setattr(timm_names, "_sources", dict)
    refuse_unknown_backbone("vit_tiny_patch16_223")
    assert "Supported are" in timm_names.unknown_backbone("vit_tiny_patch16_223")


def test_who_uses_timm_may_have_networks_of_their_own():
    refuse_unknown_backbone("my_vit")


def test_it_imports_nothing():
    code = (
        "from methods.timm_names import refuse_unknown_backbone as refuse\n"
        "refuse('vit_tiny_patch16_224')\n"
        "import sys; assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
