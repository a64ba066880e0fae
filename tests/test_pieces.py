"""The parts of a block that torch.compile fuses: the same numbers, compiled once for any length."""

from typing import Any

import pytest
import torch
from plain_form import loss_and_gradients
from tiny_backbones import shake, tiny_batch, tiny_vit
from tiny_swin import tiny_swin
from torch.profiler import ProfilerActivity, profile

from methods import METHODS, TunedViT, tune
from methods.pieces import compiled

pytestmark = pytest.mark.slow


def both_ways(model: TunedViT, images: torch.Tensor, labels: torch.Tensor) -> list[Any]:
    found = []
    for model.compile_blocks in (False, True):
        found.append(loss_and_gradients(model, model(images), labels))
    return found


def names_around(event: Any) -> list[str]:
    return [] if event is None else [event.name, *names_around(event.cpu_parent)]


def num_compiled() -> int:
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


BY_SOFTMAX = {"activation": "softmax", "weight": "none", "rank": 0}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("vpt", {}), ("lspt", {}), ("apt", {}), ("apt", BY_SOFTMAX), ("vapt", {})],
    ids=["vpt", "lspt", "apt", "apt_by_softmax", "vapt"],
)
def test_fused_parts_compute_the_same_for_every_length_and_batch(
    name: str, settings: dict[str, Any]
):
    compiled.cache_clear()
    torch.compiler.reset()
    images, labels = tiny_batch()
    kinds = []
    for num_tokens, count in ((5, 6), (9, 6), (5, 4), (7, 5)):
        vit = tiny_vit(depth=4)
        method = METHODS[name](num_tokens=num_tokens, **settings)
        model = shake(tune(vit, method, num_classes=5)).eval()
        plain, fused = both_ways(model, images[:count], labels[:count])
        torch.testing.assert_close(fused[0], plain[0], rtol=1e-5, atol=1e-6)
        for key, gradient in fused[1].items():
            torch.testing.assert_close(gradient, plain[1][key], rtol=1e-4, atol=1e-6, msg=key)
        kinds.append(num_compiled())
    assert kinds[0] > 0 and len(set(kinds)) == 1


def test_a_method_that_reaches_into_the_parts_runs_them_as_they_are():
    images, labels = tiny_batch()
    before = num_compiled()
    for name in ("lora", "adapter", "cvpt", "full"):
        model = shake(tune(tiny_vit(), METHODS[name](), num_classes=5)).eval()
        plain, fused = both_ways(model, images, labels)
        assert torch.equal(plain[0], fused[0])
    assert num_compiled() == before


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *(("vpt", family) for family in ("supervised", "normed", "dinov3", "sapiens2", "swin")),
        ("apt", "supervised"),
    ],
)
def test_gradients_go_from_an_attention_into_fused_parts_without_a_copy(name: str, family: str):
    """On a GPU the copies, and reading them across their rows, took a fifth of a step of ViT-B."""
    compiled.cache_clear()
    torch.compiler.reset()
    images, labels = tiny_batch()
    vit = tiny_swin(family) if family.startswith("swin") else tiny_vit(family)
    model = shake(tune(vit, METHODS[name](num_tokens=5), num_classes=5)).eval()
    model.compile_blocks = True
    loss_and_gradients(model, model(images), labels)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        loss_and_gradients(model, model(images), labels)
    fused = [one for one in seen.events() if "CompiledFunctionBackward" in names_around(one)]
    copied = [event.input_shapes for event in fused if event.name == "aten::copy_"]
    assert fused and not [shapes for shapes in copied if len(shapes[0]) == 4]


def test_what_is_drawn_beside_an_attention_is_the_same_when_parts_are_fused():
    images, labels = tiny_batch()
    model = shake(tune(tiny_vit(), METHODS["apt"](num_tokens=5, dropout=0.5), num_classes=5))
    model.train()
    found = []
    for model.compile_blocks in (False, True):
        torch.manual_seed(3)
        found.append(loss_and_gradients(model, model(images), labels)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
