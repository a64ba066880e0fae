"""One configuration on one slot: from a TrialConfig to rows of metrics and tuned weights.

Needs torch, timm and the data layer only, so that a machine without Ray can run it.
"""

import json
import logging
import os
import resource
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from torch import Tensor

from methods import Backbone, Method, TunedViT, tune
from orchestrator.support.document import shown
from orchestrator.support.whole_file import write_whole
from orchestrator.training.backbone import load_planned_backbone
from orchestrator.training.checkpoint import load_checkpoint, save_checkpoint
from orchestrator.training.config import TrialConfig, build
from orchestrator.training.context import TrialContext
from orchestrator.training.device_memory import free_bytes
from orchestrator.training.facts import EpochRow, TrialFacts
from orchestrator.training.loop import (
    EVAL_BATCH,
    MOST_CLASSES,
    Fit,
    Inputs,
    Pixels,
    Training,
    TrialFailed,
    frozen_prefix,
)
from orchestrator.training.normalization import per_channel
from orchestrator.training.numerics import Engine
from orchestrator.training.own_methods import use
from orchestrator.training.recorded import weakly
from orchestrator.training.versions import code_digest
from orchestrator.training.worker_cache import WorkerCache

logger = logging.getLogger(__name__)

IMAGES_SHARE = 0.5
"""Images that take more of a GPU's free memory stay on the host."""

BY_CLASS = ("val_images_by_class", "val_correct_by_class")
"""Facts of a complete trial: counts by label."""

__all__ = ["Trial", "TrialFailed"]


class Trial:
    """A configuration that is being trained."""

    splits: Sequence[str] = ("train", "val")
    """What is trained on and, where there is a second, what is measured after every epoch."""

    def __init__(
        self,
        config: TrialConfig,
        context: TrialContext,
        worker_cache: WorkerCache,
        *,
        checkpoint: Path | None = None,
    ) -> None:
        """`checkpoint` is where the trial goes on from, if it was begun before."""
        self.config = config
        self.context = context
        self.objective = context.objective(config.task)
        for own in context.own_methods.values():
            use(own)
        self._worker_cache = worker_cache
        if checkpoint is not None and context.driver_files is not None:
            checkpoint = context.driver_files.checkpoint(checkpoint)
        self._checkpoint = checkpoint
        self._training: Training | None = None
        self._began = time.perf_counter()
        self._saved = 0.0
        self._epochs_run = 0
        self._train_seconds = 0.0
        self._eval_seconds = 0.0
        self._num_train = 0
        self._frozen_work = ""
        self._fit = Fit()
        self.model: TunedViT | None = None
        self.setup_seconds = 0.0

    @property
    def has_checkpoint(self) -> bool:
        """Of an earlier run, where this one runs."""
        return self._checkpoint is not None and self._checkpoint.exists()

    def epochs(self) -> Generator[EpochRow, None, None]:
        """Train, one row of metrics per epoch. Raises TrialFailed or ValueError."""
        torch.set_num_threads(self.context.cpu_threads)
        # Else each worker of a machine would start a pool of processes as large as the machine.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(self.context.cpu_threads))
        if self.context.device != "cpu":
            torch.cuda.reset_peak_memory_stats()  # else it is the worker's, of all its trials
        pixels = {split: self._pixels(split) for split in self.splits}
        train = pixels[self.splits[0]]
        self.model = model = self._model(train)
        self._fit = self._worker_cache.fits.setdefault(self._kind(model), Fit())
        inputs = [
            Inputs(pixels=pixels[split], prefix=self._prefix(model, pixels[split], split))
            for split in self.splits
        ]
        self._num_train = len(train)
        self.setup_seconds = time.perf_counter() - self._began
        self._training = training = Training(
            model,
            *inputs,
            seed=self.config.seed,
            engine=self.context.engine,
            fit=self._fit,
            validate_after=weakly(self._is_validated),
            objective=self.objective,
        )
        try:
            restored = self._restored(training)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            assert self._checkpoint is not None
            logger.warning("%s: does not fit (%s), the trial begins again", self._checkpoint, error)
            self._checkpoint.unlink()
            self._frozen_work = ""
            yield from self.epochs()
            return
        yield from restored
        rule = self.context.pruner
        for row in training.epochs():
            self._count(row)
            if rule.freezes and rule.asked_at(int(row["epoch"])):
                # Whoever hears of the epoch may freeze the trial, which then goes on from here.
                self._save_checkpoint(training, always=True)
            yield row
            self._save_checkpoint(training)

    def _is_validated(self, epoch: int) -> bool:
        """Whether curve or pruner want to know the accuracy after this epoch."""
        is_rung = self.context.pruner.must_be_validated(epoch)
        return is_rung or epoch % self.context.engine.eval_every == 0

    def _kind(self, model: TunedViT) -> tuple[Any, ...]:
        """Trials with the same key need the same memory for an image."""
        plan = self.context.backbone
        tuning = model.tuning
        prompts = (tuning.num_prompts or model.method.length, tuning.last_block)
        return (plan.name, plan.image_size, self.config.method, prompts, model.prefix_key)

    def _restored(self, training: Training) -> list[EpochRow]:
        """Epochs of an earlier run of this trial, from its checkpoint."""
        self._saved = time.monotonic()
        state = self._checkpoint and load_checkpoint(self._checkpoint, owner=self._owner)
        if not state:
            return []
        training.restore(state)
        _refuse_other_rows(training.rows, most=self.num_epochs)
        logger.info("%s goes on after epoch %d", self._owner, len(training.rows))
        for row in training.rows:
            self._count(row)
        return list(training.rows)

    def _save_checkpoint(self, training: Training, *, always: bool = False) -> None:
        """Unless the last one is recent enough."""
        is_recent = time.monotonic() - self._saved < self.context.checkpoint_seconds
        if not self._checkpoint or (is_recent and not always):
            return
        try:
            save_checkpoint(training.state(), self._checkpoint, owner=self._owner)
            if self.context.driver_files is not None:
                self.context.driver_files.checkpoint_written()
        except OSError as error:
            # A full disk costs the way back, not the trial.
            logger.warning("%s: no checkpoint was written: %s", self._checkpoint, error)
        self._saved = time.monotonic()

    @property
    def _owner(self) -> str:
        config = json.dumps(dict(self.config.config), sort_keys=True)
        return f"{self.config.study} #{self.config.number} seed {self.config.seed} {config}"

    def _count(self, row: Mapping[str, float]) -> None:
        self._epochs_run += 1
        self._train_seconds += row["train_seconds"]
        self._eval_seconds += row["eval_seconds"]

    @property
    def num_epochs(self) -> int:
        """The epochs of the whole trial; known once `epochs` has given the first."""
        assert self.model is not None
        return self.model.recipe.epochs

    def facts(self) -> TrialFacts:
        """What is worth keeping beside the metrics."""
        return TrialFacts(**self._told())

    def _told(self) -> dict[str, Any]:
        """The facts so far, by name."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self.context.device != "cpu":
            peak = torch.cuda.max_memory_allocated() / 2**20
        images = self._num_train * self._epochs_run
        return {
            "wall_seconds": time.perf_counter() - self._began,
            "setup_seconds": self.setup_seconds,
            "train_seconds": self._train_seconds,
            "eval_seconds": self._eval_seconds,
            "images_per_second": images / self._train_seconds if self._train_seconds else 0.0,
            "num_tuned_parameters": self.model.num_tuned_parameters if self.model else 0,
            "peak_memory_mib": peak,
            "readout": self.model.recipe.readout if self.model else None,
            "host": socket.gethostname(),
            "device": device_name(self.context.device),
            "cpu_threads": self.context.cpu_threads,
            "precision": self.context.engine.precision,
            "attention": self.context.engine.attention,
            "frozen_work": self._frozen_work,
            "part_size": self._fit.part_size,
            "recompute": self._fit.recompute,
            **self._judged(),
        }

    def _judged(self) -> dict[str, Any]:
        """What the score after the last epoch is made of."""
        judged = self._training and self._training.judged
        if not judged:
            return {}
        found: dict[str, Any] = {}
        if (effective := self.objective.effective_images(*judged)) is not None:
            found["val_effective_images"] = effective
        num_classes = self.context.tasks[self.config.task].num_classes
        if self.splits[1:] == ("val",) and num_classes <= MOST_CLASSES:
            by_class = self.objective.by_class(*judged, num_classes)
            found |= dict(zip(BY_CLASS, by_class, strict=True))
        return found

    def save(self, path: Path) -> None:
        """What was learnt as safetensors, complete or not there at all."""
        assert self.model is not None, "epochs() comes first"
        state = {k: v.detach().cpu().contiguous() for k, v in self.model.saved_state().items()}
        content = safetensors.torch.save(state)
        # On the driver's disk when we return: the record will say that they are there.
        keep = write_whole if self.context.driver_files is None else self.context.driver_files.keep
        keep(path, content)

    def _backbone(self, engine: Engine) -> Backbone:
        """The backbone as the engine holds it."""
        plan, device = self.context.backbone, self.context.device

        def load() -> Backbone:
            files = self.context.driver_files
            frozen = None if files is None else files.weights()
            backbone = load_planned_backbone(plan, device, frozen=frozen)
            engine.cast_frozen(backbone.vit)
            return backbone

        return self._worker_cache.get(
            ("backbone", plan.name, plan.weights_sha256, plan.image_size, device, engine.precision),
            load,
            lambda backbone: sum(p.nbytes for p in backbone.vit.parameters()),
        )

    def _pixels(self, split: str) -> Pixels:
        context, name = self.context, self.config.task
        return self._worker_cache.get(
            (
                *("pixels", context.fingerprints[name], split),
                *(context.backbone.mean, context.device, self.objective.name),
            ),
            lambda: self.load_pixels(split),
            lambda pixels: pixels.num_bytes,
        )

    def _model(self, train: Pixels) -> TunedViT:
        engine = self.context.engine
        where = f"{self.config.study} #{self.config.number}"
        method, recipe = build(self.config.method, self.config.config, source=where)
        backbone = self._backbone(engine)
        if any(True for _ in method.trained_weights(backbone.vit)):
            # What is trained starts from the weights themselves, not from their bfloat16.
            backbone = self._backbone(replace(engine, precision="fp32"))
        if recipe.readout == "auto":
            recipe = replace(recipe, readout=backbone.readout)
        images = self._kept_of_images(method, backbone, train) if method.needs_images else None
        model = tune(
            backbone.vit,
            method,
            images,
            num_classes=self.objective.head_width(self.context.tasks[self.config.task].num_classes),
            recipe=recipe,
            seed=self.config.seed,
        )
        return model.to(self.context.device)

    def _kept_of_images(self, method: Method, backbone: Backbone, train: Pixels) -> Any:
        """What the method keeps of the training images, computed once per task and backbone."""
        plan, task = self.context.backbone, self.config.task
        indices = torch.arange(len(train), device=train.labels.device)
        parts = indices.split(EVAL_BATCH[self.context.device])
        batches = (train.normalised(part) for part in parts)
        key = (self.config.method, self.context.fingerprints[task], plan.weights_sha256)
        with self.context.engine.computing(self.context.device):
            return self._worker_cache.get(
                ("looked_at", *key, self.splits[0], plan.mean, plan.std),
                lambda: method.look_at(backbone.vit, batches),
                lambda kept: kept.num_bytes,
            )

    def load_pixels(self, split: str) -> Pixels:
        """The images of one of `splits` on the device. No way leads from here to the test split."""
        context = self.context
        decoded = context.search_splits(self.config.task)[split]
        return self._on_device(decoded.images, decoded.labels, decoded.fingerprint)

    def _on_device(self, images: np.ndarray, labels: np.ndarray, fingerprint: str) -> Pixels:
        """Decoded images (N, H, W, 3) and their labels (N,); see `pixels_on_device`."""
        targets = self.objective.targets(labels)
        return pixels_on_device(self.context, images, targets, fingerprint)

    def _prefix(self, model: TunedViT, pixels: Pixels, split: str) -> Tensor | None:
        """Computed once for all trials of a task that share it, unless it would not be kept."""
        engine, backbone = self.context.engine, self.context.backbone
        if model.prefix_key is None:
            return self._say_frozen(split, "computed each time: nothing is frozen")
        if not engine.frozen_cache:
            return self._say_frozen(split, "computed each time: --no-frozen-cache")
        if engine.augment and split == self.splits[0]:
            return self._say_frozen(split, "computed each time: images are augmented")
        with engine.computing(self.context.device):
            one = model.prefix(pixels.normalised(slice(0, 1)))
        mib = one.nbytes * len(pixels) / 2**20
        # Half of what may be kept is left for the other tasks.
        if one.nbytes * len(pixels) > self._worker_cache.max_bytes // 2:
            return self._say_frozen(split, f"computed each time: {mib:.0f} MiB are too much")
        self._say_frozen(
            split, f"{' '.join(map(str, model.prefix_key))} computed once: {mib:.0f} MiB"
        )
        return self._worker_cache.get(
            (
                "prefix",
                self.context.fingerprints[self.config.task],
                split,
                backbone.weights_sha256,
                backbone.mean,
                backbone.std,
                engine.precision,
                model.prefix_key,
            ),
            lambda: self._made_prefix(model, pixels),
            lambda prefix: prefix.nbytes,
        )

    def _made_prefix(self, model: TunedViT, pixels: Pixels) -> Tensor:
        """The frozen prefix; where it is all but the head, by way of the node's disk."""

        def make() -> Tensor:
            return frozen_prefix(model, pixels, self.context.engine, self._fit)

        if not model.prefix_is_features or pixels.fingerprint is None:
            return make()
        engine, backbone, device = self.context.engine, self.context.backbone, self.context.device
        made_from = {
            "images": pixels.fingerprint,
            "backbone": [backbone.name, backbone.weights_sha256, backbone.image_size],
            "normalisation": [backbone.mean, backbone.std],
            "features": model.prefix_key,
            "engine": [engine.precision, engine.attention],
            "device": [
                device_name(device),
                torch.backends.cpu.get_cpu_capability(),
                self.context.cpu_threads,
            ],
            "code": [torch.__version__, timm.__version__, code_digest()],
        }
        return self.context.features.get(made_from, make).to(device)

    def _say_frozen(self, split: str, decision: str) -> None:
        """Note what happens to the frozen part of the network for a split."""
        logger.info("%s: frozen part of %s: %s", self._owner, split, decision)
        self._frozen_work += f"{'; ' if self._frozen_work else ''}{split}: {decision}"


def _refuse_other_rows(rows: Sequence[Any], *, most: int) -> None:
    """ValueError if these are not the metrics of the first epochs of a trial of `most`."""
    if len(rows) > most:
        raise ValueError(f"it has {len(rows)} epochs of {most}")
    for epoch, row in enumerate(rows, start=1):
        if row["epoch"] != epoch or row["train_seconds"] < 0 or row["eval_seconds"] < 0:
            raise ValueError(f"its epoch {epoch} is {shown(row)}")


def pixels_on_device(
    context: TrialContext, images: np.ndarray, targets: Tensor, fingerprint: str
) -> Pixels:
    """Decoded images (N, H, W, 3) and their targets, copied to the device of the context.

    `fingerprint` is another for other images or another order.
    """
    mean, std = (
        per_channel(values, context.device)
        for values in (context.backbone.mean, context.backbone.std)
    )
    # A copy: the mapped file must not be held, nor be writable through the tensor.
    decoded = torch.from_numpy(images.copy())
    if context.device != "cpu" and decoded.nbytes > IMAGES_SHARE * free_bytes(context.gpu_share):
        logger.info("%d MiB of images stay on the host", decoded.nbytes // 2**20)
        decoded = decoded.pin_memory()
    else:
        decoded = decoded.to(context.device)
    return Pixels(
        images=decoded,
        labels=targets.to(context.device),
        mean=mean,
        std=std,
        fingerprint=fingerprint,
    )


def device_name(device: str) -> str:
    return "cpu" if device == "cpu" else torch.cuda.get_device_name()


def run_trial(
    config: TrialConfig, context: TrialContext, worker_cache: WorkerCache
) -> tuple[Trial, list[EpochRow]]:
    """Train one configuration to its end."""
    trial = Trial(config, context, worker_cache)
    return trial, list(trial.epochs())
