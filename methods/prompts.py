"""Prompt tokens, and how the first of them are drawn."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.families import family_of
from methods.method import Tuning, tuned_dtype


class Prompts(Tuning):
    """Prompt tokens: one set that stays in the sequence, or a new set before every block."""

    def __init__(
        self,
        prompt: Tensor,
        *,
        deep: bool,
        dropout: float = 0.0,
        projection: nn.Linear | None = None,
        blocks: range | None = None,
    ) -> None:
        """`prompt` is (1, P, width), or (depth, P, width) where `deep`; with `blocks` it has a set
        for each of them, and no other block has prompts."""
        ends = {} if blocks is None else {"first_block": blocks[0], "last_block": blocks[-1]}
        super().__init__(**ends)
        self.prompt = nn.Parameter(prompt)
        self.projection = projection
        self.dropout = dropout
        self.persistent = not deep
        self.num_prompts = prompt.shape[1]

    @torch.no_grad()
    def own_prompts(self) -> Tensor:
        prompt = self.prompt if self.projection is None else self.projection(self.prompt)
        return prompt.detach().float().cpu()

    def prompts(self, index: int, batch_size: int) -> Tensor:
        prompt = self.prompt[index - self.first_block]
        if self.projection is not None:
            prompt = self.projection(prompt)
        if self.training and self.dropout > 0:  # every image has its own mask
            return F.dropout(prompt.expand(batch_size, -1, -1), self.dropout)
        return prompt


def per_block(tensors: Sequence[Tensor]) -> nn.Parameter | nn.ParameterList:
    """One (P, d) for each block as a parameter (blocks, P, d), or where their widths differ as a
    list of parameters; both give that of a block by its number."""
    if len({tensor.shape for tensor in tensors}) == 1:
        return nn.Parameter(torch.stack(list(tensors)))
    return nn.ParameterList(tensors)


def uniform_prompts(vit: nn.Module, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """VPT's initial distribution: Xavier's for a patch embedding, over the prompt's own width."""
    height, width = family_of(vit).patch_size(vit)
    bound = math.sqrt(6 / (3 * height * width + shape[-1]))
    prompt = torch.empty(shape, dtype=tuned_dtype(vit))
    return prompt.uniform_(-bound, bound, generator=generator)
