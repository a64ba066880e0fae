"""Names of networks are known from timm's files, without timm."""

import subprocess
import sys

import pytest
import timm
from timm.models._registry import _deprecated_models

from methods import timm_names
from methods.timm_names import refuse_unknown_backbone


@pytest.fixture
def before_timm(monkeypatch):
    monkeypatch.delitem(sys.modules, "timm")


def test_every_name_that_timm_knows_passes(before_timm):
    for name in [*timm.list_models(), *timm.list_pretrained(), *_deprecated_models]:
        refuse_unknown_backbone(name)


def test_its_plain_vits_are_suggested():
    modules = [module.split(".")[-1] for module in timm_names.MODULES]
    assert sorted(timm_names.plain_vits_in_files()) == sorted(
        n for m in modules for n in timm.list_models(module=m)
    )


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
