"""timm's Eva: EVA, EVA-02, DINOv3, Perception Encoder, RoPE-ViT, Sapiens2, LingBot-Vision.

What differs from the plain ViT: positions are rotations of the patches' queries and keys (class
token, registers and prompts are not rotated), query, key and value may have layers or biases of
their own, several heads of queries may share one of keys and values, and EVA-02-E has its norms
behind attention and MLP.

timm can move and stretch the coordinates of the rotations at random in training, which is part of
the pretraining of some. That is left out, also where the whole network learns.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import AttentionRope
from timm.layers.pos_embed_sincos import (
    RotaryEmbeddingMixed,
    apply_rot_embed_cat,
    get_mixed_freqs,
    get_mixed_grid,
)
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from methods.families.beit import fused_with_biases, scaled
from methods.families.family import (
    AttentionMaps,
    Family,
    Place,
    Position,
    by_heads,
    plain_maps,
    refused_pooling,
)
from methods.families.places import unrotated

_ROTATIONS = (
    "RotaryEmbeddingCat", "RotaryEmbeddingMixed", "RotaryEmbeddingDinoV3", "RotaryEmbeddingMRope"
)  # fmt: skip
"""timm's classes that give sines and cosines in one table."""


class EvaViT(Family):
    """Rotated queries and keys, in blocks with the norm in front or behind."""

    def refuse(self, vit: Any) -> str | None:
        for index, block in enumerate(vit.blocks):
            if type(block) not in (EvaBlock, EvaBlockPostNorm):
                return f"block {index} is a {type(block).__name__}, not one of timm's Eva"
            if type(block.attn) not in (EvaAttention, AttentionRope):
                return f"block {index} attends with {type(block.attn).__name__}, not EvaAttention"
            if getattr(block.attn, "gate", None) is not None:
                return f"block {index} gates its attention"
        if vit.patch_drop is not None:
            return "it drops patches at random"
        if vit.rope is not None and type(vit.rope).__name__ not in _ROTATIONS:
            return f"its positions are a {type(vit.rope).__name__}"
        return refused_pooling(vit)

    def attention_widths(self, block: Any) -> tuple[int, int]:
        attn = block.attn
        return attn.num_heads * attn.head_dim, _value_heads(attn) * attn.head_dim

    def has_class_token(self, vit: Any) -> bool:
        return vit.cls_token is not None

    # Before the blocks

    def embed(self, vit: Any, images: Tensor) -> Tensor:
        tokens = self.patches(vit, images)
        position = vit.pos_embed
        if position is not None and vit.no_embed_class:
            tokens = tokens + position
        in_front = [
            token.expand(tokens.shape[0], -1, -1)
            for token in (vit.cls_token, vit.reg_token)
            if token is not None
        ]
        tokens = torch.cat([*in_front, tokens], dim=1)
        if position is not None and not vit.no_embed_class:
            tokens = tokens + position
        return vit.norm_pre(vit.pos_drop(tokens))

    def position(self, vit: Any, index: int) -> Position:
        if vit.rope is None:
            return Position()
        if isinstance(vit.rope, RotaryEmbeddingMixed):
            table = _mixed(vit.rope, index, self.grid(vit))
        else:
            table = _table(vit.rope, self.grid(vit), is_kept=not vit.dynamic_img_size)
        return Position(rotation=unrotated(table, self.num_prefix(vit)))

    def position_weights(self, vit: Any) -> Iterable[nn.Parameter]:
        return () if vit.rope is None else vit.rope.parameters()

    # Inside a block

    def before_attention(self, block: Any, tokens: Tensor) -> Tensor:
        return tokens if isinstance(block, EvaBlockPostNorm) else block.norm1(tokens)

    def queries_keys_values(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attn = block.attn
        if attn.qkv is None:
            return attn.q_proj(normed), attn.k_proj(normed), attn.v_proj(normed)
        q, k, v = F.linear(normed, *self._fused(block)).chunk(3, dim=-1)
        return q, k, v

    def _of_queries(self, block: Any) -> tuple[Tensor, Tensor | None]:
        attn = block.attn
        if attn.qkv is not None:
            return super()._of_queries(block)
        return attn.q_proj.weight, attn.q_proj.bias

    def keys_values(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        attn = block.attn
        if attn.qkv is not None:
            return super().keys_values(block, normed)
        return attn.k_proj(normed), attn.v_proj(normed)

    def _fused(self, block: Any) -> tuple[Tensor, Tensor | None]:
        attn = block.attn
        return fused_with_biases(attn) if isinstance(attn, EvaAttention) else super()._fused(block)

    def heads(
        self, block: Any, q: Tensor, k: Tensor, v: Tensor, place: Place
    ) -> tuple[Tensor, Tensor, Tensor]:
        attn = block.attn
        q = by_heads(q, attn.num_heads)
        k, v = (by_heads(t, _value_heads(attn)) for t in (k, v))
        q, k = attn.q_norm(q), attn.k_norm(k)
        if place.of_queries is not None and place.of_keys is not None:
            q = apply_rot_embed_cat(q, place.of_queries, half=attn.rotate_half).to(v.dtype)
            k = apply_rot_embed_cat(k, place.of_keys, half=attn.rotate_half).to(v.dtype)
        if (group := attn.num_heads // _value_heads(attn)) > 1:
            k, v = (t.repeat_interleave(group, dim=-3) for t in (k, v))
        return q, k, v

    def attention_maps(self, block: Any) -> AttentionMaps | None:
        if block.attn.num_heads != _value_heads(block.attn):
            return None
        return plain_maps(block.attn, *self._of_queries(block))

    def scale_attention(self, block: Any, branch: Tensor) -> Tensor:
        if isinstance(block, EvaBlockPostNorm):
            return block.drop_path1(block.norm1(branch))
        return block.drop_path1(scaled(branch, block.gamma_1))

    def mlp(self, block: Any, tokens: Tensor) -> Tensor:
        return block.mlp(tokens if isinstance(block, EvaBlockPostNorm) else block.norm2(tokens))

    def scale_mlp(self, block: Any, branch: Tensor) -> Tensor:
        if isinstance(block, EvaBlockPostNorm):
            return block.drop_path2(block.norm2(branch))
        return block.drop_path2(scaled(branch, block.gamma_2))

    # The readout

    def rows(self, vit: Any, readout: str, in_sequence: int) -> slice:
        # Perception Encoder's pooling attends to the class token, too.
        return slice(None) if readout == "attn_pool" else super().rows(vit, readout, in_sequence)

    def features(self, vit: Any, rows: Tensor, readout: str, in_sequence: int) -> Tensor:
        if readout == "attn_pool" and in_sequence:
            first = self.num_prefix(vit)
            rows = torch.cat([rows[:, :first], rows[:, first + in_sequence :]], dim=1)
        return super().features(vit, rows, readout, in_sequence)


def _value_heads(attn: Any) -> int:
    """Heads of keys and values: fewer than of queries where these share them."""
    return getattr(attn, "num_kv_heads", attn.num_heads)


def _table(rope: Any, grid: tuple[int, int], *, is_kept: bool) -> Tensor:
    """(N, 2c): sines and cosines for the patches of an image.

    `is_kept`: the network keeps them for images of its size, where its rotation can.
    """
    was_training = rope.training
    rope.eval()  # no coordinates moved at random
    try:
        if is_kept and hasattr(rope, "feat_shape"):
            return rope.get_embed()
        return rope.get_embed(shape=list(grid))
    finally:
        rope.train(was_training)


def _mixed(rope: RotaryEmbeddingMixed, index: int, grid: tuple[int, int]) -> Tensor:
    """(heads, N, 2c): the same with the frequencies that block `index` has learnt."""
    across, down = rope.t_x, rope.t_y
    if across is None or down is None:
        across, down = get_mixed_grid(
            list(grid), grid_indexing=rope.grid_indexing, device=rope.freqs.device
        )
    return get_mixed_freqs(rope.freqs[:, index], across, down)
