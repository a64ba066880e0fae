"""Pixel values as the backbone was trained to see them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from orchestrator.training.backbone import BackbonePlan


def normalized(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Float32 of pixels (B, 3, H, W) in [0, 255]; `mean` and `std` (3, 1, 1) are of [0, 1]."""
    return (pixels.float() / 255 - mean) / std


def normalized_for(plan: BackbonePlan, images: Tensor) -> Tensor:
    """(B, 3, H, W) of decoded images (B, H, W, 3) uint8, on the CPU."""
    return normalized(images.permute(0, 3, 1, 2), per_channel(plan.mean), per_channel(plan.std))


def per_channel(values: Sequence[float], device: str | None = None) -> Tensor:
    """(3, 1, 1), to be used on images."""
    return torch.tensor(values, device=device).view(3, 1, 1)
