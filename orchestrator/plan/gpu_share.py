"""How much of a GPU suits a trial: training steps of the real backbone, in processes side by side.

A small backbone leaves most of a GPU empty, and two trials on it finish more in an hour than one
after the other. Measured once, when a sweep is planned, and kept in its plan for those who go on
with it. No number of a trial depends on it.
"""

import copy
import gc
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import nn

from orchestrator.plan.plan import GpuShare
from orchestrator.support.other_process import NoAnswer, answer_of
from orchestrator.support.phases import phase
from orchestrator.training import shared_device
from orchestrator.training.device_memory import OUTSIDE_BYTES
from orchestrator.training.numerics import Engine
from orchestrator.training.shared_device import Answer, Question

WORTH = 1.1
"""More trials on a GPU must do so many times the steps of fewer, or the fewer are taken."""

COUNTS = (1, 2, 4)
"""Trials on a GPU that are tried."""

MEMORY_FOR_STEPS = 0.5
"""Of a trial's part of the free memory; the rest is for what its worker keeps between trials."""

WHOLE = "GPU share: a whole GPU for each trial"
BATCH_SIZE = {"cuda": 64, "cpu": 4}
SECONDS = 1.0
AT_MOST_SECONDS = 40.0
"""After so long a whole GPU is taken, whatever was found by then."""


class GpuShareChooser(Protocol):
    """Measures where trials will run, or says why it does not; None: a whole GPU each."""

    def __call__(
        self, vit: nn.Module, engine: Engine, *, say: Callable[[str], None]
    ) -> GpuShare | None: ...


def choose_gpu_share(
    vit: nn.Module, engine: Engine, *, say: Callable[[str], None], most: int
) -> GpuShare | None:
    """On the first GPU of this machine, for at most so many trials on it; what is found is said."""
    counts = [count for count in COUNTS if count <= most]
    if len(counts) <= 1:
        say(f"{WHOLE}, there are no CPUs for more")
        return None
    try:
        gpu = torch.cuda.get_device_name()
        gc.collect()
        torch.cuda.empty_cache()  # what the measurement of the precision has left
        free, _ = torch.cuda.mem_get_info()
    except RuntimeError as error:
        say(f"{WHOLE}: {str(error).splitlines()[0]}")
        return None
    if engine.launch == "compiled":
        # To compile in each of the processes would take longer than all else, and hardly changes
        # how much of a GPU a trial leaves empty.
        engine = replace(engine, launch="graph")
    with phase(f"GPU share: measuring with 1 to {counts[-1]} trials side by side"):
        answer = measure(vit, engine, counts, device="cuda")
    count = chosen_count(answer, free_bytes=free, say=say)
    return None if count == 1 else GpuShare(gpus_per_trial=1 / count, gpu=gpu)


def chosen_count(answer: Answer, *, free_bytes: int, say: Callable[[str], None]) -> int:
    """How many trials share a GPU, and the line that says why."""
    if answer.failure is not None:
        say(f"{WHOLE}, it could not be measured: {answer.failure}")
        return 1
    rates = answer.steps_per_second
    fitting = [
        count
        for count in sorted(rates)
        if count == 1
        or answer.bytes_of_one <= MEMORY_FOR_STEPS * (free_bytes / count - OUTSIDE_BYTES)
    ]
    chosen = 1
    for count in fitting:
        if rates[count] >= WORTH * rates[chosen]:
            chosen = count
    too_large = [str(count) for count in sorted(rates) if count not in fitting]
    say(
        (WHOLE if chosen == 1 else f"GPU share: 1/{chosen} of a GPU for each trial")
        + "; side by side "
        + ", ".join(f"{count} take {rates[count]:.0f} steps/s" for count in sorted(rates))
        + (f"; no memory for {' or '.join(too_large)}" if too_large else "")
    )
    return chosen


def measure(
    vit: nn.Module,
    engine: Engine,
    counts: Sequence[int],
    *,
    device: str,
    seconds: float = SECONDS,
    at_most_seconds: float = AT_MOST_SECONDS,
) -> Answer:
    """Steps per second by the number of processes. Never raises, and always ends in time."""
    question = Question(
        network=copy.deepcopy(vit).to("meta"),
        engine=engine,
        device=device,
        batch_size=BATCH_SIZE[device],
        counts=tuple(counts),
        seconds=seconds,
        deadline=time.monotonic() + at_most_seconds,
    )
    try:
        asked = pickle.dumps(question)
    except Exception as error:  # a backbone of somebody's own, with parts that cannot be sent
        return Answer(failure=f"the backbone cannot be given to another process ({error})")
    try:
        return Answer.from_json(
            answer_of(shared_device.__name__, asked, at_most_seconds=at_most_seconds)
        )
    except NoAnswer as error:
        return Answer(failure=str(error))
