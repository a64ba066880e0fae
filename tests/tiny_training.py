"""A tiny ViT, images of two classes, and what training on them reports."""

from dataclasses import replace

import torch
from timm.models import VisionTransformer

from methods import METHODS, TunedViT, tune
from orchestrator.training.loop import (
    Fit,
    Inputs,
    Pixels,
    Training,
    frozen_prefix,
)
from orchestrator.training.numerics import Engine


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0
    )
    return model.eval().requires_grad_(False)


def pixels_of_two_classes() -> Pixels:
    """60 images of two classes that differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    images = torch.randint(0, 128, (60, 16, 16, 3), generator=generator)
    images += 100 * labels[:, None, None, None]
    half = torch.full((3, 1, 1), 0.5)
    return Pixels(images=images.to(torch.uint8), labels=labels, mean=half, std=half)


def model_of(vit: VisionTransformer, name: str = "vpt", dropout: float = 0.0, **recipe) -> TunedViT:
    options = {"num_tokens": 3, "dropout": dropout} if name == "vpt" else {}
    method = METHODS[name](**options)
    settings = {"epochs": 4, "warmup_epochs": 1, "batch_size": 16, "lr": 0.5, **recipe}
    return tune(vit, method, num_classes=2, recipe=replace(method.recipe(), **settings), seed=1)


def rows_of(model: TunedViT, pixels: Pixels, cached: bool = False, **options) -> list[dict]:
    prefix = frozen_prefix(model, pixels, Engine(), Fit()) if cached else None
    inputs = Inputs(pixels=pixels, prefix=prefix)
    return untimed(list(Training(model, inputs, inputs, seed=3, **options).epochs()))


def untimed(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]
