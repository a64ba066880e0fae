"""Steps that are recorded on a GPU and replayed: the same numbers as launched kernel by kernel."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_backbones import tiny_vit

from methods import METHODS, tune
from orchestrator.training.loop import Fit, Inputs, Pixels, Training, frozen_prefix
from orchestrator.training.numerics import Engine
from orchestrator.training.recorded import Recorded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

NUM_CLASSES = 4
EXACT = Engine(deterministic=True)


def pixels(count: int = 44) -> Pixels:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), generator=generator).to(torch.uint8)
    half = torch.full((3, 1, 1), 0.5, device="cuda")
    labels = torch.arange(count) % NUM_CLASSES
    return Pixels(images=images.cuda(), labels=labels.cuda(), mean=half, std=half.clone())


def trained(name: str, engine: Engine, *, cached: bool = True, **settings: Any):
    """Rows of three epochs, the last of a batch size of its own, and what was learnt."""
    vit = tiny_vit().cuda()
    engine.cast_frozen(vit)
    method = METHODS[name](**settings)
    recipe = replace(method.recipe(), epochs=3, warmup_epochs=1, batch_size=16)
    there = pixels()
    images = there.normalised(slice(0, 16)) if method.needs_images else None
    model = tune(vit, method, images, num_classes=NUM_CLASSES, recipe=recipe, seed=1).cuda()
    prefix = frozen_prefix(model, there, engine, Fit()) if cached and model.prefix_key else None
    inputs = Inputs(pixels=there, prefix=prefix)
    training = Training(model, inputs, inputs, seed=3, engine=engine)
    rows = [
        {key: value for key, value in row.items() if not key.endswith("seconds")}
        for row in training.epochs()
    ]
    return rows, model.tuned_state()


def assert_same(one: Any, other: Any) -> None:
    assert one[0] == other[0]
    for name, tensor in one[1].items():
        torch.testing.assert_close(tensor, other[1][name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_recorded_step_gives_the_numbers_of_its_kernels(
    name: str, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        recorded = trained(name, replace(EXACT, launch="graph"))
    assert not caplog.records
    assert_same(recorded, trained(name, EXACT))


@pytest.mark.parametrize("engine", [EXACT, replace(EXACT, precision="bf16")], ids=["fp32", "bf16"])
def test_dropout_draws_the_same_masks_in_a_recorded_step(engine: Engine):
    plain = trained("vpt", engine, dropout=0.5)
    assert_same(trained("vpt", replace(engine, launch="graph"), dropout=0.5), plain)


def test_a_step_that_computes_its_prefix_is_recorded_too():
    assert_same(
        trained("vpt", replace(EXACT, launch="graph"), cached=False),
        trained("vpt", EXACT, cached=False),
    )


def test_crops_of_each_epoch_reach_a_recorded_step():
    augmented = replace(EXACT, augment=True)
    assert_same(trained("vpt", replace(augmented, launch="graph")), trained("vpt", augmented))


@pytest.mark.parametrize("name", ["vpt", "spt", "lspt", "gatevpt", "apt", "vapt", "lora"])
def test_fused_parts_change_no_more_than_rounding(name: str):
    plain, _ = trained(name, EXACT)
    fused, _ = trained(name, replace(EXACT, launch="compiled"))
    for one, other in zip(fused, plain, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


def test_what_cannot_be_recorded_is_run_as_it_is(caplog: pytest.LogCaptureFixture):
    def action(index: torch.Tensor) -> tuple[torch.Tensor]:
        return (index * index.sum().item(),)  # looks at a value, which a recording cannot

    index = torch.arange(3, device="cuda")
    recorded = Recorded(action)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            torch.testing.assert_close(recorded(index)[0], 3 * index)
    assert len(caplog.records) == 1
    # The device goes on as before: numbers are drawn, and another action is recorded.
    assert 0 < torch.nn.functional.dropout(torch.ones(1000, device="cuda")).mean() < 2
    again = Recorded(lambda index: (index + 1,))
    torch.testing.assert_close(again(index)[0], index + 1)
    torch.testing.assert_close(again(index + 5)[0], index + 6)
