"""What only a GPU can show: memory that really runs out, its kernels, the same numbers twice."""

from dataclasses import replace

import pytest
import torch
from plain_form import loss_and_gradients, plain_logits
from timm.models import VisionTransformer
from tiny_backbones import shake, tiny_batch, tiny_vit

from methods import METHODS, TunedViT, tune
from orchestrator.training.loop import Fit, Inputs, Pixels, Training, evaluate, frozen_prefix
from orchestrator.training.numerics import Engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

NUM_CLASSES = 5
EXACT = Engine(deterministic=True)


@pytest.fixture(scope="module")
def vit() -> VisionTransformer:
    """Large enough that its activations, not its weights, fill the memory."""
    torch.manual_seed(0)
    model = VisionTransformer(embed_dim=384, depth=6, num_heads=6, num_classes=0)
    return model.eval().requires_grad_(False).cuda()


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    """Classes that differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(320) % NUM_CLASSES
    images = torch.randint(0, 128, (320, 224, 224, 3), generator=generator)
    images += 25 * labels[:, None, None, None]
    half = torch.full((3, 1, 1), 0.5, device="cuda")
    return Pixels(
        images=images.to(torch.uint8).cuda(), labels=labels.cuda(), mean=half, std=half.clone()
    )


def vpt(vit: VisionTransformer, *, dropout: float = 0.0, **recipe: object) -> TunedViT:
    method = METHODS["vpt"](num_tokens=5, dropout=dropout)
    settings = {"epochs": 3, "warmup_epochs": 1, "batch_size": 256, "lr": 0.5, **recipe}
    recipe_used = replace(method.recipe(), **settings)
    return tune(vit, method, num_classes=NUM_CLASSES, recipe=recipe_used, seed=1).cuda()


def rows_of(model: TunedViT, pixels: Pixels, engine: Engine, fit: Fit) -> list[dict[str, float]]:
    inputs = Inputs(pixels=pixels, prefix=None)
    rows = list(Training(model, inputs, inputs, seed=3, engine=engine, fit=fit).epochs())
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_walk_equals_the_plain_token_form_on_the_gpu(name: str):
    images, labels = (tensor.cuda() for tensor in tiny_batch(torch.float64))
    vit = tiny_vit(dtype=torch.float64).cuda()
    model = shake(tune(vit, METHODS[name](), images, num_classes=5).cuda()).eval()
    walk = loss_and_gradients(model, model(images), labels)
    plain = loss_and_gradients(model, plain_logits(model, images), labels)
    torch.testing.assert_close(walk[0], plain[0], rtol=1e-10, atol=1e-10)
    for key, gradient in walk[1].items():
        torch.testing.assert_close(gradient, plain[1][key], rtol=1e-9, atol=1e-10, msg=key)


@pytest.mark.parametrize("launch", ["eager", "graph"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_that_runs_out_splits_the_step_to_the_same_result(
    precision: str, launch: str, vit: VisionTransformer, pixels: Pixels
):
    engine, held = Engine(precision=precision, launch=launch), copy_of(vit)
    engine.cast_frozen(held)
    whole_fit, split_fit = Fit(), Fit()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = rows_of(vpt(held), pixels, engine, whole_fit)
    assert whole_fit == Fit()
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.4 * peak / total)
    try:
        split = rows_of(vpt(held), pixels, engine, split_fit)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert split_fit.part_size is not None and split_fit.part_size < 256
    tolerance = 1e-3 if precision == "fp32" else 3e-2
    for a, b in zip(whole, split, strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=tolerance)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_numbers(
    precision: str, dropout: float, vit: VisionTransformer, pixels: Pixels
):
    engine, held = replace(EXACT, precision=precision), copy_of(vit)
    engine.cast_frozen(held)
    first, again = (rows_of(vpt(held, dropout=dropout), pixels, engine, Fit()) for _ in range(2))
    assert first == again


def test_a_cached_prefix_changes_nothing(vit: VisionTransformer, pixels: Pixels):
    model, engine = vpt(vit), Engine()
    cached = Inputs(pixels=pixels, prefix=frozen_prefix(model, pixels, engine, Fit()))
    fresh = Inputs(pixels=pixels, prefix=None)
    assert evaluate(model, cached, engine)[:2] == pytest.approx(evaluate(model, fresh, engine)[:2])


@pytest.mark.parametrize("cached", [True, False])
def test_images_that_stay_on_the_host_give_the_same_numbers(
    cached: bool, vit: VisionTransformer, pixels: Pixels
):
    on_host = replace(pixels, images=pixels.images.cpu().pin_memory())
    assert on_host.are_on_host and not pixels.are_on_host
    rows = []
    for there in (pixels, on_host):
        model = vpt(vit)
        prefix = frozen_prefix(model, there, EXACT, Fit()) if cached else None
        training = Training(model, Inputs(pixels=there, prefix=prefix), seed=3, engine=EXACT)
        rows.append([row["train_loss"] for row in training.epochs()])
    assert rows[0] == rows[1]


def copy_of(vit: VisionTransformer) -> VisionTransformer:
    copy = VisionTransformer(embed_dim=384, depth=6, num_heads=6, num_classes=0)
    copy.load_state_dict(vit.state_dict())
    return copy.eval().requires_grad_(False).cuda()
