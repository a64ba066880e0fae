"""timm's VisionTransformerRelPos: a bias on the scores, of a table or a small network.

Patches have no other position. A prompt lies nowhere: its scores get no bias.
"""

from collections.abc import Iterable
from typing import Any

import torch
from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    ResPostRelPosBlock,
)
from torch import Tensor, nn

from methods.families.family import AttentionMaps, Family, Position, plain_maps, refused_pooling


class RelPosViT(Family):
    """The plain block with relative positions; in some the norms stand behind the branches."""

    def refuse(self, vit: Any) -> str | None:
        for index, block in enumerate(vit.blocks):
            if type(block) not in (RelPosBlock, ResPostRelPosBlock):
                return f"block {index} is a {type(block).__name__}, not a RelPosBlock of timm"
            if type(block.attn) is not RelPosAttention:
                return f"block {index} attends with {type(block.attn).__name__}"
        return refused_pooling(vit)

    def has_class_token(self, vit: Any) -> bool:
        return vit.cls_token is not None

    def readout_parts(self, vit: Any) -> Iterable[nn.Module]:
        return (vit.norm, vit.fc_norm)

    def embed(self, vit: Any, images: Tensor) -> Tensor:
        patches = self.patches(vit, images)
        if vit.cls_token is None:
            return patches
        return torch.cat([vit.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)

    def position(self, vit: Any, index: int) -> Position:
        return Position(bias=_source(vit, index).get_bias().squeeze(0))

    def position_weights(self, vit: Any) -> Iterable[nn.Parameter]:
        for index in range(len(vit.blocks)):
            yield from _source(vit, index).parameters()

    # Inside a block

    def before_attention(self, block: Any, tokens: Tensor) -> Tensor:
        return block.norm1(tokens) if isinstance(block, RelPosBlock) else tokens

    def project(self, block: Any, attended: Tensor) -> Tensor:
        return block.attn.proj_drop(block.attn.proj(attended))

    def attention_maps(self, block: Any) -> AttentionMaps | None:
        return plain_maps(block.attn, *self._of_queries(block))

    def scale_attention(self, block: Any, branch: Tensor) -> Tensor:
        scale = block.ls1 if isinstance(block, RelPosBlock) else block.norm1
        return block.drop_path1(scale(branch))

    def mlp(self, block: Any, tokens: Tensor) -> Tensor:
        return block.mlp(block.norm2(tokens) if isinstance(block, RelPosBlock) else tokens)

    def scale_mlp(self, block: Any, branch: Tensor) -> Tensor:
        scale = block.ls2 if isinstance(block, RelPosBlock) else block.norm2
        return block.drop_path2(scale(branch))


def _source(vit: Any, index: int) -> Any:
    """What computes the biases of block `index`."""
    own = vit.blocks[index].attn.rel_pos
    return vit.shared_rel_pos if own is None else own
