"""Recipes: the published schedule and decay, and clear refusals."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_backbones import tiny_vit

from methods import METHODS, Recipe, build_optimizer, lr_factor, peak_lr, tune, with_epochs


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 0.0), (5, 0.5), (10, 1.0), (55, 0.5), (99, 3.05e-4)]
)
def test_the_published_schedule(epoch, factor):
    assert lr_factor(Recipe(), epoch) == pytest.approx(factor, abs=1e-6)


@given(
    epochs=st.integers(1, 300),
    share=st.floats(0, 0.99),
    final_share=st.floats(0, 1),
    places=st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_the_rate_rises_to_its_peak_and_falls_to_its_end(epochs, share, final_share, places):
    recipe = Recipe(epochs=epochs, warmup_epochs=share * epochs, lr=2.0, final_lr=final_share)
    assert lr_factor(recipe, recipe.warmup_epochs) == pytest.approx(1)
    assert lr_factor(recipe, epochs) == pytest.approx(recipe.final_lr / peak_lr(recipe))
    moments = sorted(place * epochs for place in places)
    factors = [lr_factor(recipe, moment) for moment in moments]
    assert all(0 <= factor <= 1 + 1e-12 for factor in factors)
    rising = [f for f, m in zip(factors, moments, strict=True) if m < recipe.warmup_epochs]
    falling = [f for f, m in zip(factors, moments, strict=True) if m >= recipe.warmup_epochs]
    assert rising == sorted(rising)
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))


def test_the_peak_scales_with_the_batch_only_where_asked():
    assert peak_lr(Recipe(lr=2.0, batch_size=64)) == 0.5
    assert peak_lr(Recipe(lr=2.0, batch_size=64, scale_lr=False)) == 2.0


def test_a_shorter_training_keeps_the_share_of_its_warm_up():
    short = with_epochs(Recipe(), 20)
    assert (short.epochs, short.warmup_epochs) == (20, 2)
    assert lr_factor(short, 11) == pytest.approx(lr_factor(Recipe(), 55))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 5}, "warmup_epochs, for example 0.5"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"readout": "average"}, "one of auto, cls"),
        ({"lr": 0.0}, r"lr=0.0 must be a number in \(0, inf\)"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"lr": "1e-4"}, "lr='1e-4'"),
        ({"momentum": 1.0}, r"momentum=1.0 must be a number in \[0, 1\)"),
        ({"scale_lr": 1}, "scale_lr=1 must be true or false"),
        ({"batch_size": 12.5}, "batch_size=12.5"),
        ({"head_weight_decay": -1}, "or None"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_work(wrong, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**wrong)


def test_numbers_that_a_search_space_may_give_are_accepted():
    Recipe(lr=1, weight_decay=0, warmup_epochs=0, head_weight_decay=None)


def decays(**recipe):
    method = METHODS["vpt"](projection=8)
    recipe = dataclasses.replace(method.recipe(), **recipe)
    model = tune(tiny_vit(), method, num_classes=5, recipe=recipe)
    optimizer = build_optimizer(model, recipe)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    return found, optimizer


def test_what_decays_under_each_rule():
    every = {"tuning.prompt", "tuning.projection.weight", "tuning.projection.bias"}
    every |= {"head.weight", "head.bias"}
    spared = {
        "head_bias": {"head.bias"},
        "bias": {"head.bias", "tuning.projection.bias"},
        "vectors": {"head.bias", "tuning.projection.bias"},
    }
    for rule, names in spared.items():
        found, _ = decays(weight_decay=0.1, decay_exempt=rule)
        assert found == {name: 0.0 if name in names else 0.1 for name in every}, rule
    found, _ = decays(weight_decay=0.1, head_weight_decay=3.0)
    assert (found["head.weight"], found["tuning.prompt"]) == (3.0, 0.1)


def test_the_optimizer_is_the_recipe_s():
    _, sgd = decays(lr=1.0, batch_size=64, momentum=0.8)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["lr"] == 0.25 and sgd.defaults["momentum"] == 0.8
    assert not sgd.defaults["nesterov"]
    _, adamw = decays(optimizer="adamw", beta1=0.8, beta2=0.98, eps=1e-6)
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.8, 0.98) and adamw.defaults["eps"] == 1e-6
