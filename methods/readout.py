"""Behind the last block: which tokens are read, the final norm, and the new head."""

import math

import torch
from torch import nn

from methods.families import Family
from methods.method import Tuning, blank_linear, tuned_dtype
from methods.recipe import Recipe


def chosen_readout(family: Family, vit: nn.Module, tuning: Tuning, recipe: Recipe) -> str:
    """The recipe's readout, or the backbone's own. ValueError where it has no such tokens."""
    readout = family.readout(vit) if recipe.readout == "auto" else recipe.readout
    reason = None
    if readout in ("cls", "cls_mean") and not family.has_class_token(vit):
        reason = "the backbone has no class token"
    elif readout == "prompt_pool" and not tuning.num_prompts:
        reason = "the method has no prompts in the sequence"
    elif readout == "prompt_pool" and not tuning.touches(len(family.blocks(vit)) - 1):
        reason = f"behind block {tuning.last_block} there are no prompts to read"
    elif readout == "attn_pool" and family.readout(vit) != "attn_pool":
        reason = "the backbone has no attention pooling"
    if reason:
        raise ValueError(f"Recipe: readout={readout!r}, but {reason}")
    return readout


def prepare_final_norm(family: Family, vit: nn.Module, recipe: Recipe) -> None:
    """Change the norm behind the last block as the recipe says, in place."""
    choice = recipe.final_norm
    if choice == "pretrained_frozen":
        return
    norms = family.final_norms(vit)
    if not norms:
        raise ValueError(f"Recipe: final_norm={choice!r}, but the backbone has no final norm")
    for norm in norms:
        for name, weight in list(norm.named_parameters()):
            own = weight.detach().clone().to(tuned_dtype(vit))
            if choice == "fresh_frozen":
                own = torch.full_like(weight, 0.0 if name == "bias" else 1.0)
            setattr(norm, name, nn.Parameter(own, requires_grad=choice == "trainable"))


def new_head(
    width: int, num_classes: int, recipe: Recipe, generator: torch.Generator, dtype: torch.dtype
) -> nn.Linear:
    head = blank_linear(width, num_classes, dtype=dtype)
    if recipe.head_init == "prior":
        nn.init.kaiming_normal_(head.weight, mode="fan_out", generator=generator)
        nn.init.constant_(head.bias, -math.log(99))
    else:
        std = recipe.head_init_std
        nn.init.trunc_normal_(head.weight, std=std, generator=generator)
        nn.init.zeros_(head.bias)
    return head
