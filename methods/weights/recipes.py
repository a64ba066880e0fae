"""What is known of a pretraining and stands in none of its files.

Heads are by the width of the tokens. Each row says where it was read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from methods.weights.layouts import Converted
from methods.weights.networks import Chosen


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Facts of one pretraining."""

    title: str
    num_heads: Mapping[int, int] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    from_keys: bool = True
    """Known by the names in the file; False: by the tag, so the user said so."""


_STANDARD = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}

MOCO_V3 = Recipe(  # facebookresearch/moco-v3, vits.py: vit_small has num_heads=12
    title="MoCo-v3", num_heads={**_STANDARD, 384: 12}
)
MAE = Recipe(  # facebookresearch/mae, models_mae.py
    title="MAE", num_heads=_STANDARD
)
DINO = Recipe(  # facebookresearch/dino, vision_transformer.py; bytedance/ibot likewise
    title="DINO or iBOT", num_heads=_STANDARD
)
IJEPA = Recipe(  # facebookresearch/ijepa, src/models/vision_transformer.py
    title="I-JEPA", num_heads={**_STANDARD, 1408: 16}
)

AMBIGUOUS = {("vit_small", 384): "12 heads in MoCo-v3 and 6 in DINO and timm"}
"""Names that scripts give their network, with its width, and that mean several networks."""


def recipe_of(tag: str, chosen: Chosen, converted: Converted) -> Recipe | None:
    """The pretraining that the tag names or that the names in the file give away."""
    by_tag = {"moco_v3": MOCO_V3, "mae": MAE, "dino": DINO}.get(tag)
    if by_tag is not None:
        return Recipe(title=by_tag.title, num_heads=by_tag.num_heads, from_keys=False)
    if tag:
        return None
    network = chosen.network
    words = set(re.split(r"[./]", network.part))
    beside = " ".join((*chosen.others, *network.beside))
    if "base_encoder" in words and re.search(r"momentum_encoder|predictor", beside):
        return MOCO_V3
    if any(re.search(r"(^|\.)decoder_(embed|blocks|pos_embed)", k) for k in converted.dropped):
        return MAE
    if {"teacher", "backbone"} <= words or ("teacher" in words and "student" in beside):
        return DINO
    if "target_encoder" in words:
        return IJEPA
    return None
