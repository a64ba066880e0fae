"""Of every network that timm knows it is written whether it can be tuned, and why not.

With what is said to be supported, the walk gives timm's own features.
"""

import json
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import timm
import torch
from packaging.requirements import Requirement

from methods import agreement, backbone_catalogue
from methods.assemble import tune
from methods.backbone_catalogue import architectures, refused
from methods.backbone_groups import GROUPS, group_of
from methods.linear import Linear
from methods.write_backbone_catalogue import document

pytestmark = pytest.mark.slow

_OF_ONE_WIDTH = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64, "patch_size": 16}
_OF_STAGES = {
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 4,
    "img_size": 64,
}
TINY = {"SwinTransformer": _OF_STAGES, "SwinTransformerV2": _OF_STAGES}
"""What makes a network of the family small, and leaves it what it is; others are of one width."""
GROUPED = {"num_kv_heads": (2, 1)}
"""As many keys and values as queries in one block, fewer in the next."""


def test_the_oldest_timm_that_may_be_installed_is_the_one_that_was_tried():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    (needed,) = (
        one for one in map(Requirement, project["project"]["dependencies"]) if one.name == "timm"
    )
    tried = json.loads(backbone_catalogue.FILE.read_text())["timm"]
    assert f">={tried}" in str(needed.specifier).split(",")
    assert str(needed) == agreement.TESTED


def test_every_network_of_timm_is_accepted_or_refused_as_it_is_written():
    written, now = json.loads(backbone_catalogue.FILE.read_text()), document()
    before, after = verdicts(written), verdicts(now)
    changes = [
        f"{name}: {before.get(name, 'not there')} -> {after.get(name, 'not there')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    assert not changes, (
        f"written with timm {written['timm']}, this is {now['timm']}. Look at what changed, then "
        "run python -m methods.write_backbone_catalogue:\n" + "\n".join(changes)
    )


def verdicts(whole: dict) -> dict[str, str]:
    """In a line each, of every network."""
    modules = whole["refused_modules"].items()
    return {
        **{name: f"accepted, {about}" for name, about in whole["accepted"].items()},
        **{name: f"refused, {why}" for name, why in whole["refused"].items()},
        **{
            name: f"refused, {of['why']} ({module})"
            for module, of in modules
            for name in of["names"]
        },
    }


def test_no_network_of_timm_is_forgotten_or_told_twice():
    told = [*(each.name for each in architectures()), *refused("")]
    assert sorted(told) == sorted(timm.list_models())


def test_no_group_is_of_names_that_timm_has_not():
    names = [*timm.list_models(), *timm.list_pretrained()]
    patterns = [pattern for group in GROUPS for pattern in group.patterns]
    assert [each for each in patterns if not any(fnmatchcase(name, each) for name in names)] == []


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("vit_base_patch16_224.orig_in21k", "ViT, ImageNet-21k"),
        ("vit_base_patch16_clip_224.metaclip_400m", "MetaCLIP"),
        ("vit_huge_patch14_clip_378.metaclip2_worldwide", "MetaCLIP 2"),
        ("vit_base_patch16_siglip_256.v2_webli", "SigLIP 2"),
        ("vit_base_patch16_siglip_256.webli_i18n", "SigLIP"),
        ("vit_large_patch16_dinov3.sat493m", "DINOv3, satellite"),
        ("eva02_base_patch16_clip_224.merged2b", "EVA-02"),
        ("vit_base_patch16_224.bamboo", "others"),
        ("vit_giant_patch14_224", "without weights"),
    ],
)
def test_a_name_stands_where_people_look_for_it(name, title):
    assert group_of(name).title == title


@pytest.mark.parametrize("family", sorted({each.family for each in architectures()}))
def test_small_ones_of_all_that_are_accepted_give_timms_own_features(family: str):
    seen, apart = set(), {}
    for name in [each.name for each in architectures() if each.family == family]:
        vit = small(name, TINY.get(family, _OF_ONE_WIDTH))
        if (structure := structure_of(vit)) in seen:
            continue
        seen.add(structure)
        image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        with torch.no_grad():
            expected = vit.forward_head(vit.forward_features(image), pre_logits=True)
            found = tune(vit, Linear(), num_classes=2).prefix(image)
        difference = float((found - expected).norm() / expected.norm())
        if not difference < 1e-12:
            apart[name] = difference
    assert not apart


def small(name: str, changes: dict) -> torch.nn.Module:
    """In float64, its weights nowhere near zero."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        grouped = GROUPED if "sapiens2" in name else {}
        vit = timm.create_model(name, num_classes=0, **changes, **grouped)
        for parameter in vit.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return vit.requires_grad_(False).eval().double()


def structure_of(vit: torch.nn.Module) -> str:
    """All that is told of its parts, and what it keeps beside them."""
    plain = {name: value for name, value in vars(vit).items() if not isinstance(value, dict)}
    return f"{vit} {plain}"
