"""timm's plain VisionTransformer: the family of the papers, and the smallest one."""

from typing import Any

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from methods.families.family import AttentionMaps, Family, plain_maps, refused_pooling
from methods.timm_private import tokens_of


class PlainViT(Family):
    """Positions are added to the tokens; everything else is as `Family` says."""

    def refuse(self, vit: Any) -> str | None:
        if not isinstance(vit.patch_drop, nn.Identity):
            return "it drops patches at random"
        return refused_blocks(vit)

    def embed(self, vit: Any, images: Tensor) -> Tensor:
        return tokens_of(vit, vit.patch_embed(images))

    def attention_maps(self, block: Any) -> AttentionMaps | None:
        return plain_maps(block.attn, *self._of_queries(block))


def refused_blocks(vit: Any) -> str | None:
    """Why the blocks of a network, or what reads them, are not those of a plain ViT."""
    for index, block in enumerate(vit.blocks):
        if type(block) is not Block:
            return f"block {index} is a {type(block).__name__}, not a plain timm Block"
        if type(block.attn) is not Attention:
            return f"block {index} attends with {type(block.attn).__name__}, not Attention"
        if getattr(block.attn, "gate", None) is not None:
            return f"block {index} gates its attention"
    if vit.pool_include_prefix and vit.global_pool != "token":
        return "its pooling includes class token and registers (pool_include_prefix)"
    return refused_pooling(vit)
