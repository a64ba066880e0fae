"""How a method is trained: optimiser, schedule, decay, head, readout.

A method gives its published recipe; a search space may override any field by its name.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from methods.checks import check_choice, check_flag, check_number, check_whole

if TYPE_CHECKING:  # what a recipe says is known without torch
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about training that is not part of the method itself."""

    epochs: int = 100
    """Passes over the training images."""
    warmup_epochs: float = 10
    """Linear rise of the learning rate from 0 to its peak; must end before the training does."""
    batch_size: int = 128
    """Images per step."""
    drop_last: bool = False
    """Leave out the last, smaller batch of an epoch."""

    optimizer: str = "sgd"
    """sgd (no Nesterov, decay inside the gradient) or adamw (decoupled decay)."""
    lr: float = 1.0
    """Peak learning rate; for 256 images where `scale_lr` is true."""
    scale_lr: bool = True
    """True: the peak is lr * batch_size / 256. False: lr itself."""
    momentum: float = 0.9
    """Momentum of SGD; AdamW has none."""
    beta1: float = 0.9
    """AdamW's decay of the mean of the gradients."""
    beta2: float = 0.999
    """AdamW's decay of the mean of their squares."""
    eps: float = 1e-8
    """AdamW's addend to the denominator, against division by zero."""
    weight_decay: float = 0.0
    """Weight decay of all tuned tensors that are not exempt."""
    head_weight_decay: float | None = None
    """Weight decay of the head's weight; None: as `weight_decay`."""
    decay_exempt: str = "head_bias"
    """What never decays: head_bias (VPT), bias (every bias), vectors (every bias and every tensor
    with at most one dimension)."""

    schedule_step: str = "epoch"
    """When the learning rate moves: epoch (constant within one) or iteration."""
    final_lr: float = 0.0
    """Where the cosine ends, as a learning rate."""

    drop_path: float = 0.0
    """Stochastic depth of the last block while training, rising linearly from 0 at the first."""

    head_init: str = "prior"
    """prior: Kaiming-normal weight (fan out), bias -log(99), so that every class starts at 0.01.
    zero_bias: truncated normal weight of `head_init_std`, bias 0."""
    head_init_std: float = 0.02
    """Standard deviation of the head's first weights where `head_init` is zero_bias."""
    readout: str = "auto"
    """What the head reads: cls, mean_no_cls (all tokens but class token and registers, prompts
    included), img_pool (patches only), prompt_pool (prompts only), cls_mean (the class token beside
    the mean of the patches, twice as wide), attn_pool (the backbone's own attention pooling), or
    auto: as the backbone was pretrained, which `load_backbone` knows of DINOv3 (cls); a network
    made by timm itself says its own pooling, there the mean."""
    final_norm: str = "pretrained_frozen"
    """The norm before the head: pretrained_frozen, fresh_frozen (weight 1, bias 0: what VPT's
    code does with MAE) or trainable."""

    def __post_init__(self) -> None:
        check_whole(self, "epochs", 1)
        check_number(self, "warmup_epochs", 0)
        check_whole(self, "batch_size", 1)
        check_choice(self, "optimizer", OPTIMIZERS)
        check_number(self, "lr", 0, above_low=True)
        for name in ("drop_last", "scale_lr"):
            check_flag(self, name)
        for name in ("momentum", "beta1", "beta2", "drop_path"):
            check_number(self, name, 0, 1, below_high=True)
        for name in ("eps", "head_init_std"):
            check_number(self, name, 0, above_low=True)
        for name in ("weight_decay", "final_lr"):
            check_number(self, name, 0)
        check_number(self, "head_weight_decay", 0, optional=True)
        check_choice(self, "decay_exempt", DECAY_EXEMPT)
        check_choice(self, "schedule_step", SCHEDULE_STEPS)
        check_choice(self, "head_init", HEAD_INITS)
        check_choice(self, "readout", READOUTS)
        check_choice(self, "final_norm", FINAL_NORMS)
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"Recipe: warmup_epochs={self.warmup_epochs} leaves nothing of epochs={self.epochs}"
                f" to train in; with_epochs(recipe, {self.epochs}) shortens both, or give"
                f" warmup_epochs, for example {self.epochs / 10:g}"
            )


OPTIMIZERS = ("sgd", "adamw")
DECAY_EXEMPT = ("head_bias", "bias", "vectors")
SCHEDULE_STEPS = ("epoch", "iteration")
HEAD_INITS = ("prior", "zero_bias")
READOUTS = ("auto", "cls", "mean_no_cls", "img_pool", "prompt_pool", "cls_mean", "attn_pool")
FINAL_NORMS = ("pretrained_frozen", "fresh_frozen", "trainable")


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The same recipe, longer or shorter: the warm-up keeps its share of the training."""
    share = recipe.warmup_epochs / recipe.epochs
    return dataclasses.replace(recipe, epochs=epochs, warmup_epochs=share * epochs)


def peak_lr(recipe: Recipe) -> float:
    """The learning rate at the end of the warm-up."""
    return recipe.lr * recipe.batch_size / 256 if recipe.scale_lr else recipe.lr


def lr_factor(recipe: Recipe, epoch: float) -> float:
    """The learning rate at `epoch` (from 0, fractions allowed) as a share of its peak.

    Linear from 0 over the warm-up, then half a cosine down to `final_lr` at `epochs`.
    """
    if epoch < recipe.warmup_epochs:
        return epoch / recipe.warmup_epochs
    progress = (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    floor = recipe.final_lr / peak_lr(recipe)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def build_optimizer(model: "nn.Module", recipe: Recipe) -> "torch.optim.Optimizer":
    """The recipe's optimiser over the tensors of `model` that require a gradient, at the peak rate.

    `model` has its classifier under the name `head`; the caller multiplies the rate by `lr_factor`.
    """
    import torch

    by_decay: dict[float, list[nn.Parameter]] = {}
    for decay, parameter in _decays(model, recipe):
        by_decay.setdefault(decay, []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay} for decay, parameters in by_decay.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=peak_lr(recipe), momentum=recipe.momentum)
    return torch.optim.AdamW(
        groups, lr=peak_lr(recipe), betas=(recipe.beta1, recipe.beta2), eps=recipe.eps
    )


def _decays(model: "nn.Module", recipe: Recipe) -> "Iterator[tuple[float, nn.Parameter]]":
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        last = name.rpartition(".")[2]
        # A backbone has some of other names: q_bias, tables of biases by relative position.
        is_bias = last == "bias" or (name.startswith("vit.") and "bias" in last)
        exempt = {
            "head_bias": name == "head.bias",
            "bias": is_bias,
            "vectors": is_bias or parameter.ndim <= 1,
        }[recipe.decay_exempt]
        if exempt:
            yield 0.0, parameter
        elif name == "head.weight" and recipe.head_weight_decay is not None:
            yield recipe.head_weight_decay, parameter
        else:
            yield recipe.weight_decay, parameter
