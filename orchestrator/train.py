"""The epoch loop: one tuned ViT, one recipe, one set of resident images.

Knows neither Ray nor Optuna: it yields a row of metrics after each epoch, and whoever runs it may
stop asking.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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


class Training:
    """A model in training; can be left after any epoch and taken up again to the same result."""

    def __init__(
        self,
        model: TunedViT,
        train: Inputs,
        evaluate_on: Inputs | None = None,
        *,
        seed: int,
        micro_batch: int | None = None,
        on_micro_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Out of memory, a step is split: gradients of parts add up to that of the whole batch.

        `micro_batch` is where to begin, `on_micro_batch` hears of every size found.
        """
        recipe = model.recipe
        self._model = model
        self._train = train
        self._evaluate_on = evaluate_on
        self._optimizer = build_optimizer(model, recipe)
        self._device = train.pixels.labels.device
        self._order = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # prompt dropout draws from the global generator
        self._batch_size = min(recipe.batch_size, len(train))
        full, rest = divmod(len(train), self._batch_size)
        self._num_steps = full if recipe.drop_last or not rest else full + 1
        self._part_size = micro_batch or self._batch_size
        self._on_micro_batch = on_micro_batch
        self.rows: list[dict[str, float]] = []
        """Metrics of the epochs so far."""

    def epochs(self) -> Iterator[dict[str, float]]:
        """Train to the end of the recipe and yield a row of metrics after each epoch.

        Rows have epoch (1, 2, ...), lr, train_loss, val_loss, val_accuracy, train_seconds and
        eval_seconds; val_* only where there is something to evaluate on. Raises TrialFailed when a
        loss is no longer finite.
        """
        while len(self.rows) < self._model.recipe.epochs:
            epoch = len(self.rows)
            started = time.perf_counter()
            train_loss, lr = self._train_epoch(epoch)
            trained = time.perf_counter()
            row = {
                "epoch": epoch + 1,
                "lr": lr,
                "train_loss": train_loss,
                **self._validate(epoch + 1, lr),
                "train_seconds": trained - started,
                "eval_seconds": time.perf_counter() - trained,
            }
            self.rows.append(row)
            yield row

    def _validate(self, epoch: int, lr: float) -> dict[str, float]:
        if self._evaluate_on is None:
            return {}
        loss, accuracy = evaluate(self._model, self._evaluate_on)
        if not math.isfinite(loss):
            raise TrialFailed(f"validation loss is {loss} after epoch {epoch}, lr {lr:.3g}")
        return {"val_loss": loss, "val_accuracy": accuracy}

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, as tensors and plain values."""
        cuda = self._device.type == "cuda"
        return {
            "tuned": self._model.tuned_state(),
            "optimizer": self._optimizer.state_dict(),
            "rows": self.rows,
            "order": self._order.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if cuda else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._model.load_tuned_state(state["tuned"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.rows = list(state["rows"])
        self._order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        """Mean loss and last learning rate."""
        recipe = self._model.recipe
        self._model.train()
        shuffled = torch.randperm(len(self._train), generator=self._order).to(self._device)
        losses, lr = [], 0.0
        for step in range(self._num_steps):
            fraction = step / self._num_steps if recipe.schedule_step == "iteration" else 0.0
            lr = peak_lr(recipe) * lr_factor(recipe, epoch + fraction)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            first = step * self._batch_size
            losses.append(self._step(shuffled[first : first + self._batch_size]))
        # Looking at every loss as it comes would make the device wait; one look an epoch does not.
        epoch_losses = torch.stack(losses).cpu()
        if not epoch_losses.isfinite().all():
            bad = int((~epoch_losses.isfinite()).nonzero()[0])
            raise TrialFailed(
                f"loss is {epoch_losses[bad].item()} at epoch {epoch + 1}, step {bad + 1} "
                f"of {self._num_steps}, lr {lr:.3g}"
            )
        return epoch_losses.mean().item(), lr

    def _step(self, index: Tensor) -> Tensor:
        """One optimizer step on the images of `index`; its mean loss."""
        while True:
            try:
                return self._step_in_parts(index)
            except torch.OutOfMemoryError as error:
                if self._part_size == 1:
                    raise TrialFailed("out of memory with one image per step") from error
                self._part_size = math.ceil(min(self._part_size, len(index)) / 2)
            torch.cuda.empty_cache()
            logger.warning("out of memory: steps are split into parts of %d", self._part_size)
            self._on_micro_batch(self._part_size)

    def _step_in_parts(self, index: Tensor) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=index.device)
        for part in index.split(self._part_size):
            logits = self._model.forward_from(self._train.batch(self._model, part)).float()
            labels = self._train.pixels.labels[part]
            loss = cross_entropy(logits, labels, reduction="sum") / len(index)
            loss.backward()
            total += loss.detach()
        self._optimizer.step()
        return total


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
