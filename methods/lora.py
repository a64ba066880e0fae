"""Low-rank adaptation (LoRA) of the queries and values.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
https://arxiv.org/abs/2106.09685

Written on the walk instead of taken from `peft`: timm keeps queries, keys and values in one layer,
on which peft would adapt the keys as well, in one product of rank r for all three, which is another
method with another count than the tables have. Here it is two products, for q and v only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.checks import MOST_WIDTH, check_number, check_whole
from methods.families import sites_of
from methods.method import Images, Method, Tuning, tuned_dtype
from methods.recipe import Recipe

FEW_STEPS = Recipe(
    batch_size=64,
    optimizer="adamw",
    lr=1e-3,
    scale_lr=False,
    weight_decay=1e-4,
    decay_exempt="vectors",
    head_init="zero_bias",
)
"""Of the comparisons of LoRA and adapters on VTAB (NOAH, Adapters Strike Back)."""


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """A product of two thin matrices added to the query and the value weights of every block."""

    title: ClassVar[str] = "LoRA: Low-Rank Adaptation of Large Language Models"
    paper: ClassVar[str] = "https://arxiv.org/abs/2106.09685"
    same_each_step: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {"LoRA": {}}

    rank: int = 8
    """The rank of the two factors that are learnt."""
    alpha: float = 8.0
    """The products count alpha / rank."""

    def __post_init__(self) -> None:
        check_whole(self, "rank", 1, MOST_WIDTH)
        check_number(self, "alpha", 0, above_low=True)

    def recipe(self) -> Recipe:
        return FEW_STEPS

    def tuning(
        self, vit: nn.Module, generator: torch.Generator, images: Images | None
    ) -> "LowRankUpdates":
        return LowRankUpdates(self, vit, generator)


class LowRankUpdates(Tuning):
    """Factors for the queries and the values of all blocks.

    Of one width they are two tensors (depth, 2, ...), else two lists: of the first block's
    queries, of its values, of the second block's queries and so on.
    """

    def __init__(self, method: LoRA, vit: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        sites, dtype, rank = sites_of(vit), tuned_dtype(vit), method.rank
        self.scale = method.alpha / rank

        def down(width: int, *shape: int) -> Tensor:
            bound = 1 / math.sqrt(width)  # Kaiming-uniform with a = sqrt(5), as layers start
            values = torch.empty(*shape, rank, width, dtype=dtype)
            return values.uniform_(-bound, bound, generator=generator)

        widths = {(site.width, site.query_width, site.value_width) for site in sites}
        width, *outputs = next(iter(widths))
        self.down: nn.Parameter | nn.ParameterList
        self.up: nn.Parameter | nn.ParameterList
        if len(widths) == 1 and outputs[0] == outputs[1]:
            depth = len(sites)
            self.down = nn.Parameter(down(width, depth, 2))
            self.up = nn.Parameter(torch.zeros(depth, 2, outputs[0], rank, dtype=dtype))
            return
        self.down = nn.ParameterList(down(site.width) for site in sites for _ in range(2))
        both = (width for site in sites for width in (site.query_width, site.value_width))
        self.up = nn.ParameterList(torch.zeros(width, rank, dtype=dtype) for width in both)

    def query_update(self, index: int, normed: Tensor) -> Tensor:
        return self._update(index, 0, normed)

    def value_update(self, index: int, normed: Tensor) -> Tensor:
        return self._update(index, 1, normed)

    def _update(self, index: int, which: int, tokens: Tensor) -> Tensor:
        down, up = (_factor(factors, index, which) for factors in (self.down, self.up))
        return self.scale * (tokens @ down.to(tokens.dtype).T) @ up.to(tokens.dtype).T


def _factor(factors: nn.Parameter | nn.ParameterList, index: int, which: int) -> Tensor:
    """Of block `index`: its queries' (0) or its values' (1)."""
    if isinstance(factors, nn.ParameterList):
        return factors[2 * index + which]
    return factors[index, which]
