"""What trials take, from a few steps of real ones: on the first images of their task, side by side.

Also a program of its own, which reads a pickled `Question` and writes an `Answer` as JSON: only a
process that has neither used a GPU nor computed with several threads can be forked
(`support/side_by_side.py`).
"""

import importlib
import json
import math
import pickle
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import mean
from typing import Any, TypeVar

from methods.families import family_of
from orchestrator.run.worker_loop import bytes_to_keep
from orchestrator.support.resident_memory import begin_peak, peak_anonymous_mib, resident_mib
from orchestrator.support.side_by_side import TeamFailed, Turns, team
from orchestrator.training.config import TrialConfig, build
from orchestrator.training.context import TrialContext
from orchestrator.training.device_memory import OUTSIDE_BYTES
from orchestrator.training.loop import Pixels
from orchestrator.training.trial import Trial
from orchestrator.training.worker_cache import WorkerCache

T = TypeVar("T")

FEW_IMAGES = 8
"""To warm up, and as one of two sizes of a step, from which all others follow."""
MORE = 4
"""Times as many are in the other size, where a whole batch would take too long."""
LONGER = 4
"""Times as long as a configuration has may it take: without a second size an image of a whole batch
counts as one of a step of few, which took twice as long (quickstart, one CPU thread)."""
TIMED_EPOCHS = 2
SAFE_LR = 1e-6
"""No time depends on it, and no loss becomes infinite."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What trials of one configuration take, on images of one task."""

    step_seconds: float
    """Of a step, whatever it trains on."""
    train_seconds: float
    """Of an image in a step, beside that."""
    batch_size: int
    """Images of a step."""
    eval_seconds: float
    """Of an image in a validation."""
    setup_seconds: float
    """Of a trial in a worker that has had others: before its first step, and what that step takes
    longer than others."""
    once_seconds: float
    """Of an image, once for each worker and task: what the frozen part makes of it."""
    peak_memory_mib: float
    """Of a worker on its device, beside what it has before its first trial."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What shall be measured."""

    context: TrialContext
    configs: Sequence[TrialConfig]
    """In this order, as many as there is time for."""
    num_images: Mapping[str, int]
    """Train images by task."""
    num_processes: int
    seconds: float
    """For all of them; at least the first `num_certain` are measured."""
    num_certain: int
    deadline: float
    """By the monotonic clock, which is that of all processes of a machine."""
    worker_module: str = ""
    """What a worker imports beside all that this program does; empty: nothing."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found."""

    timings: Sequence[Timing] = ()
    """Of the first configurations."""
    ready_at: float = 0.0
    """When the first measurement began, by the monotonic clock."""
    base_memory_mib: float = 0.0
    """Of a worker on its device, before its first trial: what its libraries take."""
    failure: str | None = None
    """Why not all that is certain was measured."""

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Answer":
        found: dict[str, Any] = json.loads(text)
        timings = [Timing(**timing) for timing in found.pop("timings")]
        return cls(timings=timings, **found)


def measured(question: Question) -> Answer:
    """For a process that has not used the device yet."""
    found: list[Timing] = []
    try:
        with team(
            partial(_ready, question), question.num_processes, deadline=question.deadline
        ) as processes:
            ready_at = time.monotonic()
            for place in range(len(question.configs)):
                if place >= question.num_certain and time.monotonic() > ready_at + question.seconds:
                    break
                found.append(_mean(processes.results(str(place), question.num_processes)))
    except TeamFailed as failure:
        return Answer(timings=found, failure=str(failure))
    return Answer(timings=found, ready_at=ready_at, base_memory_mib=_base_memory_mib(question))


def _base_memory_mib(question: Question) -> float:
    """On a CPU it is measured in this process, whose forks share much of it with each other."""
    if question.context.device != "cpu":
        return OUTSIDE_BYTES / 2**20
    if question.worker_module:
        importlib.import_module(question.worker_module)
    return resident_mib()


def _ready(question: Question) -> Turns:
    stopwatch = Stopwatch(question.context, question.num_images)
    stopwatch.warm_up(question.configs[0])
    each = question.seconds / (2 * len(question.configs))
    return {
        str(place): partial(stopwatch.timing, config, seconds=each)
        for place, config in enumerate(question.configs)
    }


def _mean(timings: Sequence[Timing]) -> Timing:
    found = {
        name: mean(getattr(timing, name) for timing in timings)
        for name in Timing.__dataclass_fields__
        if name != "batch_size"
    }
    return replace(timings[0], **found)


class Stopwatch:
    """Times configurations in this process, one after the other."""

    def __init__(self, context: TrialContext, num_images: Mapping[str, int]) -> None:
        # What a validation takes is known after every epoch.
        self._context = replace(context, engine=replace(context.engine, eval_every=1))
        self._num_images = num_images
        self._max_bytes = bytes_to_keep(context.device, context.gpu_share)
        self._backbones: dict[Hashable, Any] = {}
        begin_peak()
        self._anonymous_mib = peak_anonymous_mib()

    def warm_up(self, config: TrialConfig) -> None:
        """Load the backbone, and run once what is slow the first time."""
        self._timing(_safe(config), self._few(config))

    def timing(self, config: TrialConfig, *, seconds: float) -> Timing:
        """Of this configuration; of a whole batch, if that takes about `seconds` or less."""
        config = _safe(config)
        few = self._few(config)
        first = self._timing(config, few)
        batch = min(first.batch_size, self._num_images[config.task])
        for size, most in ((batch, seconds), (min(batch, MORE * few), LONGER * seconds)):
            of_an_image = first.train_seconds + first.eval_seconds + first.once_seconds
            if few < size and size * of_an_image * (1 + TIMED_EPOCHS) <= most:
                return _from_two(first, few, self._timing(config, size), size, batch)
        return first

    def _few(self, config: TrialConfig) -> int:
        """Images in which there are patches for all prompts that are made of patches."""
        cache = _TimedCache(self._max_bytes, self._backbones)
        vit = _FirstImages(config, self._context, cache, 1)._backbone(self._context.engine).vit
        method, _ = build(config.method, config.config, source=config.study)
        patches = math.prod(family_of(vit).grid(vit))
        few = max(FEW_IMAGES, math.ceil((method.length or 0) / patches))
        return min(few, self._num_images[config.task])

    def _timing(self, config: TrialConfig, num_images: int) -> Timing:
        of_all = self._num_images[config.task] / num_images
        # As large a part of what may be kept as these are of the images.
        cache = _TimedCache(int(self._max_bytes / of_all), self._backbones)
        trial = _FirstImages(config, self._context, cache, num_images)
        begin_peak()  # else it is that of all configurations before
        epochs = trial.epochs()
        try:
            first = next(epochs)
            rows = [row for row, _ in zip(epochs, range(TIMED_EPOCHS), strict=False)] or [first]
        finally:
            epochs.close()
        train = mean(row["train_seconds"] for row in rows)
        facts = trial.facts()
        kept_mib = cache.made_bytes * (of_all - 1) / 2**20
        peak_mib = facts.peak_memory_mib
        if self._context.device == "cpu":
            peak_mib = max(0.0, peak_anonymous_mib() - self._anonymous_mib)
        assert trial.model is not None
        return Timing(
            step_seconds=0.0,
            train_seconds=train / trial.num_train,
            batch_size=trial.model.recipe.batch_size,
            eval_seconds=mean(row["eval_seconds"] for row in rows) / trial.num_val,
            setup_seconds=max(0.0, facts.setup_seconds - cache.made_seconds)
            + max(0.0, first["train_seconds"] - train),
            once_seconds=cache.once_seconds / (trial.num_train + trial.num_val),
            peak_memory_mib=peak_mib + kept_mib,
        )


def _from_two(few: Timing, num_few: int, more: Timing, num_more: int, batch: int) -> Timing:
    """What a step takes by itself, what each of its images adds, and the memory of a whole one."""
    of_few, of_more = few.train_seconds * num_few, more.train_seconds * num_more
    of_an_image = max(0.0, (of_more - of_few) / (num_more - num_few))
    step = max(0.0, of_more - of_an_image * num_more)
    mib = max(0.0, more.peak_memory_mib - few.peak_memory_mib) / (num_more - num_few)
    return replace(
        more,
        step_seconds=step,
        train_seconds=(of_more - step) / num_more,
        peak_memory_mib=more.peak_memory_mib + mib * (batch - num_more),
    )


def _safe(config: TrialConfig) -> TrialConfig:
    return replace(config, config={**config.config, "lr": SAFE_LR})


class _TimedCache(WorkerCache):
    """Keeps backbones alone, and notes what it takes to make the rest."""

    def __init__(self, max_bytes: int, backbones: dict[Hashable, Any]) -> None:
        super().__init__(max_bytes)
        self._backbones = backbones
        self.made_seconds = self.once_seconds = 0.0
        self.made_bytes = 0

    def get(self, key: Hashable, make: Callable[[], T], num_bytes: Callable[[T], int]) -> T:
        kind = key[0] if isinstance(key, tuple) else key
        began = time.perf_counter()
        if kind == "backbone":
            if key not in self._backbones:
                self._backbones[key] = make()
            value: T = self._backbones[key]
        else:
            value = make()
            self.made_bytes += num_bytes(value)
        seconds = time.perf_counter() - began
        self.made_seconds += seconds
        if kind not in ("backbone", "pixels"):
            self.once_seconds += seconds
        return value


class _FirstImages(Trial):
    """A trial on so many images of each split."""

    def __init__(
        self, config: TrialConfig, context: TrialContext, cache: WorkerCache, num_images: int
    ) -> None:
        super().__init__(config, context, cache)
        self._num_images = num_images
        self.num_train = self.num_val = 0

    def load_pixels(self, split: str) -> Pixels:
        decoded = self.context.search_splits(self.config.task)[split]
        images = decoded.images[: self._num_images]
        if split == self.splits[0]:
            self.num_train = len(images)
        else:
            self.num_val = len(images)
        pixels = self._on_device(images, decoded.labels[: self._num_images], decoded.fingerprint)
        return replace(pixels, fingerprint=None)  # what is made of them is kept on no disk


if __name__ == "__main__":
    answer = measured(pickle.load(sys.stdin.buffer))  # noqa: S301  # of whoever started us
    sys.stdout.write(answer.as_json() + "\n")
