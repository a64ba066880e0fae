"""Real timm ViTs of every supported family, tiny and with weights that are nowhere near zero."""

from functools import partial

import torch
from timm.layers import RmsNorm, to_2tuple
from timm.models import VisionTransformer
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos

from methods.families import family_of

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}

FAMILIES = {
    "supervised": {},
    "mae": {"global_pool": "avg"},
    "registers": {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.5},
    "clip": {"pre_norm": True},
    "siglip": {"class_token": False, "global_pool": "map"},
    "gap": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "normed": {"qk_norm": True, "scale_attn_norm": True, "qkv_bias": False},
}
"""Options of timm's VisionTransformer that make it one of the family."""

_ROTARY = {"use_rot_pos_emb": True, "ref_feat_shape": (3, 3)}
_DINOV3 = {
    "use_rot_pos_emb": True,
    "rope_type": "dinov3",
    "rope_temperature": 100,
    "rope_rotate_half": True,
    "use_abs_pos_emb": False,
    "use_fc_norm": False,
    "dynamic_img_size": True,
    "init_values": 0.5,
}
_PERCEPTION = {
    **_ROTARY,
    "attn_type": "rope",
    "rope_grid_offset": 1.0,
    "rope_grid_indexing": "xy",
    "use_pre_transformer_norm": True,
}
_ROPE_VIT = {
    "use_rot_pos_emb": True,
    "attn_type": "rope",
    "rope_grid_indexing": "xy",
    "init_values": 0.5,
    "global_pool": "token",
}

OTHERS = {
    "dinov3": (Eva, {**_DINOV3, "num_reg_tokens": 4, "qkv_bias": False}),
    "dinov3_plus": (
        Eva,
        {**_DINOV3, "global_pool": "token", "swiglu_mlp": True, "swiglu_align_to": 8},
    ),
    "sapiens2": (  # heads of queries share one of keys and values
        Eva,
        {
            **{**_DINOV3, "attn_type": "rope", "qkv_fused": False, "num_kv_heads": 1},
            **{"qk_norm": True, "attn_only_layer_scale": True, "swiglu_mlp": True},
            **{"num_reg_tokens": 8, "global_pool": "token", "rope_rescale_coords": 2.0},
            "norm_layer": partial(RmsNorm, eps=1e-6),
        },
    ),
    "eva": (Eva, {}),
    "eva02_tiny": (Eva, {**_ROTARY, "swiglu_mlp": True}),
    "eva02": (
        Eva,
        {
            **{**_ROTARY, "qkv_fused": False, "swiglu_mlp": True},
            **{"scale_mlp": True, "scale_attn_inner": True, "global_pool": "token"},
        },
    ),
    "eva02_enormous": (Eva, {"use_post_norm": True, "global_pool": "token"}),
    "perception_core": (Eva, {**_PERCEPTION, "global_pool": "map", "attn_pool_num_heads": 2}),
    "perception_lang": (
        Eva,
        {
            **{**_PERCEPTION, "init_values": 0.5},
            **{"use_post_transformer_norm": False, "use_fc_norm": False},
        },
    ),
    "rope": (Eva, {**_ROPE_VIT, "use_abs_pos_emb": False, "rope_temperature": 100.0}),
    "rope_mixed": (
        Eva,
        {**_ROPE_VIT, "rope_type": "mixed", "rope_temperature": 10.0, "no_embed_class": True},
    ),
    "rope_gap": (
        Eva,
        {**_ROTARY, "class_token": False, "num_reg_tokens": 1, "use_abs_pos_emb": False},
    ),
    "beit": (Beit, {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.5}),
    "beit_shared": (Beit, {"use_shared_rel_pos_bias": True, "global_pool": "token"}),
    "relpos": (VisionTransformerRelPos, {"fc_norm": True, "init_values": 0.5}),
    "relpos_shared": (
        VisionTransformerRelPos,
        {
            **{"class_token": True, "global_pool": "token", "rel_pos_type": "bias"},
            "shared_rel_pos": True,
        },
    ),
    "naflex": (NaFlexVit, {"class_token": True, "reg_tokens": 2, "global_pool": "token"}),
    "naflex_map": (NaFlexVit, {"pos_embed_grid_size": (3, 3), "init_values": 0.5}),
    "naflex_factorized": (
        NaFlexVit,
        {"pos_embed": "factorized", "global_pool": "avg", "embed_proj_type": "conv"},
    ),
    "relpos_post_norm": (VisionTransformerRelPos, {"block_fn": ResPostRelPosBlock}),
}
"""Families of other classes of timm, with the options that make a network one of them."""


def tiny_vit(family="supervised", dtype=torch.float32, **changes):
    """A frozen ViT, always the same one for the same arguments."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        kind, options = OTHERS.get(family) or (VisionTransformer, FAMILIES[family])
        said = {**SIZE, "num_classes": 0, **options, **changes}
        vit = kind(**said)
        for parameter in vit.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    family_of(vit).set_image_size(vit, to_2tuple(said["img_size"]))
    return vit.requires_grad_(False).eval().to(dtype)


def tiny_batch(dtype=torch.float32, size=32):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(6, 3, size, size, generator=generator)
    return images.to(dtype), torch.tensor([0, 1, 2, 3, 4, 0])


def shake(model, scale=0.3):
    """Move every tuned tensor off its initial value, so that no zero hides a mistake."""
    generator = torch.Generator().manual_seed(11)
    for tensor in model.tuned_state().values():
        # Drawn on the CPU, so that a model on a GPU gets the same values.
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        tensor.add_(scale * noise.to(tensor.device))
    return model
