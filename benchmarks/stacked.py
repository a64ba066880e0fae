"""Prototype: several trials of VPT-Deep in one forward pass, against one after the other.

    python benchmarks/stacked.py --backbone vit_tiny_patch16_224 --batch 16 --trials 1 2 4 8
    python benchmarks/stacked.py --device cuda --precision bf16 --launch graph --batch 64

Prompts and heads have a trial axis, each trial has its own images, and the losses are summed, so
that every trial gets its own gradient and nothing else: attention and norms never look beyond an
image. The equality is checked before anything is timed. As in a sweep, what is frozen in front of
the prompts is computed before. This is a measurement, not part of the engine: it would be taken
over from 1.2 times the speed on.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from step import NUM_CLASSES, backbone, clock_of, machine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods import VPT, TunedViT, tune
from methods.method import Tuning
from orchestrator.training.numerics import ATTENTIONS, LAUNCHES, PRECISIONS, Engine
from orchestrator.training.recorded import Recorded


class StackedPrompts(Tuning):
    """Deep prompts (trials, depth, P, d); the images of a batch are ordered by trial."""

    def __init__(self, prompts: Tensor) -> None:
        super().__init__()
        self.prompt = nn.Parameter(prompts)
        self.num_prompts = prompts.shape[2]

    def prompts(self, index: int, batch_size: int) -> Tensor:
        of_trial = self.prompt[:, index]
        return of_trial.repeat_interleave(batch_size // len(of_trial), dim=0)


class StackedHead(nn.Module):
    """One linear layer per trial."""

    def __init__(self, heads: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([head.weight.detach() for head in heads]))
        self.bias = nn.Parameter(torch.stack([head.bias.detach() for head in heads]))

    def forward(self, features: Tensor) -> Tensor:
        by_trial = features.unflatten(0, (len(self.weight), -1))
        return torch.baddbmm(self.bias[:, None], by_trial, self.weight.mT).flatten(0, 1)


def stack(models: Sequence[TunedViT]) -> TunedViT:
    """One model that computes what all of these do, on their batches behind one another."""
    first = models[0]
    method = first.method
    assert isinstance(method, VPT)
    stacked = tune(first.vit, method, num_classes=NUM_CLASSES).to(next(first.parameters()).device)
    stacked.tuning = StackedPrompts(torch.stack([m.tuning.prompt.detach() for m in models]))
    stacked.head = StackedHead([model.head for model in models])  # type: ignore[assignment]
    return stacked


@dataclass(frozen=True, kw_only=True)
class Row:
    """Speed of K trials in one pass."""

    trials: int
    gain: float
    """Time of K steps one after the other over that of one stacked step; median of the rounds."""
    images_per_second: float
    difference: float
    """Largest between a gradient of the stacked step and of the single one, over its own size."""


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    options = _parse(arguments)
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    engine = Engine(precision=options.precision, attention=options.attention, launch=options.launch)
    vit = backbone(options.backbone)
    engine.cast_frozen(vit)
    vit.to(options.device)
    clock = clock_of(options.device, options.clock)
    print(f"{options.backbone}, {vars(options)}\n{machine()}\n")
    print("| trials | gain | images/s | largest difference |\n|---|---|---|---|")
    rows = []
    for count in options.trials:
        models = [
            tune(vit, VPT(num_tokens=options.tokens), num_classes=NUM_CLASSES, seed=seed).to(
                options.device
            )
            for seed in range(count)
        ]
        row = _measure(models, options, engine, clock)
        rows.append(row)
        speed = f"{row.gain:.2f} | {row.images_per_second:.1f}"
        print(f"| {count} | {speed} | {row.difference:.1e} |", flush=True)
    if options.json:
        document = {"machine": machine(), **vars(options), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2, default=str))
    return rows


def _measure(
    models: list[TunedViT],
    options: argparse.Namespace,
    engine: Engine,
    clock: Callable[[], float],
) -> Row:
    count, batch = len(models), options.batch
    together = stack(models)
    size = together.vit.patch_embed.img_size
    images = torch.randn(count, batch, 3, *size, device=options.device)
    labels = torch.randint(NUM_CLASSES, (count, batch), device=options.device)

    def prefix_of(model: TunedViT, images: Tensor) -> Tensor:
        with torch.no_grad(), engine.computing(options.device):
            return model.prefix(images)

    def single(model: TunedViT, own_images: Tensor, own_labels: Tensor) -> Callable[[], None]:
        prefix = prefix_of(model, own_images)

        def action(_: Tensor) -> tuple[Tensor]:
            with engine.computing(options.device):
                logits = model.forward_from(prefix)
            loss = cross_entropy(logits.float(), own_labels)
            loss.backward()
            return (loss.detach(),)

        return _launched(action, model, labels, engine)

    prefix_of_all = prefix_of(together, images.flatten(0, 1))

    def stacked(_: Tensor) -> tuple[Tensor]:
        with engine.computing(options.device):
            logits = together.forward_from(prefix_of_all)
        losses = cross_entropy(logits.float(), labels.flatten(), reduction="none")
        loss = losses.unflatten(0, (count, batch)).mean(dim=1).sum()
        loss.backward()
        return (loss.detach(),)

    singles = [single(*of_trial) for of_trial in zip(models, images, labels, strict=True)]
    stacked_step = _launched(stacked, together, labels, engine)

    def single_steps() -> None:
        for step in singles:
            step()

    def seconds(action: Callable[[], None]) -> float:
        started = clock()
        action()
        return clock() - started

    single_steps()
    stacked_step()
    difference = _difference(models, together)
    times = [(seconds(single_steps), seconds(stacked_step)) for _ in range(options.rounds)]
    return Row(
        trials=count,
        gain=statistics.median(single / stacked for single, stacked in times),
        images_per_second=count * batch / statistics.median(stacked for _, stacked in times),
        difference=difference,
    )


def _launched(
    action: Callable[[Tensor], tuple[Tensor]], model: TunedViT, labels: Tensor, engine: Engine
) -> Callable[[], None]:
    """The action as the engine launches it; gradients are fresh after each call."""
    device = labels.device.type
    model.compile_blocks = engine.compiles(device)
    learnt = [tensor for tensor in model.parameters() if tensor.requires_grad]
    launched = Recorded(action, learnt) if engine.records(device) else action

    def step() -> None:
        model.zero_grad(set_to_none=True)
        launched(labels)

    return step


def _difference(models: list[TunedViT], together: TunedViT) -> float:
    largest = 0.0
    for index, model in enumerate(models):
        for own, stacked in (
            (model.tuning.prompt.grad, together.tuning.prompt.grad[index]),
            (model.head.weight.grad, together.head.weight.grad[index]),
        ):
            largest = max(largest, ((own - stacked).norm() / own.norm()).item())
    return largest


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="vit_tiny_patch16_224", help="a timm name, or tiny")
    parser.add_argument("--trials", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8, help="of one trial")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--attention", choices=ATTENTIONS, default="fused")
    parser.add_argument("--launch", choices=LAUNCHES, default="eager", help="of a GPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--clock", choices=["process", "wall"], default="process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--quick", action="store_true", help="a tiny backbone, to see it run")
    options = parser.parse_args(arguments)
    if options.quick:
        options.backbone, options.batch, options.rounds, options.trials = "tiny", 2, 2, [1, 3]
    return options


if __name__ == "__main__":
    main()
