"""timm's Beit: BEiT and BEiT v2, whose scores get a bias by how far two patches lie apart.

Bao et al., "BEiT: BERT Pre-Training of Image Transformers", https://arxiv.org/abs/2106.08254.
Queries and values have biases of their own, keys none, and layer scale is called gamma. A prompt
lies nowhere: its scores get no bias.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.beit import Attention, Block
from torch import Tensor, nn

from methods.families.family import (
    AttentionMaps,
    Family,
    Place,
    Position,
    by_heads,
    plain_maps,
    refused_pooling,
)


class BeitViT(Family):
    """A bias on the scores in the place of positions that are added to the tokens."""

    def refuse(self, vit: Any) -> str | None:
        for index, block in enumerate(vit.blocks):
            if type(block) is not Block:
                return f"block {index} is a {type(block).__name__}, not one of timm's Beit"
            if type(block.attn) is not Attention:
                return f"block {index} attends with {type(block.attn).__name__}, not Attention"
        return refused_pooling(vit)

    def attention_widths(self, block: Any) -> tuple[int, int]:
        width = block.attn.qkv.weight.shape[0] // 3
        return width, width

    def has_class_token(self, vit: Any) -> bool:
        return True

    def readout_parts(self, vit: Any) -> Iterable[nn.Module]:
        return (vit.norm, vit.fc_norm)

    def embed(self, vit: Any, images: Tensor) -> Tensor:
        patches = self.patches(vit, images)
        tokens = torch.cat([vit.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return vit.pos_drop(tokens if vit.pos_embed is None else tokens + vit.pos_embed)

    def position(self, vit: Any, index: int) -> Position:
        biases = [_bias(table) for table in _tables(vit, index)]
        return Position(bias=sum(biases[1:], biases[0])) if biases else Position()

    def position_weights(self, vit: Any) -> Iterable[nn.Parameter]:
        tables = (table for index in range(len(vit.blocks)) for table in _tables(vit, index))
        return (table.relative_position_bias_table for table in tables)

    # Inside a block

    def queries_keys_values(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = F.linear(normed, *self._fused(block)).chunk(3, dim=-1)
        return q, k, v

    def _fused(self, block: Any) -> tuple[Tensor, Tensor | None]:
        return fused_with_biases(block.attn)

    def heads(
        self, block: Any, q: Tensor, k: Tensor, v: Tensor, place: Place
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (by_heads(t, block.attn.num_heads) for t in (q, k, v))
        return q, k, v

    def project(self, block: Any, attended: Tensor) -> Tensor:
        return block.attn.proj_drop(block.attn.proj(attended))

    def attention_maps(self, block: Any) -> AttentionMaps | None:
        return plain_maps(block.attn, *self._of_queries(block))

    def scale_attention(self, block: Any, branch: Tensor) -> Tensor:
        return block.drop_path1(scaled(branch, block.gamma_1))

    def scale_mlp(self, block: Any, branch: Tensor) -> Tensor:
        return block.drop_path2(scaled(branch, block.gamma_2))


def fused_with_biases(attn: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of queries, keys and values in one layer, where these have own biases."""
    if attn.q_bias is None:
        return attn.qkv.weight, attn.qkv.bias
    return attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])


def scaled(branch: Tensor, gamma: Tensor | None) -> Tensor:
    """The same by layer scale, where there is any."""
    return branch if gamma is None else gamma * branch


def _tables(vit: Any, index: int) -> list[Any]:
    """What has a table of biases for block `index`: its attention, the network, both or neither."""
    attn, shared = vit.blocks[index].attn, vit.rel_pos_bias
    own = None if attn.relative_position_bias_table is None else attn
    return [table for table in (own, shared) if table is not None]


def _bias(table: Any) -> Tensor:
    """(heads, T, T), for the class token and the patches."""
    index = table.relative_position_index
    values = table.relative_position_bias_table[index.flatten()]
    return values.unflatten(0, index.shape).permute(2, 0, 1)
