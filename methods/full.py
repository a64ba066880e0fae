"""Full fine-tuning: every weight of the backbone, from its pretrained value.

The yardstick of all tables. Recipe: that of VPT's comparison (AdamW with decay 0.01), whose
published numbers are known to be weak; a search over `lr` does better.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from methods.method import Images, Method, Tuning
from methods.recipe import Recipe

FINE_TUNING = Recipe(
    batch_size=384,
    optimizer="adamw",
    lr=1e-3,
    eps=1e-6,
    weight_decay=0.01,
    decay_exempt="bias",
)
"""How VPT's authors train what changes the backbone's own weights."""


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """The whole backbone and the head are trained."""

    title: ClassVar[str] = "Full fine-tuning (baseline of Visual Prompt Tuning)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.12119"
    same_each_step: ClassVar[bool] = True
    trains_backbone: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {"Full": {}}

    def recipe(self) -> Recipe:
        return FINE_TUNING

    def tuning(self, vit: nn.Module, generator: torch.Generator, images: Images | None) -> Tuning:
        return Tuning()

    def trained_weights(self, vit: nn.Module) -> Iterable[nn.Parameter]:
        return vit.parameters()
