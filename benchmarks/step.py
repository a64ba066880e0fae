"""A training step of each method against the plain token form and against the floor.

    python benchmarks/step.py --backbone vit_base_patch16_224 --batch 8
    python benchmarks/step.py --backbone vit_base_patch16_dinov3 --image-size 224 --method vpt_deep
    python benchmarks/step.py --device cuda --precision bf16 --batch 64 --json step.json

The plain token form (`plain_form.py`) is what the papers' code does: prompts are tokens of whole
blocks. The floor is what any method must pay that trains something in front of the first block:
the frozen forward pass and a backward pass through the activations, with no prompt at all, by
timm's own blocks whatever the family. The cases of `BLOCKS` are VPT-Deep with prompts in some
blocks; they begin where a trial begins, with what is constant of an image computed before.

All steps of a line are timed in turn, round by round, and the ratios are medians over the rounds,
so that a busy machine disturbs both sides alike. On a GPU every step is launched as `--launch`
says, floor and plain form too: `graph` records each and replays it, `compiled` also fuses what is
bound by memory, in the floor and in ours. On a CPU the time is that of the process, which others
cannot stretch; `--clock wall` takes the clock on the wall instead. FLOPs are counted, not
estimated, for the forward and the backward pass of one image.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from plain_blocks import embedded
from plain_form import plain_logits
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from methods import METHODS, TunedViT, pieces, tune
from methods.attention import attend
from methods.families import family_of
from methods.families.places import Places
from orchestrator.training.numerics import ATTENTIONS, LAUNCHES, PRECISIONS, Engine
from orchestrator.training.recorded import Recorded

METHOD_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vpt_deep": ("vpt", {}),
    "vpt_deep_dropout": ("vpt", {"dropout": 0.1}),
    "spt_deep": ("spt", {"init": "uniform"}),
    "vpt_shallow": ("vpt", {"deep": False}),
    "gatevpt": ("gatevpt", {"dropout": 0.0}),
    "lspt": ("lspt", {"dropout": 0.0}),
    "apt": ("apt", {}),
}
"""What differs from the method's own defaults; the number of prompts is added."""

BLOCKS = {
    "vpt_deep_in_all": lambda depth: (0, depth - 1),
    "vpt_deep_from_a_third": lambda depth: (depth // 3, depth - 1),
    "vpt_deep_from_two_thirds": lambda depth: (2 * depth // 3, depth - 1),
}
"""VPT-Deep with prompts in some of so many blocks."""

NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; ratios are medians over the rounds."""

    case: str
    num_tokens: int
    forward_gflop: float
    """Of one image, as is `step_gflop`."""
    step_gflop: float
    images_per_second: float
    times_floor: float
    """Time of the step over that of the floor."""
    speedup: float
    """Time of the plain token form over that of the step."""
    plain_forward_gflop: float
    peak_mib: float | None
    """On a GPU."""


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    options = _parse(arguments)
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    engine = Engine(
        precision=options.precision,
        attention=options.attention,
        launch=options.launch,
        deterministic=options.deterministic,
    )
    vit = backbone(options.backbone, options.image_size)
    engine.cast_frozen(vit)
    vit.to(options.device)
    size = family_of(vit).image_size(vit)
    images = torch.randn(options.batch, 3, *size, device=options.device)
    labels = torch.arange(options.batch, device=options.device) % NUM_CLASSES
    clock = clock_of(options.device, options.clock)

    floor = launched(_floor(vit, images), _floor(vit, images, fused=True), labels, engine)

    def lines() -> Iterator[Line]:
        """One after the other: what is recorded of a step keeps its memory."""
        yield Line("floor", 0, floor, None)
        for name in options.method:
            for num_tokens in options.tokens:
                try:
                    model = tune(vit, _method(name, num_tokens, vit), num_classes=NUM_CLASSES)
                except ValueError as error:  # a method that this family has no place for
                    print(f"{name} is left out: {error}")
                    break
                model.to(options.device)
                form, given = TunedViT.__call__, images
                if name in BLOCKS:
                    form = TunedViT.forward_from
                    with engine.computing(options.device):
                        given = model.prefix(images)
                ours = of_model(form, model, given, labels, engine)
                plain = of_model(plain_logits, model, images, labels, engine)
                yield Line(name, num_tokens, ours, plain)

    rows = []
    for line in lines():
        rows.append(_measure(line, floor, engine, options, clock))
        if len(rows) == 1:
            print(_heading(options, vit))
        print(_text(rows[-1]), flush=True)
    if options.device == "cuda" or options.peak:
        _print_utilisation(rows, options, engine)
    if options.json:
        document = {"machine": machine(), **vars(options), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2, default=str))
    return rows


@dataclass(frozen=True)
class Step:
    """A forward and a backward pass."""

    forward: Callable[[], Tensor]
    """Never compiled, nor is `eager`: what counts FLOPs would turn compilation off for good."""
    eager: Callable[[], None]
    launched: Callable[[], None]
    """The same as the engine launches it."""


@dataclass(frozen=True)
class Line:
    """What is timed together."""

    case: str
    num_tokens: int
    ours: Step
    plain: Step | None


def launched(
    forward: Callable[[], Tensor],
    fused: Callable[[], Tensor],
    labels: Tensor,
    engine: Engine,
    learnt: Sequence[nn.Parameter] = (),
) -> Step:
    """The step of a forward pass that gives logits, and of the same with compiled parts; gradients
    are fresh after each call."""
    device = labels.device.type

    def step_of(logits_of: Callable[[], Tensor], _: Tensor) -> tuple[Tensor]:
        with engine.repeatable():
            with engine.computing(device):
                logits = logits_of()
            loss = cross_entropy(logits.float(), labels)
            loss.backward()
        return (loss.detach(),)

    def eager() -> None:
        for tensor in learnt:
            tensor.grad = None
        step_of(forward, labels)

    if not engine.records(device):
        return Step(forward, eager, eager)
    chosen = fused if engine.compiles(device) else forward
    recorded = Recorded(partial(step_of, chosen), learnt)

    def replayed() -> None:
        recorded(labels)

    return Step(forward, eager, replayed)


def of_model(
    form: Callable[[TunedViT, Tensor], Tensor],
    model: TunedViT,
    images: Tensor,
    labels: Tensor,
    engine: Engine,
) -> Step:
    """The step of a model, in the walk's form or the plain one."""

    def logits(compiled: bool) -> Tensor:
        model.compile_blocks = compiled
        return form(model, images)

    learnt = [tensor for tensor in model.parameters() if tensor.requires_grad]
    return launched(partial(logits, False), partial(logits, True), labels, engine, learnt)


def machine() -> dict[str, Any]:
    """Where and when a table was made."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    found = {"date": date.today().isoformat(), "cpu": cpu, "torch": torch.__version__}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _method(case: str, num_tokens: int, vit: nn.Module) -> Any:
    if case in BLOCKS:
        depth = len(family_of(vit).blocks(vit))
        return METHODS["vpt"](num_tokens=num_tokens, blocks=BLOCKS[case](depth))
    method, settings = METHOD_CASES[case]
    return METHODS[method](**settings, num_tokens=num_tokens)


def backbone(name: str, image_size: int | None = None) -> Any:
    """Of any family, with weights by chance: their values change no time."""
    if name == "tiny":
        vit = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0
        )
    else:
        size = {"img_size": image_size} if image_size else {}
        vit = timm.create_model(name, num_classes=0, **size)
    return vit.requires_grad_(False).eval()


def _floor(vit: Any, images: Tensor, *, fused: bool = False) -> Callable[[], Tensor]:
    """Logits of the frozen network, with a gradient down to what enters the first block."""
    probe = tune(vit, METHODS["linear"](), num_classes=NUM_CLASSES).to(images.device)
    through = fused_blocks(vit, pieces.compiled()) if fused else timm_blocks

    def run() -> Tensor:
        pooled = vit.forward_head(vit.norm(through(vit, images)), pre_logits=True)
        return probe.head(pooled)

    return run


def timm_blocks(vit: Any, images: Tensor) -> Tensor:
    """What leaves timm's last block; autograd goes down to what enters the first."""
    if hasattr(vit, "layers"):  # stages of a Swin Transformer
        with torch.no_grad():
            grid = vit.patch_embed(images)
        grid.requires_grad_()
        for stage in vit.layers:
            grid = stage(grid)
        return grid
    with torch.no_grad():
        tokens, places = embedded(vit, images)
    tokens.requires_grad_()
    for block, place in zip(vit.blocks, places, strict=True):
        tokens = block(tokens, **place)
    return tokens


def fused_blocks(vit: Any, compiled: Any) -> Callable[[Any, Tensor], Tensor]:
    """The same by `methods.pieces`, compiled from one attention to the next."""
    family = family_of(vit)
    blocks = family.blocks(vit)
    kept = Places(family, vit, 0)
    all_tokens = slice(None)
    places = [
        kept.of(vit, index, in_front=0, in_sequence=0, asking=all_tokens)
        for index in range(len(blocks))
    ]
    entries = [pieces.Entry(all_tokens, None, place, False) for place in places]

    def through(vit: Any, images: Tensor) -> Tensor:
        with torch.no_grad():
            tokens = family.embed(vit, images)
        tokens.requires_grad_()
        entered = None
        for index, block in enumerate(blocks):
            if entered is None:
                tokens = family.enter(vit, index, tokens)
                entered = compiled.enter(family, block, tokens, entries[index])
            mixed = attend(family, block, *entered.by_heads(), places[index].bias)
            said = pieces.Said(family.project(block, mixed))
            following = index + 1
            if following == len(blocks) or family.changes_before(vit, following):
                tokens = compiled.leave(family, block, entered.tokens, said)
                entered = None
            else:
                entered = compiled.pass_on(
                    family, block, entered.tokens, said, blocks[following], entries[following]
                )
        return tokens

    return through


def _measure(
    line: Line,
    floor: Step,
    engine: Engine,
    options: argparse.Namespace,
    clock: Callable[[], float],
) -> Row:
    def seconds(action: Callable[[], None]) -> float:
        started = clock()
        action()
        return clock() - started

    ours, plain = line.ours, line.plain or line.ours
    steps = [floor.launched, ours.launched, *([plain.launched] if line.plain else [])]
    for action in steps:
        action()
    peak = _peak_mib(ours.eager, options.device)
    times = [[seconds(action) for action in steps] for _ in range(options.rounds)]
    per_image = 1e9 * options.batch
    with engine.computing(options.device):
        forward, plain_forward = _flop(ours.forward), _flop(plain.forward)
    return Row(
        case=line.case,
        num_tokens=line.num_tokens,
        forward_gflop=forward / per_image,
        step_gflop=_flop(ours.eager) / per_image,
        images_per_second=options.batch / statistics.median(row[1] for row in times),
        times_floor=statistics.median(row[1] / row[0] for row in times),
        speedup=statistics.median(row[-1] / row[1] for row in times),
        plain_forward_gflop=plain_forward / per_image,
        peak_mib=peak,
    )


def _flop(action: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def _peak_mib(action: Callable[[], None], device: str) -> float | None:
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    action()
    return torch.cuda.max_memory_allocated() / 2**20


def clock_of(device: str, kind: str) -> Callable[[], float]:
    if device == "cpu":
        return time.process_time if kind == "process" else time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def _print_utilisation(rows: list[Row], options: argparse.Namespace, engine: Engine) -> None:
    """Model FLOPs over what the device does in one large matrix product of the same type."""
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    size = 8192 if options.device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=options.device, dtype=dtype) for _ in range(2))
    clock = clock_of(options.device, options.clock)
    best = float("inf")
    for _ in range(20):
        started = clock()
        a @ b
        best = min(best, clock() - started)
    peak = 2 * size**3 / best
    print(f"\nmatrix peak {peak / 1e12:.3g} TFLOP/s in {engine.precision}; share of it:")
    for row in rows:
        share = row.images_per_second * row.step_gflop * 1e9 / peak
        print(f"  {row.case} {row.num_tokens}: {share:.0%}")


def _heading(options: argparse.Namespace, vit: nn.Module) -> str:
    place = ", ".join(f"{key} {value}" for key, value in machine().items())
    return (
        f"{options.backbone} at {family_of(vit).image_size(vit)[0]} pixels, batch {options.batch}, "
        f"{options.precision}, {options.attention} attention, {options.launch}, {options.device}, "
        f"{options.threads} threads, {options.rounds} rounds; {place}\n\n"
        "| case | prompts | forward GFLOP | plain form | step GFLOP | images/s | x floor "
        "| speedup over plain |\n|---|---|---|---|---|---|---|---|"
    )


def _text(row: Row) -> str:
    return (
        f"| {row.case} | {row.num_tokens} | {row.forward_gflop:.2f} | {row.plain_forward_gflop:.2f}"
        f" | {row.step_gflop:.1f} | {row.images_per_second:.2f} | {row.times_floor:.2f}"
        f" | {row.speedup:.2f} |"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="vit_base_patch16_224", help="a timm name, or tiny")
    parser.add_argument("--image-size", type=int)
    cases = [*METHOD_CASES, *BLOCKS]
    parser.add_argument("--method", nargs="+", choices=cases, default=cases)
    parser.add_argument("--tokens", nargs="+", type=int, default=[50, 100, 200])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--attention", choices=ATTENTIONS, default="fused")
    parser.add_argument("--launch", choices=LAUNCHES, default="eager", help="of a GPU")
    parser.add_argument("--deterministic", action="store_true", help="the same digits each time")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--clock", choices=["process", "wall"], default="process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", action="store_true", help="also the share of the matrix peak")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--quick", action="store_true", help="a tiny backbone, to see it run")
    options = parser.parse_args(arguments)
    if options.quick:
        options.backbone, options.batch, options.rounds, options.tokens = "tiny", 2, 2, [4]
    return options


if __name__ == "__main__":
    main()
