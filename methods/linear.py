"""Linear probe: a new head on the frozen features.

The baseline that every prompt method must beat; no part of the backbone is touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from methods.families import sites_of
from methods.method import Images, Method, Tuning
from methods.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Linear(Method):
    """Only the head is trained."""

    title: ClassVar[str] = "Linear probe (baseline of Visual Prompt Tuning)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.12119"
    same_each_step: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {"Linear": {}}

    def recipe(self) -> Recipe:
        return Recipe(batch_size=1024)

    def tuning(self, vit: nn.Module, generator: torch.Generator, images: Images | None) -> Tuning:
        return Tuning(first_block=len(sites_of(vit)))
