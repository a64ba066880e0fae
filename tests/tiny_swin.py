"""Real Swin Transformers of timm, tiny and with weights that are nowhere near zero."""

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2

SIZE = {
    "img_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": (2, 2),
    "num_heads": (2, 3),
    "window_size": 4,
}
"""16 windows of 16 patches, then 4: the second block of each stage shifts them."""

VERSIONS = {"swin": SwinTransformer, "swinv2": SwinTransformerV2}

SHAPES = {
    "tiles": {},
    "one_window_at_the_end": {"depths": (2, 1, 2), "num_heads": (2, 3, 4)},
    "reaches_over_the_edge": {"img_size": 28, "window_size": 4},
    "odd_number_of_patches": {"img_size": 30, "window_size": 5},
    "oblong": {"window_size": (4, 8)},
    "another_window_per_stage": {"window_size": ((4, 4), (8, 8))},
    "no_bias": {"qkv_bias": False},
}


def tiny_swin(version="swin", dtype=torch.float32, **changes):
    """A frozen one, always the same for the same arguments."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = VERSIONS[version](**{**SIZE, "num_classes": 0, **changes})
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return network.requires_grad_(False).eval().to(dtype)
