"""Layouts that timm renames itself while it fetches them: BEiT-3, AIMv2, RADIO."""

import dataclasses
import re

from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn

from methods.weights.layouts import check_values
from methods.weights.reading import Content

_MARKERS = r"beit3\.|preprocessor\.patchifier\.proj\.weight$|radio_model\.model\.patch_generator\."


def in_timms_names(content: Content, vit: VisionTransformer) -> Content:
    """The content as it is, or renamed by timm where it knows the layout and nobody here does."""
    for tensors in content.groups.values():
        if any(re.match(_MARKERS, key) for key in tensors):
            try:
                for name, tensor in tensors.items():
                    check_values(name, tensor)
                renamed = checkpoint_filter_fn(dict(tensors), vit)
            except (KeyError, RuntimeError, ValueError, AttributeError) as error:
                raise ValueError(f"{content.path}: not the weights of this ViT: {error}") from error
            return dataclasses.replace(content, groups={"": renamed})
    return content
