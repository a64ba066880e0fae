"""Visual Prompt Tuning (VPT), shallow and deep.

Jia et al., "Visual Prompt Tuning", ECCV 2022, https://arxiv.org/abs/2203.12119
Prompts carry no position embedding and stand between the class token and the patches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from methods.block_range import check_blocks, prompted_blocks, refuse_blocks_of_shallow
from methods.checks import MOST_PROMPTS, MOST_WIDTH, check_flag, check_number, check_whole
from methods.families import sites_of
from methods.method import Images, Method, blank_linear, tuned_dtype
from methods.prompts import Prompts, uniform_deep_prompts, uniform_prompts
from methods.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class VPT(Method):
    """Learnable prompt tokens before the first block, or new ones before every block."""

    title: ClassVar[str] = "Visual Prompt Tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.12119"
    same_each_step: ClassVar[bool] = True
    learns_prompts: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "VPT-Shallow": {"deep": False},
        "VPT-Deep": {"deep": True, "blocks": None},
    }

    num_tokens: int = 50
    """Prompts per block."""
    deep: bool = True
    """True: VPT-Deep. False: VPT-Shallow, first block only, kept to the end."""
    dropout: float = 0.0
    """On the prompts of each image. The paper's deep runs use 0.1."""
    projection: int | None = None
    """Width of the prompts before a learnt projection, shared by all blocks, to the width of the
    backbone; None: no projection."""
    blocks: str | None = None
    """Where deep prompts stand: the first and the last block with prompts, both included, counted
    from 0 (8-11, or [8, 11]). None: every block."""

    def __post_init__(self) -> None:
        check_whole(self, "num_tokens", 1, MOST_PROMPTS)
        check_flag(self, "deep")
        check_number(self, "dropout", 0, 1, below_high=True)
        check_whole(self, "projection", 1, MOST_WIDTH, optional=True)
        check_blocks(self)
        refuse_blocks_of_shallow(self)

    @property
    def length(self) -> int:
        return self.num_tokens

    def recipe(self) -> Recipe:
        return Recipe(batch_size=64 if self.num_tokens >= 100 else 128)

    def tuning(self, vit: nn.Module, generator: torch.Generator, images: Images | None) -> Prompts:
        sites = sites_of(vit)
        blocks = prompted_blocks(self, len(sites)) if self.deep else None
        projection = None
        if self.projection is None:
            prompt = uniform_deep_prompts(vit, blocks or range(1), self.num_tokens, generator)
        else:
            widths = sorted({site.width for site in sites})
            if len(widths) > 1:
                raise ValueError(
                    f"VPT: projection={self.projection} is a layer to one width, but the blocks of"
                    f" this backbone have the widths {', '.join(map(str, widths))}"
                )
            num_blocks = 1 if blocks is None else len(blocks)
            shape = (num_blocks, self.num_tokens, self.projection)
            prompt = uniform_prompts(vit, shape, generator)
            projection = blank_linear(self.projection, sites[0].width, dtype=tuned_dtype(vit))
            nn.init.kaiming_normal_(projection.weight, mode="fan_out", generator=generator)
            bound = self.projection**-0.5
            nn.init.uniform_(projection.bias, -bound, bound, generator=generator)
        return Prompts(
            prompt, deep=self.deep, dropout=self.dropout, projection=projection, blocks=blocks
        )
