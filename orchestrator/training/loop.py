"""The epoch loop: one tuned ViT, one recipe, one set of resident images.

Knows neither Ray nor Optuna: it yields a row of metrics after each epoch, and whoever runs it may
stop asking.
"""

import bdb
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from methods import TunedViT
from methods.method import is_same_each_step
from methods.recipe import build_optimizer, lr_factor, peak_lr
from orchestrator.training.augment import cut_out, draw_crops
from orchestrator.training.normalization import normalized
from orchestrator.training.numerics import Engine
from orchestrator.training.objective import TOP1, Objective
from orchestrator.training.recorded import Recorded, weakly

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

    @property
    def can_be_recorded(self) -> bool:
        """Whether a batch is made on the device alone."""
        return self.prefix is not None or not self.pixels.are_on_host

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
    records: bool = True
    """There is room for recorded steps."""


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
    answers: Tensor | None = None
    """(N,), on the device: the label given to each image, where that was asked for."""


class Evaluator:
    """Validates a model again and again on the same images, which no batch waits for."""

    def __init__(
        self,
        model: TunedViT,
        inputs: Inputs,
        engine: Engine,
        fit: Fit | None = None,
        objective: Objective = TOP1,
        make_room: Callable[[], bool] = lambda: False,
        with_answers: bool = False,
    ) -> None:
        """`make_room` gives memory back that others hold, and says whether there was any."""
        self._model = model
        self._inputs = inputs
        self._engine = engine
        self._fit = fit = fit or Fit()
        self._make_room = make_room
        self._objective = objective
        self._with_answers = with_answers
        self._targets = inputs.pixels.labels
        can_record = fit.records and inputs.can_be_recorded and is_same_each_step(model.method)
        records = can_record and engine.records(self._targets.device.type)
        self._recorded = Recorded(weakly(self._part)) if records else None

    def forget_recordings(self) -> bool:
        """Whether there were any: from now on kernels are launched one by one."""
        had, self._recorded = self._recorded is not None, None
        return had

    def __call__(self) -> Evaluation:
        """The scores of all images, in their order."""
        self._model.eval()
        with torch.no_grad(), self._engine.repeatable():
            found = _over_all(
                len(self._inputs), self._targets.device, self._fit, self._launched, self._make_room
            )
        losses, parts, *answers = zip(*found, strict=True)
        marks = torch.cat(parts)
        sums = torch.stack(losses).sum(), self._objective.score(marks, self._targets)
        total, score = torch.stack(sums).tolist()
        return Evaluation(total / len(self._inputs), score, marks, *map(torch.cat, answers))

    def _part(self, index: Tensor) -> tuple[Tensor, ...]:
        """Sum of the losses, marks and, where asked for, answers of some images."""
        with self._engine.computing(self._targets.device.type):
            inputs = self._inputs.batch(self._model, index)
            logits = self._model.forward_from(inputs).float()
            losses = self._objective.loss(logits, self._targets[index], reduction="none")
            found = losses.double().sum(), self._objective.marks(logits, self._targets[index])
            return (*found, self._objective.answers(logits)) if self._with_answers else found

    def _launched(self, index: Tensor) -> tuple[Tensor, ...]:
        if self._recorded is None:
            return self._part(index)
        return tuple(each.clone() for each in self._recorded(index))


def evaluate(
    model: TunedViT,
    inputs: Inputs,
    engine: Engine,
    fit: Fit | None = None,
    objective: Objective = TOP1,
    *,
    with_answers: bool = False,
) -> Evaluation:
    """The scores of all images of `inputs`, in their order, once."""
    once = replace(engine, launch="eager")
    return Evaluator(model, inputs, once, fit, objective, with_answers=with_answers)()


def _over_all(
    count: int,
    device: torch.device,
    fit: Fit,
    action: Callable[[Tensor], T],
    make_room: Callable[[], bool] = lambda: False,
) -> list[T]:
    """`action` on the indices of all images, in batches as large as fit into memory."""
    while True:
        size = fit.eval_batch or EVAL_BATCH[device.type]
        try:
            return [action(index) for index in torch.arange(count, device=device).split(size)]
        except torch.OutOfMemoryError as error:
            if not (has_room := make_room()):
                if size == 1:
                    raise TrialFailed("out of memory with one image") from error
                fit.eval_batch = math.ceil(min(size, count) / 2)
        torch.cuda.empty_cache()
        if not has_room:
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
        model.compile_blocks = self._engine.compiles(self._device.type)
        self._evaluator = (
            None
            if evaluate_on is None
            else Evaluator(
                *(model, evaluate_on, self._engine, self._fit, objective),
                make_room=weakly(self._forget_recordings),
            )
        )
        self._recorded = None
        if self._can_record:
            self._recorded = Recorded(weakly(self._gradients_of), self._learnt)
        self._validate_after = validate_after
        self._objective = objective
        self._seed = seed
        self._crops: Tensor | None = None
        self._has_stepped = False
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
            losses, lr = self._train_epoch(epoch)
            trained = moment(self._device)
            # Before anything of the training is looked at: the device is waited for once an epoch.
            validated = self._validate(epoch + 1)
            train_loss = self._mean_of(losses, epoch, lr)
            eval_seconds = seconds_since(trained)
            row = {
                "epoch": epoch + 1,
                "scaled_lr": lr,
                "train_loss": train_loss,
                **self._said_of(validated, epoch + 1, lr),
                "train_seconds": time.perf_counter() - started - eval_seconds,
                "eval_seconds": eval_seconds,
            }
            self.rows.append(row)
            yield row

    def _validate(self, epoch: int) -> Evaluation | None:
        is_last = epoch == self._model.recipe.epochs
        if self._evaluator is None or not (is_last or self._validate_after(epoch)):
            return None
        found = self._evaluator()
        if is_last:
            self._marks = found.marks
        return found

    def _said_of(self, found: Evaluation | None, epoch: int, lr: float) -> dict[str, float]:
        if found is None:
            return {}
        if not math.isfinite(found.loss):
            raise TrialFailed(f"validation loss is {found.loss} after epoch {epoch}, lr {lr:.3g}")
        return {"val_loss": found.loss, "val_accuracy": found.score}

    def _mean_of(self, losses: Tensor, epoch: int, lr: float) -> float:
        epoch_losses = losses.cpu()
        if not epoch_losses.isfinite().all():
            bad = int((~epoch_losses.isfinite()).nonzero()[0])
            raise TrialFailed(
                f"loss is {epoch_losses[bad].item()} at epoch {epoch + 1}, step {bad + 1} "
                f"of {self._num_steps}, lr {lr:.3g}"
            )
        return epoch_losses.mean().item()

    @property
    def _learnt(self) -> list[torch.nn.Parameter]:
        return [tensor for tensor in self._model.parameters() if tensor.requires_grad]

    @property
    def _can_record(self) -> bool:
        on_device = self._train.can_be_recorded
        if self._engine.augment:
            on_device = not self._train.pixels.are_on_host
        fit = self._fit
        fits = fit.records and fit.part_size is None and not fit.recompute
        same = is_same_each_step(self._model.method)
        return self._engine.records(self._device.type) and on_device and fits and same

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
            "tuned": self._model.saved_state(),
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

    def _train_epoch(self, epoch: int) -> tuple[Tensor, float]:
        """Loss of every step, on the device, and the last learning rate."""
        recipe = self._model.recipe
        self._model.train()
        shuffled = torch.randperm(len(self._train), generator=self._order)
        if not self._train.pixels.are_on_host:  # else to look up a batch would wait for the device
            shuffled = shuffled.to(self._device)
        if self._engine.augment:
            crops = draw_crops(len(self._train), seed=self._seed, epoch=epoch).to(self._device)
            # In place: a recorded step reads them where they were when it was recorded.
            self._crops = crops if self._crops is None else self._crops.copy_(crops)
        losses, lr = [], 0.0
        with self._engine.repeatable():
            for step in range(self._num_steps):
                fraction = step / self._num_steps if recipe.schedule_step == "iteration" else 0.0
                lr = peak_lr(recipe) * lr_factor(recipe, epoch + fraction)
                for group in self._optimizer.param_groups:
                    group["lr"] = lr
                first = step * self._batch_size
                losses.append(self._step(shuffled[first : first + self._batch_size]))
        return torch.stack(losses), lr

    def _step(self, index: Tensor) -> Tensor:
        """One optimizer step on the images of `index`; its mean loss."""
        while True:
            try:
                loss = self._in_parts(index) if self._recorded is None else self._replay(index)
                break
            except torch.OutOfMemoryError as error:
                self._make_room(len(index), error)
            except Exception as error:
                is_left = isinstance(error, bdb.BdbQuit)  # the debugger, by a person
                if is_left or self._has_stepped or not self._model.compile_blocks:
                    raise
                # A machine without a compiler, say, among others that have one: slower, not lost.
                reason = str(error).strip().partition("\n")[0]
                logger.warning("blocks are not fused, they cannot be compiled here: %s", reason)
                self._model.compile_blocks = False
            torch.cuda.empty_cache()
        try:
            self._optimizer.step()
        except torch.OutOfMemoryError as error:  # half done, it cannot be done again
            raise TrialFailed("out of memory in the step of the optimizer") from error
        self._has_stepped = True
        return loss

    def _make_room(self, num_images: int, error: torch.OutOfMemoryError) -> None:
        """What is recorded goes, then smaller parts while they are worth a pass, then blocks twice,
        then smaller parts."""
        if self._forget_recordings():
            return
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

    def _forget_recordings(self) -> bool:
        """Whether there were any; for trials of this kind there is no room for them."""
        of_validation = self._evaluator is not None and self._evaluator.forget_recordings()
        if self._recorded is None and not of_validation:
            return False
        self._recorded, self._fit.records = None, False
        logger.warning("out of memory: steps are launched kernel by kernel, not recorded")
        return True

    def _replay(self, index: Tensor) -> Tensor:
        assert self._recorded is not None
        # Not recorded the first time: what the optimizer keeps comes before what a recording holds.
        launch = self._recorded if self._has_stepped else self._recorded.once
        (loss,) = launch(index.to(self._device))
        return loss.clone()

    def _in_parts(self, index: Tensor) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._device)
        for part in index.split(self._fit.part_size or len(index)):
            total += self._gradients_of(part, of=len(index))[0]
        return total

    def _gradients_of(self, part: Tensor, of: int | None = None) -> tuple[Tensor]:
        """The part's share of the mean loss over a batch `of` so many images; its gradients are
        added to what is there."""
        there = part.to(self._device)
        crops = None if self._crops is None else self._crops[there]
        with self._engine.computing(self._device.type):
            inputs = self._train.batch(self._model, part, crops)
            logits = self._model.forward_from(inputs).float()
        targets = self._train.pixels.labels[there]
        loss = self._objective.loss(logits, targets, reduction="sum") / (of or len(part))
        loss.backward()
        return (loss.detach(),)


def moment(device: torch.device) -> float | torch.cuda.Event:
    """Now, in the time of the device, which is not waited for."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_since(begun: float | torch.cuda.Event) -> float:
    """Since a `moment` of this device; waits for what it was given to do."""
    if not isinstance(begun, torch.cuda.Event):
        return time.perf_counter() - begun
    now = torch.cuda.Event(enable_timing=True)
    now.record()
    now.synchronize()
    return begun.elapsed_time(now) / 1e3
