"""How many parameters a method trains, on a ViT of random weights."""

import timm
from timm.models import VisionTransformer

from methods.assemble import tune
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
    model = tune(vit, method.without_images(), num_classes=2)
    return model.num_tuned_parameters - sum(p.numel() for p in model.head.parameters())
