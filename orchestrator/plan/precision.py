"""Which precision, attention kernel and launch suit a machine: a training step of the real
backbone, timed.

Decided once, when a sweep is planned, and then part of its plan.
"""

import copy
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from methods import VPT, tune
from methods.families import family_of
from orchestrator.support.phases import each
from orchestrator.training.numerics import Engine
from orchestrator.training.objective import TOP1
from orchestrator.training.recorded import Recorded

WORTH = 1.1
"""A way that rounds more, or needs more to go well, must be so many times as fast as those before
it, or it is not taken."""

SMALL_STEP_GFLOP = 10
"""On a CPU a network with smaller steps, some 0.2 s of a core, stays in float32: hardly anything
could be gained. Counted, not timed, so that a busy machine plans the same sweep."""

SHARE_OF_EPOCHS = 1 / 3
"""About what pruning leaves of the epochs of a sweep."""

ROUNDS = 4
BATCH = {"cpu": 8, "cuda": 64}


class PrecisionChooser(Protocol):
    """`choose_precision`, here or elsewhere."""

    def __call__(
        self,
        vit: nn.Module,
        engine: Engine,
        *,
        precision: str,
        launch: str,
        device: str,
        cpu_threads: int,
        images: int,
        say: Callable[[str], None],
    ) -> Engine: ...


def choose_precision(
    vit: nn.Module,
    engine: Engine,
    *,
    precision: str,
    launch: str,
    device: str,
    cpu_threads: int,
    images: int,
    say: Callable[[str], None],
    num_slots: int = 1,
) -> Engine:
    """`engine` with the fastest way to compute: `precision` is auto, fp32 or bf16, `launch` (of
    GPUs) is auto, eager, graph or compiled.

    The plainest way is kept unless another is WORTH it, and what is compiled must save more than it
    takes over the `images` that the sweep trains on at most, all trials together, in `num_slots`.
    What is found is said.
    """
    chosen = chosen_without_timing(
        vit, engine, precision=precision, launch=launch, device=device, say=say
    )
    if chosen is not None:
        return chosen
    ways = candidates(engine, precision, launch, device)
    if device == "cuda" and not torch.cuda.is_available():
        say(
            f"precision {ways[0].precision}, steps launched as {ways[0].launch}: no GPU here to "
            "measure on; --precision and --launch, both given, are taken unmeasured"
        )
        return ways[0]
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(cpu_threads)
    try:
        steps = SHARE_OF_EPOCHS * images / BATCH[device] / num_slots
        return _fastest(vit, ways, device, steps, say)
    finally:
        torch.set_num_threads(threads)


def chosen_without_timing(
    vit: nn.Module,
    engine: Engine,
    *,
    precision: str,
    launch: str,
    device: str,
    say: Callable[[str], None],
) -> Engine | None:
    """Where there is no choice, or on a CPU too little to gain; None: it has to be measured."""
    ways = candidates(engine, precision, launch, device)
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


def candidates(engine: Engine, precision: str, launch: str, device: str) -> list[Engine]:
    """The ways to choose among, from the plainest to the one that must be WORTH most."""
    if device == "cpu":
        ways = [("fp32", "fused"), ("bf16", "fused"), ("bf16", "unfused")]
        return [
            replace(engine, precision=kind, attention=attention)
            for kind, attention in ways
            if precision in ("auto", kind)
        ]
    # The fused attention kernels of a GPU have no rival, and a recorded step computes the same as
    # one launched kernel by kernel. In float32, where bf16 may be chosen, none is compiled: it
    # would take its time and not be taken.
    launches = ("graph", "compiled") if launch == "auto" else (launch,)
    return [
        replace(engine, precision=kind, launch=how)
        for kind in ("fp32", "bf16")
        if precision in ("auto", kind)
        for how in launches
        if not (how == "compiled" and kind == "fp32" and precision == launch == "auto")
    ]


def _fastest(
    vit: nn.Module,
    ways: list[Engine],
    device: str,
    steps: float,
    say: Callable[[str], None],
) -> Engine:
    """`steps` are those that a slot has before it."""
    batch = BATCH[device]
    while True:
        try:
            ready = _ready(vit, ways, device, batch, say)
            break
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        torch.cuda.empty_cache()
    # In turn, so that a busy machine slows all of them alike.
    rounds = [
        {way: _seconds(step, device) for way, (step, _) in ready.items()}
        for _ in each("measuring precision, rounds of steps", range(ROUNDS), ROUNDS)
    ]
    preparations = {way: seconds for way, (_, seconds) in ready.items()}
    del ready
    if device == "cuda":  # the memory is wanted by those who train
        gc.collect()
        torch.cuda.empty_cache()
    chosen, gains, remark = pick(rounds, preparations, steps)

    def named(way: Engine) -> str:
        return f"{way.precision} {way.attention if device == 'cpu' else way.launch}"

    how = f"{chosen.attention} attention" if device == "cpu" else f"launch {chosen.launch}"
    found = ", ".join(f"{named(way)} {gain:.2f}x" for way, gain in gains.items())
    say(f"precision {chosen.precision}, {how}: {found} the speed of {named(ways[0])}{remark}")
    return chosen


def pick(
    rounds: Sequence[Mapping[Engine, float]], preparations: Mapping[Engine, float], steps: float
) -> tuple[Engine, Mapping[Engine, float], str]:
    """The way that is worth it, how many times as fast as the first each is, and what is to be said
    of one that is not taken.

    `rounds` are seconds of a step, from the plainest way on; `preparations` those of the first.
    """
    first, *others = rounds[0]
    gains = {
        way: statistics.median(row[first] / row[way] for row in rounds) for way in (first, *others)
    }
    chosen, remark = first, ""
    for way in others:
        if gains[way] < WORTH * gains[chosen]:
            continue
        saved = steps * statistics.median(row[chosen] - row[way] for row in rounds)
        prepares = way.launch == "compiled" != chosen.launch
        if prepares and saved < preparations[way]:
            remark = (
                f"; compiling takes {preparations[way]:.0f} s in each slot and would save it "
                f"{saved:.0f} s"
            )
        else:
            chosen = way
    return chosen, gains, remark


def _ready(
    vit: nn.Module,
    ways: Sequence[Engine],
    device: str,
    batch: int,
    say: Callable[[str], None],
) -> dict[Engine, tuple[Callable[[], None], float]]:
    """A step of each way, run once, and the seconds that it took; a way that needs what is not
    here, such as a compiler, is left out, and that is said."""
    if any(way.compiles(device) for way in ways):
        torch.compiler.reset()  # a worker begins with nothing compiled
    ready = {}
    for way in each("measuring precision, first steps", ways, len(ways)):
        step = _step(vit, way, device, batch)
        started = time.monotonic()
        try:
            step()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if way.launch != "compiled" or way is ways[0]:
                raise
            reason = str(error).strip().partition("\n")[0]
            say(f"steps cannot be compiled here: {reason[:200]}")
        else:
            ready[way] = step, time.monotonic() - started
    return ready


def _step(vit: nn.Module, engine: Engine, device: str, batch: int) -> Callable[[], None]:
    """A training step of a prompt method; times do not depend on weights or pixels."""
    held = copy.deepcopy(vit).to(device)
    engine.cast_frozen(held)
    model = tune(held, VPT(num_tokens=10), num_classes=10).to(device)
    model.compile_blocks = engine.compiles(device)
    size = family_of(vit).image_size(vit)
    images = torch.zeros(batch, 3, *size, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)

    def action(_: Tensor) -> tuple[Tensor]:
        with engine.repeatable():
            with engine.computing(device):
                logits = model(images)
            loss = TOP1.loss(logits, labels, reduction="sum")
            loss.backward()
        return (loss.detach(),)

    launched = action
    if engine.records(device):
        launched = Recorded(action, [p for p in model.parameters() if p.requires_grad])

    def step() -> None:
        model.zero_grad(set_to_none=True)
        launched(labels)

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
