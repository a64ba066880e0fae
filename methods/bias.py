"""Bias tuning (BitFit): every bias of the backbone and the head.

Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", ACL 2022, https://arxiv.org/abs/2106.10199; a baseline of VPT's tables.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from methods.families import sites_of
from methods.full import FINE_TUNING
from methods.method import Images, Method, Tuning
from methods.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Bias(Method):
    """Every weight of the backbone that is called a bias, as in VPT's code, and the head are
    trained: those of all layers and norms, the patch embedding's too, and what stands in tables of
    biases by relative position (Swin, BEiT)."""

    title: ClassVar[str] = "BitFit"
    paper: ClassVar[str] = "https://arxiv.org/abs/2106.10199"
    same_each_step: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {"Bias": {}}

    def recipe(self) -> Recipe:
        return FINE_TUNING

    def tuning(self, vit: nn.Module, generator: torch.Generator, images: Images | None) -> Tuning:
        return Tuning(first_block=len(sites_of(vit)))

    def trained_weights(self, vit: nn.Module) -> Iterable[nn.Parameter]:
        for name, weight in vit.named_parameters():
            if "bias" in name.rpartition(".")[2]:
                yield weight
