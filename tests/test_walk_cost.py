"""No dead computation: operations of ViT-B/16 at 224 pixels, counted without computing them."""

import pytest
import torch
from plain_form import plain_logits
from timm.models import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

from methods import METHODS, tune

BATCH = 64


@pytest.fixture(scope="module")
def vit():
    with torch.device("meta"):
        return VisionTransformer(num_classes=0).requires_grad_(False).eval()


def gigaflop(action):
    """Per image."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops() / BATCH / 1e9


def logits(model, images):
    """The forward pass without its switch of autocast, which the meta device does not have."""
    prefix = model.prefix(images)
    return model.head(prefix if prefix.ndim == 2 else model.features_from(prefix))


def costs(vit, name, **options):
    """Forward of the walk and of the plain token form."""
    model = tune(vit, METHODS[name](**options), num_classes=10)
    images = torch.empty(BATCH, 3, 224, 224, device="meta")
    return gigaflop(lambda: logits(model, images)), gigaflop(lambda: plain_logits(model, images))


PLAIN_VIT = 35.126


@pytest.mark.parametrize(
    ("num_tokens", "walk", "plain"),
    [(10, 32.77, 36.97), (100, 33.41, 53.93), (200, 34.12, 73.48)],
)
def test_deep_prompts_cost_less_than_the_plain_vit(vit, num_tokens, walk, plain):
    found = costs(vit, "vpt", num_tokens=num_tokens)
    assert found == pytest.approx((walk, plain), abs=0.01)
    assert found[0] < PLAIN_VIT
    assert costs(vit, "spt", num_tokens=num_tokens, init="uniform") == found


def test_dropout_per_image_costs_keys_and_values_only(vit):
    walk, plain = costs(vit, "vpt", num_tokens=100, dropout=0.1)
    assert walk < 1.04 * PLAIN_VIT < plain / 1.3


@pytest.mark.parametrize("name", ["vpt", "gatevpt", "lspt"])
def test_prompts_that_are_read_cost_what_tokens_cost(vit, name):
    options = {"deep": False} if name == "vpt" else {}
    walk, plain = costs(vit, name, num_tokens=100, **options)
    assert walk < plain and walk < 1.05 * PLAIN_VIT * 297 / 197


def test_apt_saves_no_more_than_the_exact_form(vit):
    exact, _ = costs(vit, "vpt", num_tokens=200)
    approximate, _ = costs(vit, "apt", num_tokens=200)
    base, _ = costs(vit, "linear")
    _, plain = costs(vit, "vpt", num_tokens=200)
    assert approximate - base < 0.05 * (plain - PLAIN_VIT)
    assert exact - base < 0.05 * (plain - PLAIN_VIT)


def test_the_backward_pass_stops_at_the_first_trained_tensor(vit):
    images = torch.empty(BATCH, 3, 224, 224, device="meta")
    shares = {}
    for name in ("linear", "partial", "vpt"):
        model = tune(vit, METHODS[name](), num_classes=10)
        forward = gigaflop(lambda model=model: logits(model, images))
        both = gigaflop(lambda model=model: logits(model, images).sum().backward())
        shares[name] = both / forward - 1
    assert shares["linear"] < 1e-4
    assert shares["partial"] < 0.08, "only the last block"
    assert 0.85 < shares["vpt"] < 1.1, "twice that with gradients of frozen weights"
