"""The epoch loop: one tuned ViT, one recipe, one set of resident images.

Knows neither Ray nor Optuna: it yields a row of metrics after each epoch, and whoever runs it may
stop asking.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from methods import TunedViT
from methods.recipe import build_optimizer, lr_factor, peak_lr

logger = logging.getLogger(__name__)

EVAL_BATCH = 256


class TrialFailed(Exception):
    """The configuration cannot be trained; the message says where it went wrong."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """A split on the device as it was decoded, with the normalisation of the backbone."""

    images: Tensor
    """(N, H, W, 3) uint8."""
    labels: Tensor
    """(N,) int64."""
    mean: Tensor
    """(3, 1, 1), of values in [0, 1]."""
    std: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def normalised(self, index: Tensor | slice) -> Tensor:
        """(B, 3, H, W) float32 on the device."""
        pixels = self.images[index].permute(0, 3, 1, 2)
        return (pixels.to(torch.float32) / 255 - self.mean) / self.std

    @property
    def num_bytes(self) -> int:
        return self.images.nbytes + self.labels.nbytes


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the tuned part of a model reads, by image index."""

    pixels: Pixels
    prefix: Tensor | None
    """The frozen prefix of every image, computed once; None: computed for each batch."""

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, model: TunedViT, index: Tensor) -> Tensor:
        if self.prefix is not None:
            return self.prefix[index]
        with torch.no_grad():
            return model.prefix(self.pixels.normalised(index))


def frozen_prefix(model: TunedViT, pixels: Pixels) -> Tensor:
    """The frozen prefix of all images of a split."""
    with torch.no_grad():
        parts = [
            model.prefix(pixels.normalised(slice(start, start + EVAL_BATCH)))
            for start in range(0, len(pixels), EVAL_BATCH)
        ]
    return torch.cat(parts)


def train_epochs(
    model: TunedViT,
    train: Inputs,
    evaluate_on: Inputs,
    *,
    seed: int,
    micro_batch: int | None = None,
    on_micro_batch: Callable[[int], None] = lambda size: None,
) -> Iterator[dict[str, float]]:
    """Train by the model's recipe and yield, after each epoch, a row of metrics.

    Rows have epoch (1, 2, ...), lr, train_loss, val_loss, val_accuracy, train_seconds and
    eval_seconds. Raises TrialFailed when the loss is no longer finite.

    Out of memory, a step is split: gradients of smaller parts add up to that of the whole batch.
    `micro_batch` is where to begin, `on_micro_batch` hears of every size found.
    """
    recipe = model.recipe
    optimizer = build_optimizer(model, recipe)
    device = train.pixels.labels.device
    order = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # prompt dropout draws from the global generator
    size = min(recipe.batch_size, len(train))
    part = micro_batch or size
    num_steps = len(train) // size if recipe.drop_last else math.ceil(len(train) / size)

    for epoch in range(recipe.epochs):
        started = time.perf_counter()
        model.train()
        shuffled = torch.randperm(len(train), generator=order).to(device)
        losses = []
        for step in range(num_steps):
            position = epoch + step / num_steps if recipe.schedule_step == "iteration" else epoch
            lr = peak_lr(recipe) * lr_factor(recipe, position)
            for group in optimizer.param_groups:
                group["lr"] = lr
            index = shuffled[step * size : (step + 1) * size]
            while True:
                try:
                    losses.append(_step(model, optimizer, train, index, part))
                    break
                except torch.OutOfMemoryError as error:
                    if part == 1:
                        raise TrialFailed("out of memory with one image per step") from error
                    part = math.ceil(min(part, len(index)) / 2)
                    torch.cuda.empty_cache()
                    logger.warning("out of memory: steps are split into parts of %d", part)
                    on_micro_batch(part)
        # Looking at every loss as it comes would make the device wait; one look an epoch does not.
        epoch_losses = torch.stack(losses).cpu()
        if not epoch_losses.isfinite().all():
            bad = int((~epoch_losses.isfinite()).nonzero()[0])
            raise TrialFailed(
                f"loss is {epoch_losses[bad].item()} at epoch {epoch + 1}, step {bad + 1} "
                f"of {num_steps}, lr {lr:.3g}"
            )
        trained = time.perf_counter()
        val_loss, val_accuracy = evaluate(model, evaluate_on)
        if not math.isfinite(val_loss):
            raise TrialFailed(f"validation loss is {val_loss} after epoch {epoch + 1}, lr {lr:.3g}")
        yield {
            "epoch": epoch + 1,
            "lr": lr,
            "train_loss": epoch_losses.mean().item(),
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "train_seconds": trained - started,
            "eval_seconds": time.perf_counter() - trained,
        }


def evaluate(model: TunedViT, inputs: Inputs) -> tuple[float, float]:
    """Mean cross-entropy and top-1 accuracy."""
    model.eval()
    labels = inputs.pixels.labels
    loss = torch.zeros((), device=labels.device, dtype=torch.float64)
    correct = torch.zeros((), device=labels.device, dtype=torch.int64)
    with torch.no_grad():
        for index in torch.arange(len(inputs), device=labels.device).split(EVAL_BATCH):
            logits = model.forward_from(inputs.batch(model, index)).float()
            loss += cross_entropy(logits, labels[index], reduction="sum")
            correct += (logits.argmax(dim=1) == labels[index]).sum()
    return loss.item() / len(inputs), correct.item() / len(inputs)


def _step(
    model: TunedViT,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    index: Tensor,
    part_size: int,
) -> Tensor:
    """One optimizer step on the images of `index`, computed in parts; its mean loss."""
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=index.device)
    for part in index.split(part_size):
        logits = model.forward_from(inputs.batch(model, part)).float()
        loss = cross_entropy(logits, inputs.pixels.labels[part], reduction="sum") / len(index)
        loss.backward()
        total += loss.detach()
    optimizer.step()
    return total
