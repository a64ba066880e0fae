"""The definition that the walk through a Swin Transformer must equal.

VPT's: in every window the prompts stand in front of its patches as rows of the attention, without
bias or mask; what leaves it of a prompt is the mean over the windows of its image. Every block
gets its own prompts in place of those that left the block before.
"""

import math

import torch
from timm.layers.drop import drop_path
from timm.models.swin_transformer import window_partition, window_reverse
from torch.nn import functional as F


def plain_swin_features(model, images):
    """What the head of a `TunedViT` reads (B, d), in the plain row form."""
    vit, tuning = model.vit, model.tuning
    tuning.begin()
    grid = vit.patch_embed(images)
    prompts, index = None, 0
    for stage in vit.layers:
        grid = stage.downsample(grid)
        for block in stage.blocks:
            prompts = None
            if tuning.touches(index):
                prompts = tuning.prompts_from(index, grid.flatten(1, 2))
            if prompts is not None:
                prompts = prompts.expand(len(images), -1, -1).to(grid.dtype)
            grid, prompts = _block(block, model, index, grid, prompts)
            index += 1
    rows = {"img_pool": [grid.flatten(1, 2)], "prompt_pool": [prompts]}.get(model.readout)
    if rows is None:  # mean_no_cls: prompts and patches
        rows = [grid.flatten(1, 2)] if prompts is None else [prompts, grid.flatten(1, 2)]
    return vit.norm(torch.cat(rows, dim=1)).mean(dim=1)


def _block(block, model, index, grid, prompts):
    """The patches (B, H, W, d) and the prompts (B, P, d) that leave a block."""
    tuning = model.tuning

    def drop(branch):
        return drop_path(branch, model._drop_path[index], model.training)

    count = 0 if prompts is None else prompts.shape[1]
    shape = grid.shape
    tokens = grid.flatten(1, 2)
    if count:
        tokens = torch.cat([prompts, tokens], dim=1)
    is_v2 = hasattr(block.attn, "logit_scale")
    acts = tuning.touches(index)
    normed = tokens if is_v2 else block.norm1(tokens)
    attended = _attention(block, tuning if acts else None, index, normed, count, shape)
    if acts and (beside := tuning.beside_attention(index, attended)) is not None:
        attended = beside(attended, normed)
    tokens = tokens + drop(block.drop_path1(block.norm1(attended) if is_v2 else attended))
    if acts:
        tokens = tuning.before_mlp(index, tokens)
    output = block.mlp(tokens if is_v2 else block.norm2(tokens))
    if acts:
        output = tuning.after_mlp(index, output)
    tokens = tokens + drop(block.drop_path2(block.norm2(output) if is_v2 else output))
    if acts:
        tokens = tuning.after_block(index, tokens)
    return tokens[:, count:].reshape(shape), tokens[:, :count] if count else None


def _attention(block, tuning, index, normed, count, shape):
    """Of prompts and patches (B, P + H * W, d), window by window."""
    attn, window, shift = block.attn, block.window_size, block.shift_size
    batch, height, width = shape[:3]
    rolled = torch.roll(normed[:, count:].reshape(shape), (-shift[0], -shift[1]), (1, 2))
    padded = F.pad(rolled, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    high, wide = padded.shape[1:3]
    windows = window_partition(padded, window).flatten(1, 2)
    num_windows = len(windows) // batch
    rows = torch.cat([normed[:, :count].repeat_interleave(num_windows, dim=0), windows], dim=1)

    q, k, v = F.linear(rows, attn.qkv.weight, _qkv_bias(attn)).chunk(3, dim=-1)
    if tuning is not None:
        for_q, for_v = tuning.query_update(index, rows), tuning.value_update(index, rows)
        q = q if for_q is None else q + for_q
        v = v if for_v is None else v + for_v
    q, k, v = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    if hasattr(attn, "logit_scale"):
        scale = attn.logit_scale.clamp(max=math.log(100)).exp()
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale
    else:
        scores = q * attn.scale @ k.transpose(-2, -1)
    if tuning is not None and (temperature := tuning.temperature(index)) is not None:
        scores = scores / temperature
    bias = F.pad(_position_bias(attn), (count, 0, count, 0))
    scores = scores + bias
    if block.attn_mask is not None:
        mask = F.pad(block.attn_mask, (count, 0, count, 0)).repeat(batch, 1, 1)
        scores = scores + mask[:, None]
    out = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    out = attn.proj(out)

    patches = window_reverse(out[:, count:].unflatten(1, window), window, high, wide)
    patches = torch.roll(patches[:, :height, :width], shift, (1, 2)).flatten(1, 2)
    prompts = out[:, :count].unflatten(0, (batch, num_windows)).mean(dim=1)
    return torch.cat([prompts, patches], dim=1)


def _qkv_bias(attn):
    if hasattr(attn, "q_bias"):
        return None if attn.q_bias is None else torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    return attn.qkv.bias


def _position_bias(attn):
    """(heads, N, N) for the patches of a window."""
    area = math.prod(attn.window_size)
    if hasattr(attn, "cpb_mlp"):
        table = attn.cpb_mlp(attn.relative_coords_table).view(-1, attn.num_heads)
        table = 16 * torch.sigmoid(table)
    else:
        table = attn.relative_position_bias_table
    return table[attn.relative_position_index.view(-1)].view(area, area, -1).permute(2, 0, 1)
