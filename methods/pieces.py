"""What a frozen block does around its attention, as functions that torch.compile can fuse.

On a GPU these parts are bound by memory: run one operation at a time they read and write the
tokens again and again. The attention itself stays outside, so that its fast kernels are used.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from torch import Tensor, nn

from methods.attention import project
from methods.families.family import Family, Place
from methods.method import Beside

_MOST_KINDS = 64
"""Of calls that are compiled apart; PyTorch runs what comes after so many as it is."""


class Entered(NamedTuple):
    """What a block's attention is asked with; the prompts' keys and values stand in front.

    Token by token and not by heads: into code that is compiled for any shape a gradient comes
    contiguous in the order that is said here. Attention gives it in the order in which its queries,
    keys and values lie in memory; any other would be copied, and read across its rows.
    """

    q: Tensor
    """(B, T, [windows *] heads, c), of the tokens that ask."""
    k: Tensor
    """(B, P + N, [windows *] heads, c)."""
    v: Tensor
    """(B, P + N, [windows *] heads, c)."""
    tokens: Tensor
    """(B, T, d): those that ask, as they entered the block."""
    normed: Tensor | None
    """(B, T, d): the same behind the block's first norm, where it was asked for."""

    def by_heads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as an attention takes them, (B, [windows *] heads, ., c)."""
        return self.q.transpose(1, 2), self.k.transpose(1, 2), self.v.transpose(1, 2)


class Entry(NamedTuple):
    """What enters a block beside its tokens."""

    asking: slice
    """The tokens whose queries are asked."""
    prompts: Tensor | None
    """(P, d) or (B, P, d)."""
    place: Place
    keep_normed: bool
    """Whether the normed tokens are wanted behind the attention."""


class Said(NamedTuple):
    """What comes out of a block's attention."""

    attended: Tensor
    """(B, T, d)."""
    beside: Beside | None = None
    """What the method puts there."""
    normed: Tensor | None = None
    """`Entered.normed`, for what stands beside."""


def enter(family: Family, block: nn.Module, tokens: Tensor, entry: Entry) -> Entered:
    """From the tokens (B, N, d) that enter a block."""
    asking, prompts, place, keep_normed = entry
    normed = family.before_attention(block, tokens)
    by_heads = project(family, block, normed, asking, prompts, place)
    q, k, v = (_row_by_row(tensor.transpose(1, 2)) for tensor in by_heads)
    # In the type that linear layers get: written whole it would cost as much as all else here.
    kept = normed[:, asking].to(q.dtype) if keep_normed else None
    return Entered(q, k, v, tokens[:, asking], kept)


def _row_by_row(tensor: Tensor) -> Tensor:
    """What was made by heads, (B, T, heads, c), is written in this order as cheaply as in that."""
    return tensor if tensor.stride(1) >= tensor.stride(2) else tensor.contiguous()


def leave(family: Family, block: nn.Module, tokens: Tensor, said: Said) -> Tensor:
    """The tokens (B, N, d) that leave the block, from those that entered it and what its attention
    said."""
    branch = said.attended
    if said.beside is not None:
        branch = said.beside(branch, said.normed)
    result = tokens + family.scale_attention(block, branch)
    return result + family.scale_mlp(block, family.mlp(block, result))


def pass_on(
    family: Family,
    block: nn.Module,
    tokens: Tensor,
    said: Said,
    following: nn.Module,
    entry: Entry,
) -> Entered:
    """From one attention to the next: `leave` this block and `enter` the `following` one."""
    return enter(family, following, leave(family, block, tokens, said), entry)


class Compiled(NamedTuple):
    """The same functions, compiled."""

    enter: Callable[..., Entered]
    leave: Callable[..., Tensor]
    pass_on: Callable[..., Entered]


@cache
def compiled() -> Compiled:
    """Compiled when first called, once for all numbers of images, tokens and prompts."""
    import torch._dynamo  # takes a second that only this is worth

    # Each with and without gradients, for prompts of all images, of each, or none, and for each
    # form of what stands beside an attention.
    torch._dynamo.config.recompile_limit = max(_MOST_KINDS, torch._dynamo.config.recompile_limit)
    return Compiled(
        enter=torch.compile(enter, dynamic=True),
        leave=torch.compile(leave, dynamic=True),
        pass_on=torch.compile(pass_on, dynamic=True),
    )
