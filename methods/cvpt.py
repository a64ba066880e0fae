"""Cross Visual Prompt Tuning (CVPT): the tokens ask the prompts in an attention of their own.

Huang et al., "CVPT: Cross Visual Prompt Tuning", ICCV 2025, https://arxiv.org/abs/2408.14961

Between the attention and the MLP of each block every token x, the class token too, gets

    x + softmax((x W_q + b_q)(p W_k + b_k)^T / sqrt(c)) (p W_v + b_v) W_o + b_o

by heads, with the frozen weights of the block's own self-attention. Neither x nor the prompts p are
normed, and neither has a place: on backbones that rotate queries these are not rotated. The tokens'
attention to each other stays as it is, however many prompts there are.

Where scores are plain products (no norm on queries or keys) W_q and W_o can be absorbed into what
depends on the prompts alone: per head M = (p W_k + b_k) W_q^T and U = (p W_v + b_v) W_o, each
(P, d). Then two products of all tokens with d x d weights become two with (heads * P) x d: exact,
and cheaper until heads * P reaches the width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.block_range import check_blocks, prompted_blocks
from methods.checks import MOST_PROMPTS, check_number, check_whole
from methods.families import Family, family_of
from methods.families.family import AttentionMaps
from methods.method import Images, Method, Tuning, tuned_dtype
from methods.prompts import per_block
from methods.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class CVPT(Method):
    """Prompts that are asked behind the attention of every block, with its frozen weights."""

    title: ClassVar[str] = "CVPT: Cross Visual Prompt Tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2408.14961"
    same_each_step: ClassVar[bool] = True
    learns_prompts: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {"CVPT": {"blocks": None}}

    num_tokens: int = 10
    """Prompts per block. The authors chose 1 to 200, most often 5 or 10."""
    dropout: float = 0.1
    """On the prompts of each image."""
    blocks: str | None = None
    """Where prompts are asked: the first and the last block with prompts, both included, counted
    from 0 (8-11, or [8, 11]). None: every block."""

    def __post_init__(self) -> None:
        check_whole(self, "num_tokens", 1, MOST_PROMPTS)
        check_number(self, "dropout", 0, 1, below_high=True)
        check_blocks(self)

    @property
    def length(self) -> int:
        return self.num_tokens

    def recipe(self) -> Recipe:
        # The defaults of the released script; its head starts as torch's linear layer does.
        return Recipe(
            batch_size=32,
            optimizer="adamw",
            lr=1e-3,
            scale_lr=False,
            weight_decay=0.05,
            final_lr=1e-5,
            drop_path=0.1,
            head_init="zero_bias",
        )

    def tuning(
        self, vit: nn.Module, generator: torch.Generator, images: Images | None
    ) -> "AskedPrompts":
        sites, dtype = family_of(vit).sites(vit), tuned_dtype(vit)
        blocks = prompted_blocks(self, len(sites))
        prompts = []
        for site in sites[blocks.start : blocks.stop]:
            # Xavier's bound of the released code, which takes the blocks for rows of a matrix.
            bound = math.sqrt(6 / ((self.num_tokens + len(blocks)) * site.width))
            prompt = torch.empty(self.num_tokens, site.width, dtype=dtype)
            prompts.append(prompt.uniform_(-bound, bound, generator=generator))
        return AskedPrompts(vit, prompts, blocks, self.dropout)


class AskedPrompts(Tuning):
    """CVPT's prompts, and the frozen blocks whose weights they are asked with."""

    def __init__(
        self, vit: nn.Module, prompts: Sequence[Tensor], blocks: range, dropout: float
    ) -> None:
        """`prompts` are (P, d) each, of the width of their block."""
        super().__init__(first_block=blocks[0], last_block=blocks[-1])
        self.prompt = per_block(prompts)
        self.dropout = dropout
        self._family = family_of(vit)
        # In a tuple: they are the backbone's, and no part of what is tuned.
        self._blocks = tuple(self._family.blocks(vit))

    def before_mlp(self, index: int, tokens: Tensor) -> Tensor:
        prompts = self.prompt[index - self.first_block].to(tokens.dtype)
        if self.training and self.dropout > 0:  # every image has its own mask
            prompts = F.dropout(prompts.expand(tokens.shape[0], -1, -1), self.dropout)
        return tokens + cross_attention(self._family, self._blocks[index], tokens, prompts)


def cross_attention(family: Family, block: nn.Module, tokens: Tensor, prompts: Tensor) -> Tensor:
    """What prompts (P, d) or (B, P, d) say to tokens (B, T, d), in the form that costs less."""
    maps = family.attention_maps(block)
    if maps is not None and _absorbing_pays(maps, tokens.shape[1], prompts):
        return absorbed_attention(family, block, maps, tokens, prompts)
    return plain_attention(family, block, tokens, prompts)


def plain_attention(family: Family, block: nn.Module, tokens: Tensor, prompts: Tensor) -> Tensor:
    """The definition: queries of the tokens, keys and values of the prompts."""
    if prompts.ndim == 2:
        prompts = prompts.unsqueeze(0)
    k, v = (t.expand(tokens.shape[0], -1, -1) for t in family.keys_values(block, prompts))
    q, k, v = family.heads_anywhere(block, family.queries(block, tokens), k, v)
    attended = F.scaled_dot_product_attention(q, k, v, scale=family.score_scale(block))
    return family.project(block, attended.transpose(-3, -2).flatten(-2))


def absorbed_attention(
    family: Family, block: nn.Module, maps: AttentionMaps, tokens: Tensor, prompts: Tensor
) -> Tensor:
    """The same, with the weights of queries and output absorbed into matrices of the prompts."""
    by_head = (maps.num_heads, -1)
    k, v = (t.unflatten(-1, by_head) for t in family.keys_values(block, prompts))
    query_weight = maps.query_weight.unflatten(0, by_head)
    out_weight = maps.out_weight.unflatten(1, by_head)
    k = k * family.score_scale(block)
    asked = torch.einsum("...phc,hcd->...hpd", k, query_weight).flatten(-3, -2)
    said = torch.einsum("...phc,dhc->...hpd", v, out_weight).flatten(-3, -2)
    scores = tokens @ asked.mT
    if maps.query_bias is not None:
        of_bias = torch.einsum("...phc,hc->...hp", k, maps.query_bias.unflatten(0, by_head))
        scores = scores + of_bias.flatten(-2).unsqueeze(-2)
    weights = scores.unflatten(-1, by_head).softmax(dim=-1).flatten(-2)
    result = weights.to(said.dtype) @ said
    return result if maps.out_bias is None else result + maps.out_bias


def _absorbing_pays(maps: AttentionMaps, num_tokens: int, prompts: Tensor) -> bool:
    """Whether it takes fewer multiplications per image. What is done once per step counts nothing;
    where prompts differ between images, absorbing is done for each."""
    heads, asking = maps.num_heads, maps.query_weight.shape[0]
    num_prompts, width = prompts.shape[-2:]
    absorbed = num_tokens * 2 * heads * num_prompts * width
    if prompts.ndim == 3:
        absorbed += 2 * num_prompts * asking * width
    return absorbed < num_tokens * 2 * asking * (width + num_prompts)
