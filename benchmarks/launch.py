"""Ways to launch one and the same training step on a GPU, and what each costs before it pays.

    python benchmarks/launch.py --backbone vit_tiny_patch16_224 --batch 64
    python benchmarks/launch.py --backbone vit_base_patch16_224 --tokens 100 --json launch.json

`eager` is how PyTorch runs a step, `cudnn` the same with cuDNN's attention. `graph` records the
forward and the backward pass once as a CUDA graph and replays it: the same kernels without the time
in which Python launches them. `compiled` gives the parts of a block around its attention to
torch.compile, which fuses what is bound by memory; `compiled graph` does both. All are timed in
turn, round by round; a gain is a median over the rounds. Each way's gradients are compared with
those of `eager` before anything is timed.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from step import METHOD_CASES, NUM_CLASSES, backbone, clock_of, machine
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from methods import METHODS, TunedViT, tune
from orchestrator.training.numerics import PRECISIONS, Engine

WAYS = ("eager", "cudnn", "graph", "compiled", "compiled graph")


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

    def step_of(model: TunedViT) -> Callable[[], None]:
        with torch.no_grad(), engine.computing(options.device):
            prefix = model.prefix(images)

        def step() -> None:
            with engine.computing(options.device):
                logits = model.forward_from(prefix)
            cross_entropy(logits.float(), labels).backward()

        return step

    print(f"{options.backbone}, {vars(options)}\n{machine()}\n")
    clock = clock_of(options.device, "wall")
    runs: dict[str, Callable[[], None]] = {}
    facts: dict[str, tuple[float, float, float]] = {}
    expected: list[Tensor] | None = None
    for way in options.ways:
        model, other = model_with(options.tokens), model_with(options.tokens + 7)
        started = clock()
        runs[way] = ready(way, model, step_of(model))
        runs[way]()
        prepared = clock()
        ready(way, other, step_of(other))()
        again = clock() - prepared
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        expected = expected or found
        difference = max(
            ((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)
        )
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


def ready(way: str, model: TunedViT, step: Callable[[], None]) -> Callable[[], None]:
    """`step`, or a faster way to do what it does; gradients are fresh after each call."""

    def fresh() -> None:
        model.zero_grad(set_to_none=True)
        step()

    if way == "cudnn":

        def with_cudnn() -> None:
            with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]):
                fresh()

        return with_cudnn
    if way.startswith("compiled"):
        step = with_compiled_blocks(model, step)

    def once() -> None:
        model.zero_grad(set_to_none=True)
        step()

    return recorded(model, step) if way.endswith("graph") else once


def recorded(model: TunedViT, step: Callable[[], None]) -> Callable[[], None]:
    """`step` as a CUDA graph; gradients are where the parameters have them, overwritten."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    model.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _enter(block: Block, tokens: Tensor) -> Tensor:
    return block.attn.qkv(block.norm1(tokens))


def _leave(block: Block, tokens: Tensor, attended: Tensor) -> Tensor:
    tokens = tokens + block.ls1(block.attn.proj(attended))
    return tokens + block.ls2(block.mlp(block.norm2(tokens)))


_compiled_enter = torch.compile(_enter)
_compiled_leave = torch.compile(_leave)


def with_compiled_blocks(model: TunedViT, step: Callable[[], None]) -> Callable[[], None]:
    """`step` with all blocks but the last in three pieces: compiled, attention, compiled."""
    last = len(model.vit.blocks) - 1

    def fused(index: int, tokens: Tensor, memory: object) -> tuple[Tensor, object]:
        if index == last:
            return TunedViT._step(model, index, tokens, memory)
        block = model._block(index)
        attn = block.attn
        width = attn.num_heads * attn.head_dim
        q, k, v = _compiled_enter(block, tokens).split(width, dim=-1)
        prompts = model.tuning.prompts(index, tokens.shape[0])
        if prompts is not None:
            both = torch.nn.functional.linear(
                block.norm1(prompts.to(tokens.dtype)),
                attn.qkv.weight[width:],
                attn.qkv.bias[width:],
            ).expand(tokens.shape[0], -1, -1)
            prompt_k, prompt_v = both.split(width, dim=-1)
            k, v = torch.cat([prompt_k, k], dim=1), torch.cat([prompt_v, v], dim=1)
        q, k, v = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        attended = scaled_dot_product_attention(q, k, v, scale=attn.scale)
        return _compiled_leave(block, tokens, attended.transpose(1, 2).flatten(2)), memory

    @contextmanager
    def swapped() -> Iterator[None]:
        model._step = fused  # type: ignore[method-assign]
        try:
            yield
        finally:
            del model._step

    def run() -> None:
        with swapped():
            step()

    return run


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="vit_base_patch16_224", help="a timm name, or tiny")
    parser.add_argument("--method", choices=["vpt_deep", "vpt_deep_dropout"], default="vpt_deep")
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
