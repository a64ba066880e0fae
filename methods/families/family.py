"""What the walk must know of a backbone: one file per family says it.

A family is an object without state, chosen by the class of the network. It alone touches the
network's submodules; the walk (`methods/walk.py`), the attention (`methods/attention.py`) and the
methods ask it. What stands here is the block that most Vision Transformers have: norm, fused
queries, keys and values, projection, residual, norm, MLP, residual; with class token and registers
in front of the patches. A family says where it differs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place where attention adds something to a sequence. A method is asked at each of them."""

    index: int
    """What the hooks of a method call it: its number in `Family.sites`."""
    width: int
    """Of the tokens, and so of prompts."""
    query_width: int
    """Of the queries of all heads together."""
    value_width: int
    """Of the keys, and of the values, of all heads together."""
    stack: str = "image"
    """The tower that it is in, for networks of several."""
    kind: str = "self"
    """self: the tokens ask each other. cross: they ask the tokens of another stack."""


class Position(NamedTuple):
    """What position does to one attention, as tables that no image changes. Nothing where
    position is added to the tokens."""

    rotation: Tensor | None = None
    """([heads,] T, 2c): sines and cosines by which queries and keys are rotated."""
    bias: Tensor | None = None
    """([windows,] heads, T, T): added to the scores."""


class Place(NamedTuple):
    """`Position`, cut for the tokens that ask and are asked in one pass."""

    of_queries: Tensor | None = None
    """([heads,] T, 2c)."""
    of_keys: Tensor | None = None
    """([heads,] P + N, 2c)."""
    bias: Tensor | None = None
    """([windows,] heads, T, P + N)."""


NOWHERE = Place()


class AttentionMaps(NamedTuple):
    """The linear maps on both sides of an attention whose scores are plain products."""

    num_heads: int
    query_weight: Tensor
    """(width of all queries, d)."""
    query_bias: Tensor | None
    out_weight: Tensor
    """(d, width of all values)."""
    out_bias: Tensor | None


class Family:
    """One family of backbones. Arguments named `vit` are a backbone, those named `block` one of
    its blocks; tokens are (B, T, d), also where the network itself keeps them as an image."""

    in_windows: bool = False
    """A token asks only those of its window, and not all."""

    # What it is

    def refuse(self, vit: Any) -> str | None:
        """Why this network would be computed wrongly; None where it would not."""
        raise NotImplementedError

    def refuse_persistent(self) -> str | None:
        """Why prompts cannot stay in the sequence from block to block; None where they can."""
        return None

    def blocks(self, vit: Any) -> Sequence[Any]:
        """All blocks in their order; block i has the attention of site i."""
        return vit.blocks

    def sites(self, vit: Any) -> tuple[Site, ...]:
        return tuple(
            Site(index=index, width=self.token_width(block), query_width=of_q, value_width=of_v)
            for index, block in enumerate(self.blocks(vit))
            for of_q, of_v in [self.attention_widths(block)]
        )

    def attention_widths(self, block: Any) -> tuple[int, int]:
        """`Site.query_width` and `Site.value_width`."""
        width = block.attn.num_heads * block.attn.head_dim
        return width, width

    def token_width(self, block: Any) -> int:
        return block.norm1.weight.shape[0]

    def num_prefix(self, vit: Any) -> int:
        """Tokens in front of the patches: class token and registers."""
        return vit.num_prefix_tokens

    def has_class_token(self, vit: Any) -> bool:
        return vit.has_class_token

    def image_size(self, vit: Any) -> tuple[int, int]:
        return tuple(vit.patch_embed.img_size)

    def set_image_size(self, vit: Any, size: tuple[int, int]) -> None:
        """Tell a new network the size of its images, where it keeps none itself."""

    def patch_size(self, vit: Any) -> tuple[int, int]:
        return tuple(vit.patch_embed.patch_size)

    def grid(self, vit: Any) -> tuple[int, int]:
        """Patches of an image that enter the first block, down and across."""
        return tuple(vit.patch_embed.grid_size)

    def num_patches(self, vit: Any, index: int) -> int:
        """Patches that enter block `index`."""
        down, across = self.grid(vit)
        return down * across

    def first_weight(self, vit: Any) -> nn.Parameter:
        """The weight of the patch embedding: its device and type are those of the network."""
        return vit.patch_embed.proj.weight

    def block_parts(self, vit: Any, index: int) -> Iterable[nn.Module]:
        """The modules that are first used in front of, or in, block `index`."""
        return (self.blocks(vit)[index],)

    def final_norms(self, vit: Any) -> list[nn.Module]:
        """The norms behind the last block that have weights."""
        return [norm for norm in (vit.norm, vit.fc_norm) if list(norm.parameters())]

    def readout_parts(self, vit: Any) -> Iterable[nn.Module]:
        """The modules behind the last block."""
        return [part for part in (vit.norm, vit.fc_norm, vit.attn_pool) if part is not None]

    # Before and between the blocks

    def patches(self, vit: Any, images: Tensor) -> Tensor:
        """Patch tokens (B, N, d) without position, and without what stands in front of them."""
        embedded = vit.patch_embed(images)
        return embedded.flatten(1, -2)

    def embed(self, vit: Any, images: Tensor) -> Tensor:
        """The tokens that enter the first block."""
        raise NotImplementedError

    def changes_before(self, vit: Any, index: int) -> bool:
        """Whether something stands between block `index` and the one before."""
        return False

    def enter(self, vit: Any, index: int, tokens: Tensor) -> Tensor:
        """The tokens that enter block `index`, from those that left the one before."""
        return tokens

    def position(self, vit: Any, index: int) -> Position:
        """For the prefix and the patches of block `index`.

        What has no place, as the prefix may, has rotations that turn nothing and biases of zero.
        Prompts have none (`methods/families/places.py` adds their room).
        """
        return Position()

    def position_weights(self, vit: Any) -> Iterable[nn.Parameter]:
        """What `position` is computed from: where one of them learns, so does the position."""
        return ()

    # Inside a block: functions of the block alone, which torch.compile may fuse

    def before_attention(self, block: Any, tokens: Tensor) -> Tensor:
        """What queries, keys and values are computed from; prompts go through it too."""
        return block.norm1(tokens)

    def queries_keys_values(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = block.attn.qkv(normed).chunk(3, dim=-1)
        return q, k, v

    def queries(self, block: Any, normed: Tensor) -> Tensor:
        return F.linear(normed, *self._of_queries(block))

    def keys_values(self, block: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = self._fused(block)
        width = weight.shape[0] // 3
        both = F.linear(normed, weight[width:], None if bias is None else bias[width:])
        k, v = both.chunk(2, dim=-1)
        return k, v

    def _of_queries(self, block: Any) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the queries."""
        weight, bias = self._fused(block)
        width = weight.shape[0] // 3
        return weight[:width], None if bias is None else bias[:width]

    def _fused(self, block: Any) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of queries, keys and values in one layer."""
        return block.attn.qkv.weight, block.attn.qkv.bias

    def arrange(
        self,
        block: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prompts: tuple[Tensor, Tensor] | None,
        in_sequence: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values with those of `prompts`, (1 or B, P, width) each, in front.

        `in_sequence` prompts stand among the tokens themselves.
        """
        if prompts is not None:
            prompt_k, prompt_v = (t.expand(q.shape[0], -1, -1) for t in prompts)
            k = torch.cat([prompt_k, k], dim=1)
            v = torch.cat([prompt_v, v], dim=1)
        return q, k, v

    def heads(
        self, block: Any, q: Tensor, k: Tensor, v: Tensor, place: Place
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(..., T, width) to (..., heads, T, c), normed, in their place."""
        q, k, v = (by_heads(t, block.attn.num_heads) for t in (q, k, v))
        return block.attn.q_norm(q), block.attn.k_norm(k), v

    def heads_anywhere(
        self, block: Any, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, width) to (B, heads, T, c), normed, where neither side has a place or a window."""
        return self.heads(block, q, k, v, NOWHERE)

    def attention_maps(self, block: Any) -> AttentionMaps | None:
        """The maps of queries and output; None where these, the keys or the values are normed or
        shared between heads, or the family does not say."""
        return None

    def score_scale(self, block: Any) -> float:
        """The scores are multiplied by it."""
        return block.attn.scale

    def attention_dropout(self, block: Any) -> float:
        """The share of scores that the network itself drops in this pass."""
        return block.attn.attn_drop.p if block.attn.training else 0.0

    def merge(self, block: Any, attended: Tensor, in_sequence: int) -> Tensor:
        """(..., heads, T, c) to (B, T, width): what `arrange` and `heads` did, undone."""
        return attended.transpose(-3, -2).flatten(-2)

    def project(self, block: Any, attended: Tensor) -> Tensor:
        """(B, T, width) of all heads to what the attention says (B, T, d)."""
        attn = block.attn
        return attn.proj_drop(attn.proj(attn.norm(attended)))

    def scale_attention(self, block: Any, branch: Tensor) -> Tensor:
        """What is added to the tokens, from what the attention says."""
        return block.drop_path1(block.ls1(branch))

    def mlp(self, block: Any, tokens: Tensor) -> Tensor:
        return block.mlp(block.norm2(tokens))

    def scale_mlp(self, block: Any, branch: Tensor) -> Tensor:
        """What is added to the tokens, from what the MLP says."""
        return block.drop_path2(block.ls2(branch))

    # The readout

    def readout(self, vit: Any) -> str:
        """How its features were read in pretraining: cls, mean_no_cls or attn_pool."""
        return POOLINGS[vit.global_pool]

    def feature_width(self, vit: Any, readout: str) -> int:
        return 2 * vit.num_features if readout == "cls_mean" else vit.num_features

    def rows(self, vit: Any, readout: str, in_sequence: int) -> slice:
        """The tokens that a readout reads, where `in_sequence` prompts stand behind the prefix."""
        first_prompt = self.num_prefix(vit)
        first_patch = first_prompt + in_sequence
        return {
            "cls": slice(0, 1),
            "mean_no_cls": slice(first_prompt, None),
            "img_pool": slice(first_patch, None),
            "prompt_pool": slice(first_prompt, first_patch),
            "attn_pool": slice(first_patch, None),
            "cls_mean": slice(None),
        }[readout]

    def features(self, vit: Any, rows: Tensor, readout: str, in_sequence: int) -> Tensor:
        """What the head reads, (B, width), from the rows that the readout reads."""
        if readout == "attn_pool":
            return vit.fc_norm(vit.attn_pool(vit.norm(rows)))
        if readout == "cls":
            return vit.fc_norm(vit.norm(rows[:, 0]))
        if readout == "cls_mean":
            # Of normed tokens whatever the pooling: what users of DINOv2 and Virchow2 take.
            normed = vit.norm(rows)
            patches = normed[:, self.num_prefix(vit) + in_sequence :].mean(dim=1)
            return torch.cat([vit.fc_norm(normed[:, 0]), vit.fc_norm(patches)], dim=-1)
        return self._mean(vit, rows)

    def _mean(self, vit: Any, rows: Tensor) -> Tensor:
        if vit.global_pool == "avg":  # timm has put the norm where the pretraining had it
            return vit.fc_norm(vit.norm(rows).mean(dim=1))
        return vit.fc_norm(vit.norm(rows.mean(dim=1)))


def by_heads(flat: Tensor, count: int) -> Tensor:
    """(..., T, width) to (..., heads, T, c)."""
    return flat.unflatten(-1, (count, -1)).transpose(-3, -2)


def refused_pooling(vit: Any) -> str | None:
    """Why a network's own pooling is none that is known here; None where it is."""
    if vit.global_pool in POOLINGS:
        return None
    return f"its pooling {vit.global_pool!r} is not one of {', '.join(POOLINGS)}"


def plain_maps(attn: Any, query_weight: Tensor, query_bias: Tensor | None) -> AttentionMaps | None:
    """`Family.attention_maps` of an attention module of timm with these weights of its queries."""
    norms = (getattr(attn, name, None) for name in ("q_norm", "k_norm", "norm"))
    if any(norm is not None and not isinstance(norm, nn.Identity) for norm in norms):
        return None
    return AttentionMaps(attn.num_heads, query_weight, query_bias, attn.proj.weight, attn.proj.bias)


POOLINGS = {"token": "cls", "avg": "mean_no_cls", "map": "attn_pool"}
"""The readout of a backbone, by timm's name of its pooling."""
