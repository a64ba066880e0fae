"""Real timm ViTs of every supported family, tiny and with weights that are nowhere near zero."""

import torch
from timm.models import VisionTransformer

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


def tiny_vit(family="supervised", dtype=torch.float32, **changes):
    """A frozen ViT, always the same one for the same arguments."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        vit = VisionTransformer(**{**SIZE, "num_classes": 0, **FAMILIES[family], **changes})
        for parameter in vit.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
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
