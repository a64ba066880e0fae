"""Whether frozen linear layers in 8-bit floating point pay: time, gradients, accuracy.

    python benchmarks/fp8.py --backbone vit_base_patch16_224 --layers qkv,fc1,fc2 fc1,fc2
    python benchmarks/fp8.py --accuracy data/vtab-1k --task eurosat cifar --epochs 30 \\
        --backbone deit_tiny_patch16_224 --weights deit_tiny.safetensors

The first times a training step of VPT-Deep with each set of `--layers` in 8 bits against bfloat16
launched in the same way (`launch.py`), in turn, round by round; a gain is a median over the
rounds. A gradient's error is that of all prompts against float32. Then the pieces: single
products, and what prepares their inputs.

The second trains the same configuration in bfloat16 and in 8 bits with every seed on real images,
and pairs the validation accuracies; several `--task` tell more than several `--seeds`. The layers
are those of `fp8_layers.py`; the engine has none.
"""

import argparse
import copy
import faulthandler
import json
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from fp8_layers import (
    FORMS,
    GRADIENTS,
    LAYERS,
    Fp8Linear,
    layer_of,
    product,
    quantised,
    quantised_rows,
    swap,
)
from launch import ready
from step import NUM_CLASSES, backbone, clock_of, machine
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from trial import planned

from methods import VPT, TunedViT, tune
from orchestrator.plan.request import SweepRequest
from orchestrator.training.config import TrialConfig
from orchestrator.training.context import TrialContext
from orchestrator.training.loop import TrialFailed
from orchestrator.training.numerics import LAUNCHES, Engine
from orchestrator.training.trial import run_trial
from orchestrator.training.worker_cache import WorkerCache

Pair = tuple[Callable[[], Any], Callable[[], Any]]

REPEATS = 20
"""Of a piece in one graph, so that launching it takes no time beside it."""


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A training step with one set of layers in 8 bits."""

    layers: str
    """Empty: none, all in bfloat16."""
    launch: str
    ms: float
    gain: float
    """Time of the same launch in bfloat16 over that of this one."""
    gradient_error: float
    """Norm of the difference from float32 over the norm, all prompts together."""
    ready_seconds: float
    """Compilation, warm-up and recording."""


@dataclass(frozen=True, kw_only=True)
class PieceRow:
    """Work of one layer for a whole batch, each alone and repeated."""

    piece: str
    bf16_ms: float
    fp8_ms: float


@dataclass(frozen=True, kw_only=True)
class SeedRow:
    """The same trial both ways; None where it diverged."""

    task: str
    seed: int
    bf16: float | None
    """Validation accuracy in points, as is `fp8`."""
    fp8: float | None
    bf16_loss: float | None
    """On the validation images: finer than the accuracy of a few hundred."""
    fp8_loss: float | None
    bf16_seconds: float
    fp8_seconds: float


@dataclass(kw_only=True)
class Report:
    """What was found, written after every row: a crash costs only what comes after it."""

    options: argparse.Namespace
    steps: list[StepRow] = field(default_factory=list)
    pieces: list[PieceRow] = field(default_factory=list)
    seeds: list[SeedRow] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def write(self) -> None:
        if self.options.json:
            rows = {
                name: [asdict(row) for row in getattr(self, name)]
                for name in ("steps", "pieces", "seeds")
            }
            document = {"machine": machine(), **vars(self.options), **rows}
            document["failures"] = self.failures
            self.options.json.write_text(json.dumps(document, indent=2, default=str))

    def attempt(self, what: str, action: Callable[[], str]) -> bool:
        """Print what `action` says, unless it fails or there is no time left; then say so."""
        spent = time.monotonic() - self.began
        if spent > self.options.seconds:
            reason = f"{what}: not tried, {spent:.0f} of {self.options.seconds} s are over"
        else:
            try:
                print(action(), flush=True)
                self.write()
                return True
            except Exception as error:
                traceback.print_exc()
                reason = f"{what}: {type(error).__name__}: {str(error)[:300]}"
        self.failures.append(reason)
        print(f"FAILED {reason}", flush=True)
        self.write()
        return False


def main(arguments: Sequence[str] | None = None) -> Report:
    options = _parse(arguments)
    report = Report(options=options)
    print(f"{vars(options)}\n{machine()}\n", flush=True)
    if options.accuracy:
        _pair_accuracies(options, report)
    else:
        vit = _network(options)
        report.attempt("kernels", partial(_check_kernels, options, vit))
        _time_steps(options, report, vit)
        _time_pieces(options, report, vit)
    print(f"\n{time.monotonic() - report.began:.0f} s, {len(report.failures)} failures")
    return report


# Steps


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A step, ready to be timed. A graph reads the memory of what it was recorded from: kept."""

    model: TunedViT
    run: Callable[[], None]
    ready_seconds: float

    @property
    def prompt_gradient(self) -> Tensor:
        """After a run, of all prompts in one row."""
        gradients = [p.grad for p in self.model.tuning.parameters() if p.grad is not None]
        return torch.cat([gradient.flatten() for gradient in gradients]).float()


def _time_steps(options: argparse.Namespace, report: Report, vit: VisionTransformer) -> None:
    """Leaves `vit` as bf16 holds it."""
    engine = Engine(precision="bf16")
    exact: list[Tensor] = []
    baselines: dict[str, _Way] = {}

    def full() -> str:
        exact.append(_ready(options, vit, Engine(precision="fp32"), "eager").prompt_gradient)
        return f"norm of the prompts' gradient in float32: {exact[0].norm().item():.3g}"

    def bfloat(launch: str) -> str:
        way = baselines[launch] = _ready(options, vit, engine, launch)
        return _measured(options, report, launch, "", way, way, exact[0])

    def eight(launch: str, layers: str) -> str:
        swapped = copy.deepcopy(vit)
        swap(swapped, layers.split(","), options.gradients)
        way = _ready(options, swapped, engine, launch)
        return _measured(options, report, launch, layers, way, baselines[launch], exact[0])

    if not report.attempt("float32", full):
        return
    engine.cast_frozen(vit)
    print("\n| in 8 bits | launch | ms | gain | gradient error | ready s |")
    print("|---|---|---|---|---|---|", flush=True)
    for launch in options.launches:
        if report.attempt(f"bf16, {launch}", partial(bfloat, launch)):
            for layers in options.layers:
                report.attempt(f"{layers}, {launch}", partial(eight, launch, layers))
        baselines.clear()


def _network(options: argparse.Namespace) -> VisionTransformer:
    """On its device; with weights by chance unless there are `--weights` in timm's own layout."""
    with torch.device(options.device):
        torch.manual_seed(0)
        vit = backbone(options.backbone, options.image_size)
    if options.weights:
        state = {
            name: values
            for name, values in safetensors.torch.load_file(options.weights).items()
            if not name.startswith("head.")
        }
        vit.load_state_dict(state)
    return vit


def _ready(
    options: argparse.Namespace, vit: VisionTransformer, engine: Engine, launch: str
) -> _Way:
    """The step after its first run: gradients are there."""
    device = options.device
    model = tune(vit, VPT(num_tokens=options.tokens), num_classes=NUM_CLASSES).to(device)
    generator = torch.Generator().manual_seed(0)
    size = vit.patch_embed.img_size
    assert size is not None
    images = torch.randn(options.batch, 3, *size, generator=generator).to(device)
    labels = torch.arange(options.batch, device=device) % NUM_CLASSES
    clock = clock_of(device, "wall")
    started = clock()
    run = ready(launch, model, images, labels, engine)
    run()
    return _Way(model=model, run=run, ready_seconds=clock() - started)


def _measured(
    options: argparse.Namespace,
    report: Report,
    launch: str,
    layers: str,
    way: _Way,
    baseline: _Way,
    exact: Tensor,
) -> str:
    error = _relative(way.prompt_gradient, exact)
    times = _in_turn([baseline.run, way.run], options, count=options.steps)
    row = StepRow(
        layers=layers,
        launch=launch,
        ms=1e3 * statistics.median(both[1] for both in times),
        gain=statistics.median(both[0] / both[1] for both in times),
        gradient_error=error.item(),
        ready_seconds=way.ready_seconds,
    )
    report.steps.append(row)
    return (
        f"| {layers or 'none'} | {launch} | {row.ms:.3f} | {row.gain:.3f}"
        f" | {row.gradient_error:.2e} | {row.ready_seconds:.1f} |"
    )


def _in_turn(
    runs: Sequence[Callable[[], None]], options: argparse.Namespace, *, count: int
) -> list[list[float]]:
    """Seconds of each run, a list per round; the mean of `count` calls."""
    clock = clock_of(options.device, "process")

    def seconds(run: Callable[[], None]) -> float:
        started = clock()
        for _ in range(count):
            run()
        return (clock() - started) / count

    return [[seconds(run) for run in runs] for _ in range(options.rounds)]


# Pieces


def _check_kernels(options: argparse.Namespace, vit: VisionTransformer) -> str:
    """What quantises on this device gives what torch gives on the CPU."""
    generator = torch.Generator().manual_seed(0)
    width = layer_of(_first_block(vit), "fc1").out_features
    source, hidden = torch.randn(2, 256, width, generator=generator).bfloat16()
    dtype = GRADIENTS[options.gradients]

    def rows(form: str, place: str) -> Tensor:
        values, scales = quantised_rows(source.to(place), form, dtype, hidden.to(place))
        return values.cpu().float() * scales.cpu()

    worst = max(
        _relative(rows(form, options.device), rows(form, "cpu")).nan_to_num(torch.inf).item()
        for form in FORMS
    )
    if worst > 0.01:
        raise RuntimeError(f"quantised rows differ from those of the CPU by {worst:.2g}")
    return f"quantised rows differ from those of the CPU by {worst:.1e}"


def _relative(found: Tensor, exact: Tensor) -> Tensor:
    return (found - exact).norm() / exact.norm()


def _time_pieces(options: argparse.Namespace, report: Report, vit: VisionTransformer) -> None:
    """Products, and what stands between them, of one block on all tokens of a batch."""

    def measure(piece: str, actions: Sequence[Callable[[], Any]]) -> str:
        runs = [_repeated(action, options.device) for action in actions]
        times = zip(*_in_turn(runs, options, count=1), strict=True)
        bf16, fp8 = (1e3 * statistics.median(of_one) / REPEATS for of_one in times)
        report.pieces.append(PieceRow(piece=piece, bf16_ms=bf16, fp8_ms=fp8))
        return f"| {piece} | {bf16:.4f} | {fp8:.4f} |"

    print("\n| piece of a block | bf16 ms | fp8 ms |\n|---|---|---|", flush=True)
    with torch.no_grad():
        for piece, actions in _pieces(options, vit):
            report.attempt(piece, partial(measure, piece, actions))


def _first_block(vit: VisionTransformer) -> Block:
    block = vit.blocks[0]
    assert isinstance(block, Block)
    return block


def _pieces(options: argparse.Namespace, vit: VisionTransformer) -> Iterator[tuple[str, Pair]]:
    """Each in bfloat16 and in 8 bits."""
    block = copy.deepcopy(_first_block(vit)).to(torch.bfloat16)
    linears = {name: layer_of(block, name) for name in LAYERS}
    e4m3, gradient_dtype = GRADIENTS["e4m3"], GRADIENTS[options.gradients]
    assert vit.pos_embed is not None
    num_rows = options.batch * vit.pos_embed.shape[1]

    def some(columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(num_rows, columns, device=options.device, dtype=dtype)

    for name, linear in linears.items():
        eight = Fp8Linear(linear, gradient_dtype)
        inputs, gradient = some(linear.in_features), some(linear.out_features)
        forth = *quantised(inputs), eight.forth, eight.forth_scales, eight.bias
        back = *quantised(gradient, gradient_dtype), eight.back, eight.back_scales, None
        yield f"{name} forward", (partial(linear, inputs), partial(product, *forth))
        backward = partial(torch.mm, gradient, linear.weight)
        yield f"{name} backward", (backward, partial(product, *back))
    normed = some(vit.embed_dim, torch.float32)
    yield (
        "a norm's output, cast or quantised",
        (normed.bfloat16, partial(quantised_rows, normed, "plain", e4m3, None)),
    )
    both = some(linears["qkv"].out_features)
    yield (
        "qkv's gradient, copied or quantised",
        (both.clone, partial(quantised_rows, both, "plain", gradient_dtype, None)),
    )
    hidden, after = (some(linears["fc1"].out_features) for _ in range(2))
    yield (
        "GELU, quantised",
        (partial(F.gelu, hidden), partial(quantised_rows, hidden, "gelu", e4m3, None)),
    )
    yield (
        "gradient of GELU, quantised",
        (
            partial(torch.ops.aten.gelu_backward, after, hidden),
            partial(quantised_rows, after, "gelu_gradient", gradient_dtype, hidden),
        ),
    )


def _repeated(action: Callable[[], Any], device: str) -> Callable[[], None]:
    """`action` REPEATS times, on a GPU as a graph: launching takes no time beside it."""

    def all_of_them() -> None:
        for _ in range(REPEATS):
            action()

    all_of_them()
    if device == "cpu":
        return all_of_them
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_of_them()
    return graph.replay


# Accuracy


@dataclass(frozen=True, kw_only=True)
class Fp8Engine(Engine):
    """bf16 with the linear layers of the blocks in 8 bits."""

    layers: tuple[str, ...]
    gradients: str

    def cast_frozen(self, vit: nn.Module) -> None:
        super().cast_frozen(vit)
        assert isinstance(vit, VisionTransformer)
        swap(vit, self.layers, self.gradients)


CONFIG: dict[str, Any] = {"num_tokens": 50, "lr": 1e-3, "weight_decay": 1e-4, "dropout": 0.0}
"""VPT-Deep with AdamW, rate and decay of Zhang et al. 2022 (arXiv 2206.04673)."""


def _pair_accuracies(options: argparse.Namespace, report: Report) -> None:
    request = SweepRequest(
        suite=options.accuracy,
        tasks=options.task,
        methods=["vpt_deep_adamw"],
        epochs=options.epochs,
        backbone=options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        precision="bf16",
        launch=min(options.launches, key=LAUNCHES.index),  # short trials: the least to prepare
        eval_every=options.epochs,
        pruner="none",
    )
    plan, context = planned(request, device=options.device, cpu_threads=1)
    (space,) = plan.parsed_spaces.values()
    layers = tuple(options.layers[0].split(","))
    eight = Fp8Engine(**vars(context.engine), layers=layers, gradients=options.gradients)
    # Caches of their own: a worker knows a backbone by its precision, which is bf16 for both.
    ways = {
        "bf16": (context, WorkerCache(8 * 2**30)),
        "fp8": (replace(context, engine=eight), WorkerCache(8 * 2**30)),
    }
    print(f"{dict(space.fixed) | CONFIG}\n\n| task | seed | bf16 | fp8 | loss | | s | |")
    print("|---" * 8 + "|", flush=True)

    def pair(task: str, seed: int) -> str:
        values = {**space.fixed, **CONFIG}
        config = plan.trial_config(f"{task}.{space.name}", seed, values, seed=seed)
        found: dict[str, Any] = {}
        for name, (context, cache) in ways.items():
            started = time.monotonic()
            found[name], found[f"{name}_loss"] = _validated(config, context, cache)
            found[f"{name}_seconds"] = time.monotonic() - started
        row = SeedRow(task=task, seed=seed, **found)
        report.seeds.append(row)
        shown = (row.bf16, row.fp8), (row.bf16_loss, row.fp8_loss)
        texts = [
            _text(value, digits) for two, digits in zip(shown, (1, 4), strict=True) for value in two
        ]
        texts += [f"{row.bf16_seconds:.1f}", f"{row.fp8_seconds:.1f}"]
        return f"| {task} | {seed} | {' | '.join(texts)} |"

    for seed in range(options.seeds):
        for planned_task in plan.tasks:
            task = planned_task.name
            report.attempt(f"{task}, seed {seed}", partial(pair, task, seed))
    print(_summary(report.seeds))


def _validated(
    config: TrialConfig, context: TrialContext, worker_cache: WorkerCache
) -> tuple[float, float] | tuple[None, None]:
    """Accuracy in points and loss on the validation images after the last epoch."""
    try:
        _, rows = run_trial(config, context, worker_cache)
    except TrialFailed:
        return None, None
    return 100 * rows[-1]["val_accuracy"], rows[-1]["val_loss"]


def _text(value: float | None, digits: int) -> str:
    return "diverged" if value is None else f"{value:.{digits}f}"


def _summary(rows: Sequence[SeedRow]) -> str:
    """Seeds of a task share its validation images and the quantised backbone, so what these do
    by chance is the same for all of them: only tasks repeat the experiment."""
    lines = []
    for name, of_bf16, of_fp8 in (("accuracy", "bf16", "fp8"), ("loss", "bf16_loss", "fp8_loss")):
        differences: dict[str, list[float]] = {}
        for row in rows:
            bf16, fp8 = getattr(row, of_bf16), getattr(row, of_fp8)
            if bf16 is not None and fp8 is not None:
                differences.setdefault(row.task, []).append(fp8 - bf16)
        lines += [
            f"{name}, fp8 - bf16, {task}: {_mean_and_error(of_task)} over seeds"
            for task, of_task in differences.items()
        ]
        if len(differences) > 1:
            means = [statistics.mean(of_task) for of_task in differences.values()]
            lines.append(f"{name}, fp8 - bf16: {_mean_and_error(means)} over tasks")
    diverged = sum(value is None for row in rows for value in (row.bf16, row.fp8))
    return "\n" + "\n".join([*lines, f"{diverged} of {2 * len(rows)} trials diverged"])


def _mean_and_error(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:+.4f}, a single one"
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):+.4f}, standard error {error:.4f} of {len(values)}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="vit_base_patch16_224", help="a timm name, or tiny")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--layers",
        nargs="+",
        default=["qkv,fc1,fc2"],
        help=f"sets of {', '.join(LAYERS)}, with commas; --accuracy takes the first",
    )
    parser.add_argument("--gradients", choices=GRADIENTS, default="e4m3")
    parser.add_argument(
        "--launches", nargs="+", choices=LAUNCHES, help="on a GPU compiled and graph, in turn"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--seconds", type=int, default=60, help="nothing new is begun after them")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--accuracy", metavar="SUITE", help="train on its images instead")
    parser.add_argument("--task", nargs="+", default=["eurosat"])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args(arguments)
    options.launches = options.launches or (
        ["eager"] if options.device == "cpu" else ["compiled", "graph"]
    )
    return options


if __name__ == "__main__":
    faulthandler.enable()
    # Whatever hangs shows where and ends: a machine with a GPU may be lent by the minute.
    faulthandler.dump_traceback_later(_parse(None).seconds + 60, exit=True)
    sys.exit(1 if main().failures else 0)
