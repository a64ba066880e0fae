"""Prompt tokens, and how the first of them are drawn."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.families import family_of, sites_of
from methods.method import Tuning, tuned_dtype


class Prompts(Tuning):
    """Prompt tokens: one set that stays in the sequence, or a new set before every block."""

    def __init__(
        self,
        prompt: Tensor | Sequence[Tensor] | nn.ParameterList,
        *,
        deep: bool,
        dropout: float = 0.0,
        projection: nn.Linear | None = None,
        blocks: range | None = None,
    ) -> None:
        """`prompt` is (1, P, width), or (depth, P, width) where `deep`; with `blocks` it has a set
        for each of them, and no other block has prompts. Sets of several widths are a sequence of
        (P, width)."""
        ends = {} if blocks is None else {"first_block": blocks[0], "last_block": blocks[-1]}
        super().__init__(**ends)
        is_one = isinstance(prompt, Tensor)
        self.prompt = nn.Parameter(prompt) if is_one else per_block(list(prompt))
        self.projection = projection
        self.dropout = dropout
        self.persistent = not deep
        self.num_prompts = prompt[0].shape[0]

    @torch.no_grad()
    def own_prompts(self) -> Tensor | None:
        if isinstance(self.prompt, nn.ParameterList):
            return None
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
    return _uniform(vit, shape, _bound(vit, shape[-1]), generator)


def uniform_deep_prompts(
    vit: nn.Module, blocks: Sequence[int], num_tokens: int, generator: torch.Generator
) -> Tensor | list[Tensor]:
    """The same for a set of prompts in each of `blocks`: (blocks, P, width), or where their widths
    differ a set (P, width) for each.

    The bound is that of the first block's width in all of them, as in VPT's code for Swin.
    """
    sites = sites_of(vit)
    widths = [sites[index].width for index in blocks]
    bound = _bound(vit, sites[0].width)
    if len(set(widths)) == 1:
        return _uniform(vit, (len(widths), num_tokens, widths[0]), bound, generator)
    return [_uniform(vit, (num_tokens, width), bound, generator) for width in widths]


def _bound(vit: nn.Module, width: int) -> float:
    patch_height, patch_width = family_of(vit).patch_size(vit)
    return math.sqrt(6 / (3 * patch_height * patch_width + width))


def _uniform(
    vit: nn.Module, shape: tuple[int, ...], bound: float, generator: torch.Generator
) -> Tensor:
    prompt = torch.empty(shape, dtype=tuned_dtype(vit))
    return prompt.uniform_(-bound, bound, generator=generator)
