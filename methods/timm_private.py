"""What we use of timm that it does not promise, by name.

The walk (`walk.py`) computes a block from the parts that timm's Block and Attention have: were
there a part more in another version, it would compute another network. So `agreement.py` compares
one image's features with timm's own before a sweep begins.
"""

import torch

# timm has no public way to ask what became of a name.
from timm.models._registry import _deprecated_models
from timm.models.vision_transformer import VisionTransformer

_VIT = "timm.models.vision_transformer"
_ATTENTION = "timm.layers.attention.Attention"

RELIES_ON = {
    "timm.models._registry._deprecated_models": "",
    f"{_VIT}.checkpoint_filter_fn": "",
    f"{_VIT}.VisionTransformer._pos_embed": "(self, x)",
    **{
        f"{_VIT}.VisionTransformer().{part}": ""
        for part in (
            *("patch_embed", "patch_drop", "norm_pre", "blocks", "norm", "attn_pool", "fc_norm"),
            *("head", "global_pool", "pool_include_prefix", "num_prefix_tokens"),
        )
    },
    **{
        f"{_VIT}.Block().{part}": ""
        for part in ("norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2")
    },
    **{
        f"{_ATTENTION}().{part}": ""
        for part in (
            *("num_heads", "head_dim", "scale", "qkv", "q_norm", "k_norm", "attn_drop"),
            *("norm", "gate", "proj", "proj_drop"),
        )
    },
}
"""A name, and the arguments of a function; a name behind `()` is one that every instance has."""

DEPRECATED_NAMES = _deprecated_models
"""Names of older timm, each with that of today, or None."""


def tokens_of(vit: VisionTransformer, patches: torch.Tensor) -> torch.Tensor:
    """Patches (B, N, d), or (B, H, W, d), with position, behind class token and registers."""
    return vit.norm_pre(vit._pos_embed(patches))
