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
_EVA = "timm.models.eva"
_BEIT = "timm.models.beit"
_RELPOS = "timm.models.vision_transformer_relpos"
_NAFLEX = "timm.models.naflexvit"
_SWIN = "timm.models.swin_transformer"
_SWIN_V2 = "timm.models.swin_transformer_v2"
_ATTENTION = "timm.layers.attention.Attention"
_POSITIONS = "timm.layers.pos_embed_sincos"

_ENDS = ("patch_embed", "cls_token", "blocks", "norm", "fc_norm", "head", "global_pool")
_BLOCK = ("norm1", "attn", "drop_path1", "norm2", "mlp", "drop_path2")
_HEADS = ("num_heads", "scale", "qkv", "attn_drop", "proj", "proj_drop")
_APART = ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "head_dim", "norm", "gate")
_BIASES = ("q_bias", "k_bias", "v_bias")
_STAGES = ("patch_embed", "layers", "norm", "head", "global_pool", "dynamic_img_size")
_STAGE = ("downsample", "blocks", "input_resolution")
_WINDOWED = (*_BLOCK, "dim", "input_resolution", "window_size", "shift_size", "attn_mask")

_PARTS = {
    f"{_EVA}.Eva": (
        *(*_ENDS, "reg_token", "pos_embed", "pos_drop", "patch_drop", "norm_pre", "attn_pool"),
        *("no_embed_class", "dynamic_img_size", "num_prefix_tokens", "rope"),
    ),
    f"{_EVA}.EvaBlock": (*_BLOCK, "gamma_1", "gamma_2"),
    f"{_EVA}.EvaBlockPostNorm": _BLOCK,
    f"{_EVA}.EvaAttention": (*_HEADS, *_APART, *_BIASES, "rotate_half"),
    "timm.layers.attention.AttentionRope": (*_HEADS, *_APART, "num_kv_heads", "rotate_half"),
    f"{_POSITIONS}.RotaryEmbeddingMixed": ("freqs", "t_x", "t_y", "grid_indexing"),
    f"{_BEIT}.Beit": (*_ENDS, "pos_embed", "pos_drop", "rel_pos_bias"),
    f"{_BEIT}.Block": (*_BLOCK, "gamma_1", "gamma_2"),
    f"{_BEIT}.Attention": (
        *(*_HEADS, *_BIASES, "relative_position_bias_table", "relative_position_index"),
    ),
    f"{_RELPOS}.VisionTransformerRelPos": (*_ENDS, "shared_rel_pos"),
    f"{_RELPOS}.RelPosBlock": (*_BLOCK, "ls1", "ls2"),
    f"{_RELPOS}.ResPostRelPosBlock": _BLOCK,
    f"{_RELPOS}.RelPosAttention": (*_HEADS, "head_dim", "q_norm", "k_norm", "rel_pos"),
    f"{_NAFLEX}.NaFlexVit": (
        *("embeds", "norm_pre", "patch_drop", "rope", "blocks", "norm", "attn_pool", "fc_norm"),
        *("head", "global_pool", "pool_include_prefix", "num_prefix_tokens", "has_class_token"),
    ),
    f"{_NAFLEX}.NaFlexEmbeds": (
        *("patch_size", "default_img_size", "is_linear", "channels_last", "norm_input", "proj"),
        "norm",
    ),
    f"{_SWIN}.SwinTransformer": _STAGES,
    f"{_SWIN}.SwinTransformerStage": _STAGE,
    f"{_SWIN}.SwinTransformerBlock": _WINDOWED,
    f"{_SWIN}.WindowAttention": (
        *(*_HEADS, "relative_position_bias_table", "relative_position_index"),
    ),
    f"{_SWIN_V2}.SwinTransformerV2": _STAGES,
    f"{_SWIN_V2}.SwinTransformerV2Stage": _STAGE,
    f"{_SWIN_V2}.SwinTransformerV2Block": _WINDOWED,
    f"{_SWIN_V2}.WindowAttention": (
        *(part for part in _HEADS if part != "scale"),
        *(*_BIASES, "logit_scale", "cpb_mlp", "relative_coords_table", "relative_position_index"),
    ),
}
"""What the families of `methods/families` use of each class."""

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
    **{f"{kind}().{part}": "" for kind, parts in _PARTS.items() for part in parts},
    f"{_POSITIONS}.get_mixed_freqs": "(freqs, t_x, t_y, dtype)",
    f"{_POSITIONS}.get_mixed_grid": "(shape, grid_indexing, device, dtype)",
    f"{_EVA}.checkpoint_filter_fn": "",
    f"{_BEIT}.checkpoint_filter_fn": "",
    f"{_RELPOS}.checkpoint_filter_fn": "",
    f"{_NAFLEX}.checkpoint_filter_fn": "",
    f"{_SWIN}.checkpoint_filter_fn": "",
    f"{_SWIN_V2}.checkpoint_filter_fn": "",
}
"""A name, and the arguments of a function; a name behind `()` is one that every instance has."""

DEPRECATED_NAMES = _deprecated_models
"""Names of older timm, each with that of today, or None."""


def tokens_of(vit: VisionTransformer, patches: torch.Tensor) -> torch.Tensor:
    """Patches (B, N, d), or (B, H, W, d), with position, behind class token and registers."""
    return vit.norm_pre(vit._pos_embed(patches))
