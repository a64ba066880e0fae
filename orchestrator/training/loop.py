"""The epoch loop: one tuned ViT, one recipe, one set of resident images.

Knows neither Ray nor Optuna: it yields a row of metrics after each epoch, and whoever runs it may
stop asking.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from methods import TunedViT
from methods.recipe import build_optimizer, lr_factor, peak_lr
from orchestrator.training.augment import cut_out, draw_crops
from orchestrator.training.normalization import normalized
from orchestrator.training.numerics import Engine
from orchestrator.training.objective import TOP1, Objective

logger = logging.getLogger(__name__)
T = TypeVar("T")

EVAL_BATCH = {"cpu": 64, "cuda": 1024}
"""Images per forward pass without gradient; fewer where they do not fit. A CPU has no gain from
more, and its caches have a loss."""

SMALLEST_PART = 8
"""Before a step is split into parts of fewer images, blocks are computed twice instead."""

MOST_CLASSES = 2000
"""Tasks with more classes than this keep no counts per class: with every trial it would fill the
storage."""


class TrialFailed(Exception):
    """The configuration cannot be trained; the message says where it went wrong."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """A split as it was decoded, with the normalisation of the backbone."""

    images: Tensor
    """(N, H, W, 3) uint8, on the device, or in pinned memory of the host where they do not fit."""
    labels: Tensor
    """(N, ...), on the device: the objective's targets, for one label per image (N,) int64."""
    mean: Tensor
    """(3, 1, 1), of values in [0, 1]."""
    std: Tensor
    fingerprint: str | None = None
    """Equal for equal images; None where nothing made of them is kept on the disk."""

    def __len__(self) -> int:
        return len(self.labels)

    def normalised(self, index: Tensor | slice, crops: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) float32 on the device; of `crops` (B, 2, 3) where given."""
        pixels = self._on_device(index).permute(0, 3, 1, 2).to(torch.float32)
        if crops is not None:
            pixels = cut_out(pixels, crops)
        return normalized(pixels, self.mean, self.std)

    @property
    def are_on_host(self) -> bool:
        return self.images.device != self.labels.device

    @property
    def num_bytes(self) -> int:
        return self.images.nbytes + self.labels.nbytes

    def _on_device(self, index: Tensor | slice) -> Tensor:
        if not self.are_on_host:
            return self.images[index]
        # Pinned, so that the copy waits its turn on the device while we go on to the next batch.
        chosen = self.images[index.cpu() if isinstance(index, Tensor) else index]
        return chosen.pin_memory().to(self.labels.device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the tuned part of a model reads, by image index."""

    pixels: Pixels
    prefix: Tensor | None
    """The frozen prefix of every image, computed once; None: computed for each batch."""

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, model: TunedViT, index: Tensor, crops: Tensor | None = None) -> Tensor:
        if self.prefix is not None and crops is None:
            return self.prefix[index]
        with torch.no_grad():
            return model.prefix(self.pixels.normalised(index, crops))


@dataclass(kw_only=True)
class Fit:
    """What was found to fit into memory, to be remembered for the next trial of its kind."""

    part_size: int | None = None
    """Images per part of a step; None: the whole batch."""
    recompute: bool = False
    """Blocks are computed again in the backward pass instead of keeping their activations."""
    eval_batch: int | None = None
    """Images per batch of validation; None: EVAL_BATCH."""


def frozen_prefix(model: TunedViT, pixels: Pixels, engine: Engine, fit: Fit) -> Tensor:
    """The frozen prefix of all images of a split."""
    device = pixels.labels.device
    with torch.no_grad(), engine.computing(device.type):
        return torch.cat(
            _over_all(len(pixels), device, fit, lambda i: model.prefix(pixels.normalised(i)))
        )


class Evaluation(NamedTuple):
    """How a model does on a set of images."""

    loss: float
    """Mean over the images."""
    score: float
    """The objective's."""
    marks: Tensor
    """(N, ...), on the device: what the score is computed from, image by image."""


def evaluate(
    model: TunedViT,
    inputs: Inputs,
    engine: Engine,
    fit: Fit | None = None,
    objective: Objective = TOP1,
) -> Evaluation:
    """The scores of all images of `inputs`, in their order; no batch waits for the device."""
    model.eval()
    targets = inputs.pixels.labels

    def part(index: Tensor) -> tuple[Tensor, Tensor]:
        logits = model.forward_from(inputs.batch(model, index)).float()
        losses = objective.loss(logits, targets[index], reduction="none")
        return losses.double().sum(), objective.marks(logits, targets[index])

    with torch.no_grad(), engine.computing(targets.device.type):
        found = _over_all(len(inputs), targets.device, fit or Fit(), part)
    losses, parts = zip(*found, strict=True)
    marks = torch.cat(parts)
    sums = torch.stack(losses).sum(), objective.score(marks, targets)
    total, score = torch.stack(sums).tolist()
    return Evaluation(total / len(inputs), score, marks)


def _over_all(count: int, device: torch.device, fit: Fit, action: Callable[[Tensor], T]) -> list[T]:
    """`action` on the indices of all images, in batches as large as fit into memory."""
    while True:
        size = fit.eval_batch or EVAL_BATCH[device.type]
        try:
            return [action(index) for index in torch.arange(count, device=device).split(size)]
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise TrialFailed("out of memory with one image") from error
            fit.eval_batch = math.ceil(min(size, count) / 2)
        torch.cuda.empty_cache()
        logger.warning("out of memory: validation takes %d images at a time", fit.eval_batch)


class Training:
    """A model in training; can be left after any epoch and taken up again to the same result."""

    def __init__(
        self,
        model: TunedViT,
        train: Inputs,
        evaluate_on: Inputs | None = None,
        *,
        seed: int,
        engine: Engine | None = None,
        fit: Fit | None = None,
        validate_after: Callable[[int], bool] = lambda epoch: True,
        objective: Objective = TOP1,
    ) -> None:
        """Out of memory, a step is split: gradients of parts add up to that of the whole batch.

        What fits is begun with and noted in `fit`. `validate_after` says after which epochs (1, 2,
        ...) there is a validation; after the last there always is one.
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
        self._engine = engine or Engine()
        self._fit = fit or Fit()
        model.checkpoint_blocks = self._fit.recompute
        self._validate_after = validate_after
        self._objective = objective
        self._seed = seed
        self._crops: Tensor | None = None
        self.rows: list[dict[str, float]] = []
        """Metrics of the epochs so far."""
        self._marks: Tensor | None = None
        """(N, ...) of the images of `evaluate_on` after the last epoch."""

    def epochs(self) -> Iterator[dict[str, float]]:
        """Train to the end of the recipe and yield a row of metrics after each epoch.

        Rows have epoch (1, 2, ...), scaled_lr (the step size: of the drawn `lr`, what batch size
        and schedule make of it), train_loss, val_loss, val_accuracy (the objective's score,
        whichever it is), train_seconds and eval_seconds; val_* only after epochs that were
        validated. Raises TrialFailed when a loss is no longer finite.
        """
        while len(self.rows) < self._model.recipe.epochs:
            epoch = len(self.rows)
            started = time.perf_counter()
            train_loss, lr = self._train_epoch(epoch)
            trained = time.perf_counter()
            row = {
                "epoch": epoch + 1,
                "scaled_lr": lr,
                "train_loss": train_loss,
                **self._validate(epoch + 1, lr),
                "train_seconds": trained - started,
                "eval_seconds": time.perf_counter() - trained,
            }
            self.rows.append(row)
            yield row

    def _validate(self, epoch: int, lr: float) -> dict[str, float]:
        is_last = epoch == self._model.recipe.epochs
        if self._evaluate_on is None or not (is_last or self._validate_after(epoch)):
            return {}
        loss, score, marks = evaluate(
            self._model, self._evaluate_on, self._engine, self._fit, self._objective
        )
        if is_last:
            self._marks = marks
        if not math.isfinite(loss):
            raise TrialFailed(f"validation loss is {loss} after epoch {epoch}, lr {lr:.3g}")
        return {"val_loss": loss, "val_accuracy": score}

    @property
    def judged(self) -> tuple[Tensor, Tensor] | None:
        """Marks and targets of the images of `evaluate_on`; None before the last epoch."""
        if self._evaluate_on is None or self._marks is None:
            return None
        targets = self._evaluate_on.pixels.labels
        return self._marks.to(targets.device), targets

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, as tensors and plain values."""
        cuda = self._device.type == "cuda"
        return {
            "tuned": self._model.tuned_state(),
            "optimizer": self._optimizer.state_dict(),
            "rows": self.rows,
            "right": self._marks,  # what it was called when top-1 was the only objective
            "order": self._order.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if cuda else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._model.load_tuned_state(state["tuned"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.rows = list(state["rows"])
        self._marks = state.get("right")  # not in a checkpoint of before it was kept
        self._order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        """Mean loss and last learning rate."""
        recipe = self._model.recipe
        self._model.train()
        shuffled = torch.randperm(len(self._train), generator=self._order)
        if not self._train.pixels.are_on_host:  # else to look up a batch would wait for the device
            shuffled = shuffled.to(self._device)
        if self._engine.augment:
            crops = draw_crops(len(self._train), seed=self._seed, epoch=epoch)
            self._crops = crops.to(self._device)
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
                self._make_room(len(index), error)
            torch.cuda.empty_cache()

    def _make_room(self, num_images: int, error: torch.OutOfMemoryError) -> None:
        """Smaller parts while they are worth a pass, then blocks twice, then smaller parts."""
        fit = self._fit
        now = min(fit.part_size or num_images, num_images)
        half = math.ceil(now / 2)
        if half < SMALLEST_PART and not fit.recompute:
            fit.recompute = self._model.checkpoint_blocks = True
            logger.warning("out of memory: blocks are computed again in the backward pass")
        elif now == 1:
            raise TrialFailed("out of memory with one image per step") from error
        else:
            fit.part_size = half
            logger.warning("out of memory: steps are split into parts of %d", half)

    def _step_in_parts(self, index: Tensor) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._device)
        for part in index.split(self._fit.part_size or len(index)):
            there = part.to(self._device)
            crops = None if self._crops is None else self._crops[there]
            with self._engine.computing(self._device.type):
                inputs = self._train.batch(self._model, part, crops)
                logits = self._model.forward_from(inputs).float()
            targets = self._train.pixels.labels[there]
            loss = self._objective.loss(logits, targets, reduction="sum") / len(index)
            loss.backward()
            total += loss.detach()
        self._optimizer.step()
        return total
