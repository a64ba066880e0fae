"""Training steps per second of several processes on one device: a program of its own.

Reads a pickled `Question` of whoever started it, writes an `Answer` as JSON. Apart from that
process, which has used the device: only one that has not can be forked (`support/side_by_side.py`).
"""

import json
import pickle
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from methods import VPT, tune
from methods.families import family_of
from orchestrator.support.side_by_side import TeamFailed, Turns, team
from orchestrator.training.loop import Fit, Inputs, Pixels, Training, frozen_prefix
from orchestrator.training.numerics import Engine

NUM_CLASSES = 10
STEPS = 8
"""Of an epoch, after which a process waits for the device."""
WARM_EPOCHS = 2
MANY_EPOCHS = 100_000


@dataclass(frozen=True, kw_only=True)
class Question:
    """What shall be measured."""

    network: nn.Module
    """On the meta device: no time depends on its weights."""
    engine: Engine
    device: str
    batch_size: int
    counts: tuple[int, ...]
    """Of processes."""
    seconds: float
    """For each of them."""
    deadline: float
    """By the monotonic clock, which is that of all processes of a machine."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found."""

    steps_per_second: Mapping[int, float] = field(default_factory=dict)
    """Of all processes together, by their count."""
    bytes_of_one: int = 0
    """The memory that one process takes of the device at its peak."""
    failure: str | None = None
    """Why not everything was measured."""

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Answer":
        found: dict[str, Any] = json.loads(text)
        by_count = {int(count): rate for count, rate in found.pop("steps_per_second").items()}
        return cls(steps_per_second=by_count, **found)


def measured(question: Question) -> Answer:
    """For a process that has not used the device yet."""
    found: dict[int, float] = {}
    num_bytes = 0
    try:
        with team(
            partial(training, question),
            max(question.counts),
            deadline=question.deadline,
        ) as processes:
            num_bytes = processes.result("bytes")
            for count in question.counts:
                epochs = processes.turns_per_second("epoch", count, question.seconds)
                found[count] = STEPS * epochs
    except TeamFailed as failure:
        return Answer(steps_per_second=found, bytes_of_one=num_bytes, failure=str(failure))
    return Answer(steps_per_second=found, bytes_of_one=num_bytes)


def training(question: Question) -> Turns:
    """A trial in training, as the engine trains it: images on the device, prompts per block."""
    torch.set_num_threads(1)
    device, engine = question.device, question.engine
    vit = question.network.to_empty(device=device)
    for tensor in (*vit.parameters(), *vit.buffers()):
        if tensor.is_floating_point():  # of zeros a device computes faster than of anything else
            tensor.data.normal_(std=0.02)
        else:  # the numbers of rows in a table of relative positions
            tensor.data.zero_()
    engine.cast_frozen(vit)
    method = VPT(num_tokens=10)
    recipe = replace(
        method.recipe(),
        epochs=MANY_EPOCHS,
        warmup_epochs=0,
        batch_size=question.batch_size,
        lr=1e-4,
    )
    model = tune(vit, method, num_classes=NUM_CLASSES, recipe=recipe).to(device)
    pixels = _noise(vit, STEPS * question.batch_size, device)
    inputs = Inputs(pixels=pixels, prefix=frozen_prefix(model, pixels, engine, Fit()))
    epochs = Training(model, inputs, seed=0, engine=engine).epochs()

    def epoch() -> None:
        next(epochs)
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_EPOCHS):
        epoch()
    return {"epoch": epoch, "bytes": partial(_bytes_taken, device)}


def _noise(vit: nn.Module, num_images: int, device: str) -> Pixels:
    size = family_of(vit).image_size(vit)
    half = torch.full((3, 1, 1), 0.5, device=device)
    return Pixels(
        images=torch.randint(0, 256, (num_images, *size, 3), dtype=torch.uint8, device=device),
        labels=torch.arange(num_images, device=device) % NUM_CLASSES,
        mean=half,
        std=half.clone(),
    )


def _bytes_taken(device: str) -> int:
    return torch.cuda.max_memory_reserved() if device == "cuda" else 0


if __name__ == "__main__":
    answer = measured(pickle.load(sys.stdin.buffer))  # noqa: S301  # of whoever started us
    sys.stdout.write(answer.as_json() + "\n")
