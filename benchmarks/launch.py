"""Ways to launch one and the same training step on a GPU, and what each costs before it pays.

    python benchmarks/launch.py --backbone vit_tiny_patch16_224 --batch 64
    python benchmarks/launch.py --backbone vit_base_patch16_224 --tokens 100 --json launch.json

`eager` is how PyTorch runs a step, `graph` and `compiled` are the engine's: forward and backward
pass recorded once and replayed, without and with the parts of a block that are bound by memory
fused by torch.compile. `flash` takes that attention kernel, `deterministic` only kernels that add
in the same order each time. All are timed in turn, round by round; a gain is a median over the
rounds. Each way's gradients are compared with those of the first before anything is timed.
"""

import argparse
import faulthandler
import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from step import METHOD_CASES, NUM_CLASSES, backbone, clock_of, machine
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from methods import METHODS, TunedViT, tune
from orchestrator.training.numerics import LAUNCHES, PRECISIONS, Engine
from orchestrator.training.recorded import Recorded

KERNELS = ("", " flash", " deterministic")
WAYS = tuple(launch + kernels for launch in LAUNCHES for kernels in KERNELS)
USUAL = (*LAUNCHES, "compiled flash", "compiled deterministic")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to launch the step."""

    way: str
    ms: float
    gain: float
    """Time of the eager step over that of this one."""
    ready_seconds: float
    """What it takes before the first step of a process."""
    again_seconds: float
    """What it takes for another number of prompts in the same process."""
    difference: float
    """Of the gradients from the eager ones, over their size."""


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    options = _parse(arguments)
    engine = Engine(precision=options.precision)
    torch.manual_seed(0)
    vit = backbone(options.backbone)
    engine.cast_frozen(vit)
    vit.to(options.device)
    size = vit.patch_embed.img_size
    images = torch.randn(options.batch, 3, *size, device=options.device)
    labels = torch.arange(options.batch, device=options.device) % NUM_CLASSES
    method, settings = METHOD_CASES[options.method]

    def model_with(num_tokens: int) -> TunedViT:
        return tune(
            vit, METHODS[method](**settings, num_tokens=num_tokens), num_classes=NUM_CLASSES
        ).to(options.device)

    print(f"{options.backbone}, {vars(options)}\n{machine()}\n")
    clock = clock_of(options.device, "wall")
    runs: dict[str, Callable[[], None]] = {}
    facts: dict[str, tuple[float, float, float]] = {}
    expected: list[Tensor] | None = None
    for way in options.ways:
        model, other = model_with(options.tokens), model_with(options.tokens + 7)
        started = clock()
        runs[way] = ready(way, model, images, labels, engine)
        runs[way]()
        prepared = clock()
        ready(way, other, images, labels, engine)()
        again = clock() - prepared
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        expected = expected or found
        apart = sum((a - b).square().sum() for a, b in zip(found, expected, strict=True))
        difference = (apart / sum(b.square().sum() for b in expected)).sqrt().item()
        facts[way] = (prepared - started, again, difference)
        print(f"{way}: ready after {prepared - started:.1f} s", flush=True)
    times = {way: [] for way in runs}
    for _ in range(options.rounds):
        for way, run in runs.items():
            started = clock()
            for _ in range(options.steps):
                run()
            times[way].append((clock() - started) / options.steps)
    print(
        "\n| way | ms | gain | ready s | other prompts s | difference |\n|---|---|---|---|---|---|"
    )
    rows = []
    for way, (prepared, again, difference) in facts.items():
        gains = [a / b for a, b in zip(times[options.ways[0]], times[way], strict=True)]
        row = Row(
            way=way,
            ms=1e3 * statistics.median(times[way]),
            gain=statistics.median(gains),
            ready_seconds=prepared,
            again_seconds=again,
            difference=difference,
        )
        rows.append(row)
        print(
            f"| {way} | {row.ms:.2f} | {row.gain:.2f} | {prepared:.1f} | {again:.1f}"
            f" | {difference:.1e} |",
            flush=True,
        )
    if options.json:
        document = {"machine": machine(), **vars(options), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2, default=str))
    return rows


def ready(
    way: str, model: TunedViT, images: Tensor, labels: Tensor, engine: Engine
) -> Callable[[], None]:
    """Forward and backward pass from the frozen prefix on; gradients are fresh after each call."""
    launch, _, kernels = way.partition(" ")
    device = images.device.type
    engine = replace(engine, launch=launch, deterministic=kernels == "deterministic")
    with torch.no_grad(), engine.computing(device):
        prefix = model.prefix(images)
    model.compile_blocks = engine.launch == "compiled"
    learnt = [tensor for tensor in model.parameters() if tensor.requires_grad]

    def action(_: Tensor) -> tuple[Tensor]:
        with ExitStack() as stack:
            stack.enter_context(engine.repeatable())
            stack.enter_context(engine.computing(device))
            if kernels == "flash":
                stack.enter_context(sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]))
            logits = model.forward_from(prefix)
            loss = cross_entropy(logits.float(), labels)
            loss.backward()
        return (loss.detach(),)

    step = Recorded(action, learnt) if engine.records(device) else action

    def run() -> None:
        model.zero_grad(set_to_none=True)
        step(labels)

    return run


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="vit_base_patch16_224", help="a timm name, or tiny")
    parser.add_argument("--method", choices=METHOD_CASES, default="vpt_deep")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(USUAL))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    faulthandler.enable()
    main()
