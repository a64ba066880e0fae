"""The frozen network of a sweep as it was planned, and how images are prepared for it.

Needs torch, timm and Pillow, nothing of a sweep.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from methods.backbones import Backbone, load_backbone, load_frozen
from orchestrator.data.transform import INTERPOLATIONS, RESIZES, ImageTransform
from orchestrator.document import Between, OneOf

MOST_PIXELS = 2048
"""Of a side of an image: 16,384 patches of 16 pixels, four times what any ViT of timm sees."""

Normal = Annotated[float, Between(-1000, 1000)]
Positive = Annotated[float, Between(1e-6, 1000)]


@dataclass(frozen=True, kw_only=True)
class BackbonePlan:
    """Which frozen network, and how images are prepared for it."""

    name: str
    weights: str | None
    """Absolute path of the weights file; None: timm's own weights, or the embedded ones."""
    weights_sha256: str
    image_size: Annotated[int, Between(1, MOST_PIXELS)]
    num_parameters: Annotated[int, Between(1, 10**12)]
    resize: Annotated[str, OneOf(RESIZES)]
    interpolation: Annotated[str, OneOf(INTERPOLATIONS)]
    crop_fraction: Annotated[float, Between(0.1, 1)]
    mean: tuple[Normal, Normal, Normal]
    std: tuple[Positive, Positive, Positive]


def image_transform(backbone: BackbonePlan) -> ImageTransform:
    return ImageTransform(
        image_size=backbone.image_size,
        resize=backbone.resize,
        interpolation=backbone.interpolation,
        crop_fraction=backbone.crop_fraction,
    )


def load_planned_backbone(
    plan: BackbonePlan, device: str, *, frozen: Path | None = None
) -> Backbone:
    """The backbone of a plan; ValueError if its weights are no longer those that were planned.

    `frozen` is a file that `save_frozen` wrote, instead of what the plan names.
    """
    if frozen is not None:
        backbone = load_frozen(plan.name, frozen, image_size=plan.image_size)
    else:
        if plan.weights is not None and not Path(plan.weights).exists():
            raise ValueError(
                f"{plan.weights}: the weights of {plan.name} are not there any more; "
                "where they are now is named with --weights"
            )
        backbone = load_backbone(
            plan.name,
            weights=Path(plan.weights) if plan.weights else None,
            image_size=plan.image_size,
        )
    if backbone.weights_sha256 != plan.weights_sha256:
        raise ValueError(
            f"{plan.weights or plan.name}: the weights changed since this was planned "
            f"(sha256 {backbone.weights_sha256[:12]} now, {plan.weights_sha256[:12]} then)"
        )
    backbone.vit.to(device)
    return backbone
