"""What the finalists of a sweep are trained and measured on: folds, then trainval and test once.

Nothing else opens test images: a trial of the search has a TrialContext, whose tasks have none.
"""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.data.cache import DecodedSplit, ImageCache, open_final_splits
from orchestrator.data.task import FINAL_SPLITS, Task
from orchestrator.training.config import TrialConfig
from orchestrator.training.confusion import confused
from orchestrator.training.context import TrialContext
from orchestrator.training.facts import EpochRow, FinalFacts
from orchestrator.training.loop import (
    MOST_CLASSES,
    Inputs,
    Pixels,
    TrialFailed,
    evaluate,
)
from orchestrator.training.trial import Trial

TEST_CHUNK = 2048
"""Test images on the device at a time: a test split may have more than fit."""


@dataclass(frozen=True, kw_only=True)
class FinalContext(TrialContext):
    """What all runs of the last stage share: beside the search tasks, those with test images."""

    final_tasks: Mapping[str, Task]

    @classmethod
    def _of_tasks(cls, tasks: Sequence[Task]) -> dict[str, Any]:
        return {"final_tasks": {task.name: task for task in tasks}}

    def final_splits(self, task: str) -> Mapping[str, DecodedSplit]:
        """The decoded trainval and test."""
        if self.driver_files is not None:
            return self.driver_files.splits(task, FINAL_SPLITS, self.transform)
        cache = ImageCache(Path(self.cache_folder))
        return open_final_splits(self.final_tasks[task], self.transform, cache)


@dataclass(frozen=True, kw_only=True)
class FoldConfig(TrialConfig):
    """A finalist on one fold of the labelled images."""

    fold: int
    num_folds: int
    fold_seed: int


def assign_folds(labels: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """The fold (N,) of every image: folds of equal size, and of each class as equal as can be."""
    # The seed of a search may be negative, which numpy refuses; others stay as they are.
    shuffled = np.random.default_rng(seed % 2**64).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[by_class] = np.arange(len(labels)) % num_folds
    return folds


class FoldTrial(Trial):
    """Trained on all labelled images but those of one fold, measured on that fold."""

    def __init__(self, config: FoldConfig, context: TrialContext, *args: Any, **options: Any):
        super().__init__(config, context, *args, **options)
        fold = f"fold {config.fold} of {config.num_folds}, seed {config.fold_seed}"
        self.splits = (f"all but {fold}", fold)
        self._fold = config

    def load_pixels(self, split: str) -> Pixels:
        searched = self.context.search_splits(self.config.task)
        labels = np.concatenate([searched[name].labels for name in ("train", "val")])
        folds = assign_folds(labels, self._fold.num_folds, self._fold.fold_seed)
        held_out = folds == self._fold.fold
        chosen = held_out if split == self.splits[1] else ~held_out
        num_train = len(searched["train"].labels)
        images = [
            searched["train"].images[chosen[:num_train]],
            searched["val"].images[chosen[num_train:]],
        ]
        which = hashlib.sha256(np.flatnonzero(chosen).tobytes()).hexdigest()
        contents = f"{searched['train'].fingerprint} {searched['val'].fingerprint} {which}"
        return self._on_device(np.concatenate(images), labels[chosen], contents)

    def save(self, path: Path) -> None:
        """Saves nothing: what was trained without a fold is of no further use."""


class FinalTrial(Trial):
    """Trained on train and val together without looking at any accuracy, then tested once."""

    splits = ("trainval",)

    def __init__(self, config: TrialConfig, context: FinalContext, *args: Any, **options: Any):
        super().__init__(config, context, *args, **options)
        self._finals = context
        self._tested: dict[str, Any] = {}

    def load_pixels(self, split: str) -> Pixels:
        decoded = self._finals.final_splits(self.config.task)[split]
        return self._on_device(decoded.images, decoded.labels, decoded.fingerprint)

    def epochs(self) -> Generator[EpochRow, None, None]:
        yield from super().epochs()
        self._tested = self._test()

    def facts(self) -> FinalFacts:
        """What is known of it, as of any trial; after the last epoch also what `_test` found."""
        return FinalFacts(**self._told(), **self._tested)

    def _test(self) -> dict[str, Any]:
        """Score, number of images, those of the most frequent class; what is confused; by class."""
        assert self.model is not None
        test = self._finals.final_splits(self.config.task)["test"]
        loss, marks, answers = 0.0, [], []
        for start in range(0, len(test), TEST_CHUNK):
            part = slice(start, start + TEST_CHUNK)
            pixels = self._on_device(
                test.images[part], test.labels[part], f"{test.fingerprint} {part}"
            )
            # What no seed changes is made once for all of them.
            is_shared = self.model.prefix_is_features and self.context.engine.frozen_cache
            features = self._made_prefix(self.model, pixels) if is_shared else None
            found = evaluate(
                self.model,
                Inputs(pixels=pixels, prefix=features),
                self.context.engine,
                objective=self.objective,
                with_answers=True,
            )
            loss += found.loss * len(pixels)
            marks.append(found.marks.cpu())
            assert found.answers is not None
            answers.append(found.answers.cpu())
        if not np.isfinite(loss):
            raise TrialFailed(f"the loss on the test images is {loss}")
        judged = torch.cat(marks), self.objective.targets(test.labels)
        num_classes = self.context.tasks[self.config.task].num_classes
        tested = {
            "test_accuracy": self.objective.score(*judged).item(),
            "num_test": len(test),
            "test_majority": int(np.bincount(test.labels).max()),
            "test_confused": confused(
                torch.cat(answers), torch.from_numpy(test.labels.astype(np.int64)), num_classes
            ),
        }
        if (effective := self.objective.effective_images(*judged)) is not None:
            tested["test_effective_images"] = effective
            tested["test_baseline"] = self.objective.constant_score(test.labels)
        if num_classes > MOST_CLASSES:
            return tested
        images, right = self.objective.by_class(*judged, num_classes)
        return {**tested, "test_images_by_class": images, "test_correct_by_class": right}
