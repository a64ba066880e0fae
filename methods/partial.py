"""Partial fine-tuning: the last blocks and the final norm, a baseline of VPT's tables."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from methods.checks import check_whole
from methods.families import family_of, sites_of
from methods.full import FINE_TUNING
from methods.method import Images, Method, Tuning
from methods.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Partial(Method):
    """The last blocks, the final norm and the head are trained; what comes before is computed once
    per image."""

    title: ClassVar[str] = "Partial fine-tuning (baseline of Visual Prompt Tuning)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.12119"
    same_each_step: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {"Partial-1": {"num_blocks": 1}}

    num_blocks: int = 1
    """How many blocks, counted from the end."""

    def __post_init__(self) -> None:
        check_whole(self, "num_blocks", 1)

    def recipe(self) -> Recipe:
        return FINE_TUNING

    def tuning(self, vit: nn.Module, generator: torch.Generator, images: Images | None) -> Tuning:
        depth = len(sites_of(vit))
        if self.num_blocks > depth:
            raise ValueError(f"Partial: num_blocks={self.num_blocks}, the backbone has {depth}")
        return Tuning(first_block=depth)

    def trained_weights(self, vit: nn.Module) -> Iterable[nn.Parameter]:
        family = family_of(vit)
        depth = len(family.blocks(vit))
        first = depth - self.num_blocks
        # The merging of a Swin's patches in front of the first stays, as in VPT's code.
        yield from family.blocks(vit)[first].parameters()
        for index in range(first + 1, depth):
            for part in family.block_parts(vit, index):
                yield from part.parameters()
        for norm in family.final_norms(vit):
            yield from norm.parameters()
