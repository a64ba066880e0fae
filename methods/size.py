"""How many parameters a method trains, on a ViT of random weights."""

import timm
from timm.models import VisionTransformer

from methods.assemble import tune
from methods.families import family_of
from methods.method import Method

REFERENCE = "vit_base_patch16_224"
"""The ViT of the papers' tables."""


def reference_vit() -> VisionTransformer:
    """ViT-B/16 at 224 pixels without head, its weights not initialised."""
    vit = timm.create_model(REFERENCE, pretrained=False, num_classes=0, weight_init="skip")
    assert isinstance(vit, VisionTransformer)
    return vit


def num_trained_parameters(vit: VisionTransformer, method: Method) -> int:
    """What the method trains beside its head, which has (embed_dim + 1) per class."""
    family, images = family_of(vit), None
    if method.needs_images:
        images = family.first_weight(vit).new_zeros(1, 3, *family.image_size(vit))
    model = tune(vit, method, images, num_classes=2)
    return model.num_tuned_parameters - sum(p.numel() for p in model.head.parameters())
