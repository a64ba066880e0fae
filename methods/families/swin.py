"""Swin Transformer, first and second version: windows of patches, in stages of growing width.

Liu et al., "Swin Transformer", ICCV 2021, https://arxiv.org/abs/2103.14030, and "Swin Transformer
V2", CVPR 2022, https://arxiv.org/abs/2111.09883. Prompts are what VPT defines there: the same ones
in every window, without a place (no bias, no mask), each block's of its own width. What leaves a
block of a prompt is the mean over the windows of its image (the released code takes that mean over
windows of different images where the last stage has several, which we do not repeat).

Queries, keys and values are made of the flat tokens (B, H * W, d), so that a prompt's are made
once for all windows and images, and only then cut into windows. Windows and heads share one
dimension, (B, windows * heads, T, c): so one bias serves all images, and kernels take it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.swin_transformer_v2 import WindowAttention as WindowAttentionV2
from torch import Tensor, nn

from methods.families.family import AttentionMaps, Family, Place, Position, by_heads, plain_maps

_LARGEST_SCALE = math.log(1 / 0.01)
"""Of the second version's cosines: its temperatures are at least 0.01."""


class Swin(Family):
    """timm's SwinTransformer."""

    in_windows = True
    _block: type[nn.Module] = SwinTransformerBlock
    _attention: type[nn.Module] = WindowAttention

    # What it is

    def refuse(self, vit: Any) -> str | None:
        if vit.global_pool != "avg":
            return f"its pooling {vit.global_pool!r} is not 'avg'"
        if vit.dynamic_img_size:
            return "it takes images of any size (dynamic_img_size), with a mask for each"
        if not all(len(stage.blocks) for stage in vit.layers):
            return "it has a stage without blocks"
        for index, block in enumerate(self.blocks(vit)):
            if type(block) is not self._block:
                return f"block {index} is a {type(block).__name__}, not timm's Swin block"
            if type(block.attn) is not self._attention:
                return f"block {index} attends with {type(block.attn).__name__}"
        return None

    def refuse_persistent(self) -> str | None:
        return "the blocks attend in windows, and the width grows from stage to stage"

    def blocks(self, vit: Any) -> Sequence[Any]:
        return [block for stage in vit.layers for block in stage.blocks]

    def attention_widths(self, block: Any) -> tuple[int, int]:
        width = block.attn.proj.in_features
        return width, width

    def num_prefix(self, vit: Any) -> int:
        return 0

    def has_class_token(self, vit: Any) -> bool:
        return False

    def num_patches(self, vit: Any, index: int) -> int:
        return math.prod(self.blocks(vit)[index].input_resolution)

    def block_parts(self, vit: Any, index: int) -> Iterable[nn.Module]:
        stage = self._stage_from(vit, index)
        merging = () if stage is None else (stage.downsample,)
        return (*merging, self.blocks(vit)[index])

    def final_norms(self, vit: Any) -> list[nn.Module]:
        return [vit.norm]

    def readout_parts(self, vit: Any) -> Iterable[nn.Module]:
        return [vit.norm]

    # Before and between the blocks

    def embed(self, vit: Any, images: Tensor) -> Tensor:
        return self.patches(vit, images)

    def changes_before(self, vit: Any, index: int) -> bool:
        return self._stage_from(vit, index) is not None

    def enter(self, vit: Any, index: int, tokens: Tensor) -> Tensor:
        """Four patches become one of twice the width, where a stage begins."""
        stage = self._stage_from(vit, index)
        if stage is None:
            return tokens
        return stage.downsample(tokens.unflatten(1, stage.input_resolution)).flatten(1, 2)

    def _stage_from(self, vit: Any, index: int) -> Any | None:
        """The later stage that begins with block `index`."""
        first = 0
        for stage in vit.layers:
            if first == index and not isinstance(stage.downsample, nn.Identity):
                return stage
            first += len(stage.blocks)
        return None

    def position(self, vit: Any, index: int) -> Position:
        block = self.blocks(vit)[index]
        relative = block.attn.relative_position_index
        bias = self._bias_table(block)[relative.flatten()].unflatten(0, relative.shape)
        bias = bias.permute(2, 0, 1).expand(math.prod(_windows_of(block)), -1, -1, -1)
        if block.attn_mask is not None:
            bias = bias + block.attn_mask.unsqueeze(1)
        return Position(bias=bias.flatten(0, 1).unsqueeze(0))

    def position_weights(self, vit: Any) -> Iterable[nn.Parameter]:
        return [block.attn.relative_position_bias_table for block in self.blocks(vit)]

    def _bias_table(self, block: Any) -> Tensor:
        """(relative positions, heads)."""
        return block.attn.relative_position_bias_table

    # Inside a block

    def arrange(
        self,
        block: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prompts: tuple[Tensor, Tensor] | None,
        in_sequence: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cut into windows and heads, (B, windows * heads, T, c)."""
        bias = self._fused(block)[1]
        over_edge = (None,) * 3 if bias is None else bias.chunk(3)
        q, k, v = (
            _cut(block, flat, beyond, in_sequence)
            for flat, beyond in zip((q, k, v), over_edge, strict=True)
        )
        if prompts is not None:
            prompt_k, prompt_v = (_in_all_windows(block, t, q.shape[0]) for t in prompts)
            k = torch.cat([prompt_k, k], dim=2)
            v = torch.cat([prompt_v, v], dim=2)
        return q, k, v

    def heads(
        self, block: Any, q: Tensor, k: Tensor, v: Tensor, place: Place
    ) -> tuple[Tensor, Tensor, Tensor]:
        return q, k, v

    def heads_anywhere(
        self, block: Any, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (by_heads(t, block.attn.num_heads) for t in (q, k, v))
        return q, k, v

    def attention_maps(self, block: Any) -> AttentionMaps | None:
        return plain_maps(block.attn, *self._of_queries(block))

    def merge(self, block: Any, attended: Tensor, in_sequence: int) -> Tensor:
        return _joined(block, attended, in_sequence)

    def project(self, block: Any, attended: Tensor) -> Tensor:
        return block.attn.proj_drop(block.attn.proj(attended))

    def scale_attention(self, block: Any, branch: Tensor) -> Tensor:
        return block.drop_path1(branch)

    def scale_mlp(self, block: Any, branch: Tensor) -> Tensor:
        return block.drop_path2(branch)

    # The readout

    def _mean(self, vit: Any, rows: Tensor) -> Tensor:
        return vit.norm(rows).mean(dim=1)


class SwinV2(Swin):
    """timm's SwinTransformerV2: scores are cosines, norms stand behind attention and MLP, and a
    small network gives the bias of a relative position."""

    _block = SwinTransformerV2Block
    _attention = WindowAttentionV2

    def position_weights(self, vit: Any) -> Iterable[nn.Parameter]:
        return [p for block in self.blocks(vit) for p in block.attn.cpb_mlp.parameters()]

    def _bias_table(self, block: Any) -> Tensor:
        attn = block.attn
        return 16 * torch.sigmoid(attn.cpb_mlp(attn.relative_coords_table).flatten(0, 2))

    def before_attention(self, block: Any, tokens: Tensor) -> Tensor:
        return tokens

    def queries_keys_values(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = F.linear(normed, *self._fused(block)).chunk(3, dim=-1)
        return q, k, v

    def _fused(self, block: Any) -> tuple[Tensor, Tensor | None]:
        attn = block.attn
        if attn.q_bias is None:
            return attn.qkv.weight, None
        return attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])

    def heads(
        self, block: Any, q: Tensor, k: Tensor, v: Tensor, place: Place
    ) -> tuple[Tensor, Tensor, Tensor]:
        scale = self._cosine_scale(block).repeat(math.prod(_windows_of(block)), 1, 1)
        return F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), v

    def heads_anywhere(
        self, block: Any, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads_anywhere(block, q, k, v)
        return F.normalize(q, dim=-1) * self._cosine_scale(block), F.normalize(k, dim=-1), v

    def attention_maps(self, block: Any) -> AttentionMaps | None:
        return None

    def _cosine_scale(self, block: Any) -> Tensor:
        """(heads, 1, 1)."""
        return block.attn.logit_scale.clamp(max=_LARGEST_SCALE).exp()

    def score_scale(self, block: Any) -> float:
        return 1.0

    def scale_attention(self, block: Any, branch: Tensor) -> Tensor:
        return block.drop_path1(block.norm1(branch))

    def mlp(self, block: Any, tokens: Tensor) -> Tensor:
        return block.mlp(tokens)

    def scale_mlp(self, block: Any, branch: Tensor) -> Tensor:
        return block.drop_path2(block.norm2(branch))


# Windows


def _windows_of(block: Any) -> tuple[int, int]:
    """How many cover the block's patches, down and across."""
    (height, width), (high, wide) = block.input_resolution, block.window_size
    return -(-height // high), -(-width // wide)


def _cut(block: Any, flat: Tensor, beyond: Tensor | None, in_sequence: int) -> Tensor:
    """From flat tokens (B, P + H * W, width) to windows and heads (B, windows * heads, P + N, c).

    `in_sequence` = P prompts stand in every window; of the queries they may be all there is.
    `beyond` is what stands where windows reach over the edge of the patches (None: zeros): what
    the layer makes of a token of zeros, as timm has it there.
    """
    prompts = _in_all_windows(block, flat[:, :in_sequence], flat.shape[0])
    if flat.shape[1] == in_sequence:
        return prompts
    (height, width), (high, wide) = block.input_resolution, block.window_size
    down, across = _windows_of(block)
    grid = flat[:, in_sequence:].unflatten(1, (height, width))
    if any(block.shift_size):
        shift_down, shift_across = block.shift_size
        grid = grid.roll((-shift_down, -shift_across), (1, 2))
    if (down * high, across * wide) != (height, width):
        shape = (grid.shape[0], down * high, across * wide, grid.shape[-1])
        whole = grid.new_zeros(shape) if beyond is None else beyond.to(grid.dtype).expand(shape)
        below, right = whole[:, height:], whole[:, :height, width:]
        grid = torch.cat([torch.cat([grid, right], dim=2), below], dim=1)
    grid = grid.unflatten(3, (block.attn.num_heads, -1))
    grid = grid.unflatten(2, (across, wide)).unflatten(1, (down, high))
    cut = grid.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 3)
    return torch.cat([prompts, cut], dim=2) if in_sequence else cut


def _in_all_windows(block: Any, prompts: Tensor, batch_size: int) -> Tensor:
    """(1 or B, P, width) as (B, windows * heads, P, c), the same in every window."""
    heads = by_heads(prompts, block.attn.num_heads)
    count = math.prod(_windows_of(block))
    return heads.unsqueeze(1).expand(batch_size, count, -1, -1, -1).flatten(1, 2)


def _joined(block: Any, cut: Tensor, in_sequence: int) -> Tensor:
    """What `_cut` cut, put together again: of prompts the mean over the windows."""
    down, across = _windows_of(block)
    cut = cut.unflatten(1, (down, across, -1))
    prompts = None
    if in_sequence:
        prompts = cut[..., :in_sequence, :].mean(dim=(1, 2)).transpose(1, 2).flatten(2)
        if cut.shape[-2] == in_sequence:
            return prompts
        cut = cut[..., in_sequence:, :]
    (height, width), (high, wide) = block.input_resolution, block.window_size
    grid = cut.unflatten(4, (high, wide)).permute(0, 1, 4, 2, 5, 3, 6)
    grid = grid.flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, :height, :width]
    if any(block.shift_size):
        grid = grid.roll(block.shift_size, (1, 2))
    patches = grid.flatten(1, 2)
    return patches if prompts is None else torch.cat([prompts, patches], dim=1)
