"""What the walk through the blocks computes is what timm computes, or the sweep does not begin."""

from types import SimpleNamespace

import pytest
import torch
from timm.layers.attention import Attention
from tiny_backbones import FAMILIES, OTHERS, tiny_vit

from methods.agreement import check_agreement
from methods.families import check_supported
from orchestrator.plan.prepare import _plan_backbone
from orchestrator.plan.request import SweepRequest

timms_own = Attention.forward


def gated(self: Attention, x: torch.Tensor, *masks: object, **options: object) -> torch.Tensor:
    """As in a timm to come: something in its attention of which the walk has not heard."""
    return timms_own(self, x, *masks, **options) * x.mean().sigmoid()


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_every_family_agrees_with_timm(family: str):
    check_agreement(tiny_vit(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_operation_that_the_walk_does_not_know_is_refused(
    family: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Attention, "forward", gated)
    vit = tiny_vit(family)
    check_supported(vit)  # by the types of its parts nothing is to be seen
    with pytest.raises(ValueError, match="timm computes something that our walk") as refused:
        check_agreement(vit)
    assert "\n" not in str(refused.value)


def test_it_is_refused_before_the_sweep_is_planned(monkeypatch: pytest.MonkeyPatch):
    request = SweepRequest(suite="quickstart", backbone="vit_quickstart")
    suite = SimpleNamespace(default_backbone=None)
    _plan_backbone(request, suite)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(Attention, "forward", gated)
    with pytest.raises(ValueError, match=r"^vit_quickstart: this backbone cannot be tuned: timm"):
        _plan_backbone(request, suite)  # pyright: ignore[reportArgumentType]


def test_features_that_are_no_numbers_are_refused():
    vit = tiny_vit()
    vit.blocks[1].mlp.fc1.weight.data[0, 0] = torch.inf
    with pytest.raises(ValueError, match="are not finite numbers"):
        check_agreement(vit)


def test_a_network_that_timm_can_build_but_not_run_is_refused():
    vit = tiny_vit()
    vit.norm = torch.nn.LayerNorm(7)
    with pytest.raises(
        ValueError, match="timm cannot compute this backbone's features: Given norm"
    ):
        check_agreement(vit)


def test_pooling_that_timm_does_over_all_tokens_is_refused():
    with pytest.raises(ValueError, match="pool_include_prefix"):
        check_supported(tiny_vit(global_pool="avg", pool_include_prefix=True))
