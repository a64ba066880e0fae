"""What a frozen block does around its attention, as functions that torch.compile can fuse.

On a GPU these parts are bound by memory: run one operation at a time they read and write the
tokens again and again. The attention itself stays outside, so that its fast kernels are used.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor

_MOST_KINDS = 32
"""Of calls that are compiled apart; PyTorch runs what comes after so many as it is."""


class Entered(NamedTuple):
    """What a block's attention is asked with; the prompts' keys and values stand in front."""

    q: Tensor
    """(B, T, width), of the tokens that ask."""
    k: Tensor
    """(B, P + N, width)."""
    v: Tensor
    """(B, P + N, width)."""
    tokens: Tensor
    """(B, T, d): those that ask, as they entered the block."""
    normed: Tensor | None
    """(B, T, d): the same behind the block's first norm, where it was asked for."""


def project(
    block: Block,
    normed: Tensor,
    asking: slice,
    prompts: Tensor | None,
    update: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the asking tokens, keys and values of `prompts` and of all tokens.

    `normed` is (B, N, d), `prompts` (P, d) or (B, P, d) and not normed yet. `update` makes of the
    asking tokens, their queries and the values of all tokens other queries and values.
    """
    attn = block.attn
    assert isinstance(attn, Attention)
    width = attn.num_heads * attn.head_dim
    weight, bias = attn.qkv.weight, attn.qkv.bias
    q_bias, kv_bias = (None, None) if bias is None else (bias[:width], bias[width:])
    asking_normed = normed[:, asking]
    if asking_normed.shape[1] == normed.shape[1]:
        q, k, v = attn.qkv(normed).split(width, dim=-1)
    else:
        q = F.linear(asking_normed, weight[:width], q_bias)
        k, v = F.linear(normed, weight[width:], kv_bias).split(width, dim=-1)
    if update is not None:
        q, v = update(asking_normed, q, v)
    if prompts is not None:
        normed_prompts = block.norm1(prompts.to(normed.dtype))
        both = F.linear(normed_prompts, weight[width:], kv_bias).expand(normed.shape[0], -1, -1)
        prompt_k, prompt_v = both.split(width, dim=-1)
        k = torch.cat([prompt_k, k], dim=1)
        v = torch.cat([prompt_v, v], dim=1)
    return q, k, v


def enter(
    block: Block, tokens: Tensor, asking: slice, prompts: Tensor | None, keep_normed: bool
) -> Entered:
    """From the tokens (B, N, d) that enter a block."""
    normed = block.norm1(tokens)
    q, k, v = project(block, normed, asking, prompts)
    # In the type that linear layers get: written whole it would cost as much as all else here.
    kept = normed[:, asking].to(q.dtype) if keep_normed else None
    return Entered(q, k, v, tokens[:, asking], kept)


def leave(block: Block, tokens: Tensor, branch: Tensor) -> Tensor:
    """The tokens (B, N, d) that leave the block, from those that entered it and `branch`, what the
    attention adds to them."""
    result = tokens + block.ls1(branch)
    return result + block.ls2(block.mlp(block.norm2(result)))


def pass_on(
    block: Block,
    tokens: Tensor,
    branch: Tensor,
    following: Block,
    asking: slice,
    prompts: Tensor | None,
    keep_normed: bool,
) -> Entered:
    """From one attention to the next: `leave` this block and `enter` the `following` one."""
    return enter(following, leave(block, tokens, branch), asking, prompts, keep_normed)


class Compiled(NamedTuple):
    """The same functions, compiled."""

    enter: Callable[..., Entered]
    leave: Callable[..., Tensor]
    pass_on: Callable[..., Entered]


@cache
def compiled() -> Compiled:
    """Compiled when first called, once for all numbers of images, tokens and prompts."""
    import torch._dynamo  # takes a second that only this is worth

    # Each with and without gradients, and for prompts of all images, of each, or none.
    torch._dynamo.config.recompile_limit = max(_MOST_KINDS, torch._dynamo.config.recompile_limit)
    return Compiled(
        enter=torch.compile(enter, dynamic=True),
        leave=torch.compile(leave, dynamic=True),
        pass_on=torch.compile(pass_on, dynamic=True),
    )
