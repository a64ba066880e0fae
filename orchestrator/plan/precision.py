"""Which precision and attention kernel suit a machine: a training step of the real backbone, timed.

Decided once, when a sweep is planned, and then part of its plan.
"""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from timm.models import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

from methods import VPT, tune
from orchestrator.training.numerics import Engine
from orchestrator.training.objective import TOP1

WORTH = 1.1
"""Another way than plain float32 must be so many times as fast, or it is not taken."""

SMALL_STEP_GFLOP = 10
"""On a CPU a network with smaller steps, some 0.2 s of a core, stays in float32: hardly anything
could be gained. Counted, not timed, so that a busy machine plans the same sweep."""

ROUNDS = 4
BATCH = {"cpu": 8, "cuda": 64}


class PrecisionChooser(Protocol):
    """`choose_precision`, here or elsewhere."""

    def __call__(
        self,
        vit: VisionTransformer,
        engine: Engine,
        *,
        precision: str,
        device: str,
        cpu_threads: int,
        say: Callable[[str], None],
    ) -> Engine: ...


def choose_precision(
    vit: VisionTransformer,
    engine: Engine,
    *,
    precision: str,
    device: str,
    cpu_threads: int,
    say: Callable[[str], None],
) -> Engine:
    """`engine` with the fastest way to compute: `precision` is auto, fp32 or bf16.

    Plain float32 is kept unless another way is WORTH its rounding. What is found is said.
    """
    chosen = chosen_without_timing(vit, engine, precision=precision, device=device, say=say)
    if chosen is not None:
        return chosen
    ways = candidates(engine, precision, device)
    if device == "cuda" and not torch.cuda.is_available():
        say("precision fp32: no GPU here to measure bf16 on; --precision bf16 takes it unmeasured")
        return ways[0]
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(cpu_threads)
    try:
        return _fastest(vit, ways, device, say)
    finally:
        torch.set_num_threads(threads)


def chosen_without_timing(
    vit: VisionTransformer,
    engine: Engine,
    *,
    precision: str,
    device: str,
    say: Callable[[str], None],
) -> Engine | None:
    """Where there is no choice, or on a CPU too little to gain; None: it has to be measured."""
    ways = candidates(engine, precision, device)
    if len(ways) == 1:
        return ways[0]
    if device == "cpu" and ways[0].precision == "fp32":
        one_image = _step(vit, ways[0], device, batch=1)
        with FlopCounterMode(display=False) as counter:
            one_image()
        gflop = BATCH[device] * counter.get_total_flops() / 1e9
        if gflop < SMALL_STEP_GFLOP:
            say(f"precision fp32: a step takes {gflop:.2g} GFLOP, too little to save on")
            return ways[0]
    return None


def candidates(engine: Engine, precision: str, device: str) -> list[Engine]:
    """The ways to choose among; the first is what others must beat."""
    ways = [("fp32", "fused"), ("bf16", "fused")]
    if device == "cpu":  # the fused kernels of a GPU have no rival
        ways.append(("bf16", "unfused"))
    return [
        replace(engine, precision=kind, attention=attention)
        for kind, attention in ways
        if precision in ("auto", kind)
    ]


def _fastest(
    vit: VisionTransformer, ways: list[Engine], device: str, say: Callable[[str], None]
) -> Engine:
    batch = BATCH[device]
    while True:
        try:
            steps = [_step(vit, way, device, batch) for way in ways]
            for step in steps:
                step()
            break
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        torch.cuda.empty_cache()
    # In turn, so that a busy machine slows all of them alike.
    rounds = [[_seconds(step, device) for step in steps] for _ in range(ROUNDS)]
    gains = [statistics.median(row[0] / row[index] for row in rounds) for index in range(len(ways))]
    best = max(range(len(ways)), key=gains.__getitem__)
    chosen = ways[best if gains[best] >= WORTH else 0]
    say(
        f"precision {chosen.precision}, {chosen.attention} attention: "
        + ", ".join(
            f"{c.precision} {c.attention} {gain:.2f}x" for c, gain in zip(ways, gains, strict=True)
        )
        + f" the speed of {ways[0].precision} {ways[0].attention}"
    )
    return chosen


def _step(vit: VisionTransformer, engine: Engine, device: str, batch: int) -> Callable[[], None]:
    """A training step of a prompt method; times do not depend on weights or pixels."""
    held = copy.deepcopy(vit).to(device)
    engine.cast_frozen(held)
    model = tune(held, VPT(num_tokens=10), num_classes=10).to(device)
    size = vit.patch_embed.img_size
    assert size is not None
    images = torch.zeros(batch, 3, *size, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with engine.computing(device):
            logits = model(images)
        TOP1.loss(logits, labels, reduction="sum").backward()

    return step


def _seconds(action: Callable[[], None], device: str) -> float:
    """On a CPU the time of this process, which others cannot stretch."""
    if device == "cpu":
        started = time.process_time()
        action()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - started
