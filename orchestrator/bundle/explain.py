"""What learned prompts do, as pictures: where the network looks with and without them, how much it
looks at each of them, what the gates let through, and how near they are to the task's own patches.

One HTML file that holds its pictures.
"""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from methods import METHODS, Linear, TunedViT, token_statistics, tune
from methods.recipe import Recipe
from orchestrator.bundle.prompted_model import PromptedModel
from orchestrator.support.foreign_text import visible
from orchestrator.support.whole_file import whole_file
from orchestrator.training.config import split_config
from orchestrator.training.normalization import normalized_for

NUM_PROTOTYPES = 16
"""Centres of the patch tokens of a block that prompts are compared with."""
DPI = 110


@dataclass(frozen=True, kw_only=True)
class AttentionShares:
    """Shares of attention from the row that is read out, averaged over heads."""

    patches: Tensor
    """(blocks, B, N)."""
    prompts: list[Tensor]
    """Per block (B, P); P is 0 where the block has no prompts."""


def explain(
    model: PromptedModel,
    shown: np.ndarray,
    labels: Sequence[str],
    train: np.ndarray,
) -> str:
    """The page for some images (B, S, S, 3) uint8 with their true classes.

    `train` (N, S, S, 3) are training images, from which prototypes and the initial prompts come.
    """
    if model.model.family.in_windows:
        raise ValueError(
            f"explain shows where the last block looks among all patches, but in"
            f" {visible(model.bundle.backbone.name)} each looks only within its window; predict and"
            " evaluate work"
        )
    images = _normalised(model, shown)
    without = _without_prompts(model)
    looks, looks_without = record_looks(model.model, images), record_looks(without, images)
    bundle = model.bundle
    with torch.no_grad():
        found = bundle.objective.ranked(model.model(images), 1)
    captions = [
        f"{visible(truth)}\nfound: {visible(bundle.class_names[label])} ({probability:.2f})"
        for truth, [(label, probability)] in zip(labels, found, strict=True)
    ]
    parts = [
        (
            "Where the network looks",
            "Attention of the last block to the patches, from the token that the head reads, mean "
            "over heads. Each map is scaled to its own maximum.",
            _draw_maps(shown, captions, looks_without, looks),
        )
    ]
    if any(prompts.shape[1] for prompts in looks.prompts):
        parts.append(
            (
                "How much it looks at each prompt",
                "Share of attention that goes to each prompt, mean over these images and heads. "
                "The line is the sum over all prompts of a block.",
                _draw_prompt_shares(looks),
            )
        )
    portraits = model.model.tuning.portraits()
    for portrait in portraits:
        parts.append((portrait.title, portrait.text, _draw_bars(portrait.values, portrait.name)))
    # What a method says of itself says it better than how far its prompts move.
    if not portraits and (edits := prompt_edits(model.model, images)) is not None:
        parts.append(
            (
                "Edits between blocks",
                "How far the method moves the prompts behind each block, relative to their length.",
                _draw_bars(edits, "relative change"),
            )
        )
    if (nearness := prototype_similarity(model, _normalised(model, train))) is not None:
        parts.append(
            (
                "Prompts and patches",
                f"Cosine between each prompt and the nearest of {NUM_PROTOTYPES} centres of the "
                "patch tokens that enter its block, mean over the block's prompts.",
                _draw_similarity(*nearness, first=model.model.tuning.first_block),
            )
        )
    return _page(f"{bundle.trial.method} on {bundle.task}", parts)


class _Recorder(TorchFunctionMode):
    """Sees the attention of every block, without touching the network."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []
        """(B, queries, keys), mean over heads."""
        self.looks_away = False
        """While a method attends to something of its own beside the block (CVPT)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and not self.looks_away:
            query, key = args[0], args[1]
            scale = kwargs.get("scale") or query.shape[-1] ** -0.5
            scores = (query @ key.transpose(-2, -1)).float() * scale
            if (bias := kwargs.get("attn_mask")) is not None:
                scores = scores + bias
            self.weights.append(scores.softmax(dim=-1).mean(dim=1))
        return func(*args, **kwargs)


@torch.no_grad()
def record_looks(model: TunedViT, images: Tensor) -> AttentionShares:
    """What each block looks at for these normalised images (B, 3, S, S)."""
    recorder, before_mlp = _Recorder(), model.tuning.before_mlp

    def unseen(index: int, tokens: Tensor) -> Tensor:
        recorder.looks_away = True
        tokens = before_mlp(index, tokens)
        recorder.looks_away = False
        return tokens

    model.eval()
    model.tuning.before_mlp = unseen  # type: ignore[method-assign]
    try:
        with recorder:
            model(images)
    finally:
        del model.tuning.before_mlp
    vit, tuning = model.vit, model.tuning
    family, depth = model.family, model.depth
    num_prefix, num_patches = family.num_prefix(vit), math.prod(family.grid(vit))
    patches, prompts = [], []
    for index, weights in enumerate(recorder.weights[:depth]):
        reads_one = family.has_class_token(vit) and (index < depth - 1 or model.readout == "cls")
        row = weights[:, 0] if reads_one else weights.mean(dim=1)
        count = row.shape[1] - num_prefix - num_patches
        in_sequence = tuning.persistent or (
            index == depth - 1 and model.readout in ("mean_no_cls", "prompt_pool")
        )
        first = num_prefix if in_sequence else 0
        prompts.append(row[:, first : first + count])
        patches.append(row[:, -num_patches:])
    return AttentionShares(patches=torch.stack(patches), prompts=prompts)


@torch.no_grad()
def prompt_edits(model: TunedViT, images: Tensor) -> list[float] | None:
    """How far the prompts are moved between blocks, relative to their norm; None if they are not.

    For methods that edit prompts and have no portrait of it (LSPT).
    """
    between, moved = model.tuning.between, []

    def watch(
        index: int, before: Tensor, after: Tensor, patches: Tensor, memory: Any
    ) -> tuple[Tensor | None, Any]:
        edited, memory = between(index, before, after, patches, memory)
        if edited is not None:
            moved.append(((edited - after).norm() / after.norm()).item())
        return edited, memory

    model.tuning.between = watch  # type: ignore[method-assign]
    try:
        model.eval()(images)
    finally:
        del model.tuning.between
    return moved or None


def prototype_similarity(
    model: PromptedModel, train: Tensor
) -> tuple[list[float], list[float]] | None:
    """Per block with prompts of its own: similarity before and after training."""
    tuned, bundle = model.model, model.bundle
    after = tuned.tuning.own_prompts()
    if after is None:
        return None
    own, _ = split_config(bundle.trial.method, bundle.trial.config)
    method = METHODS[bundle.trial.method](**own)
    seen = token_statistics(tuned.vit, train)
    start = tune(
        tuned.vit,
        method,
        method.look_at(tuned.vit, train) if method.needs_images else None,
        num_classes=bundle.num_classes,
        recipe=Recipe(**bundle.recipe),
        seed=bundle.trial.seed,
    )
    before = start.tuning.own_prompts()
    assert before is not None
    found: tuple[list[float], list[float]] = ([], [])
    for place in range(len(after)):
        block = tuned.tuning.first_block + place
        count = min(NUM_PROTOTYPES, len(seen.tokens[block]))
        centres = torch.nn.functional.normalize(seen.prototypes(block, count).float(), dim=1)
        for prompts, values in zip((before, after), found, strict=True):
            cosines = torch.nn.functional.normalize(prompts[place], dim=1) @ centres.T
            values.append(cosines.amax(dim=1).mean().item())
    return found


def _without_prompts(model: PromptedModel) -> TunedViT:
    vit = model.model.vit
    readout = model.model.readout
    recipe = Recipe(readout="auto" if readout == "prompt_pool" else readout)
    return tune(vit, Linear(), num_classes=model.bundle.num_classes, recipe=recipe)


def _normalised(model: PromptedModel, images: np.ndarray) -> Tensor:
    return normalized_for(model.bundle.backbone, torch.from_numpy(images.copy()))


def _draw_maps(
    shown: np.ndarray, captions: Sequence[str], without: AttentionShares, looks: AttentionShares
) -> Figure:
    count = len(shown)
    figure = Figure(figsize=(2.2 * count, 7), dpi=DPI, layout="constrained")
    axes = figure.subplots(3, count, squeeze=False)
    for column in range(count):
        axes[0, column].imshow(shown[column])
        # A dollar in the name of a class is no formula.
        axes[0, column].set_title(captions[column], fontsize=8, parse_math=False)
        for row, look in ((1, without), (2, looks)):
            axes[row, column].imshow(_overlay(shown[column], look.patches[-1, column]))
    for row, name in enumerate(("image", "without prompts", "with prompts")):
        axes[row, 0].set_ylabel(name, fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def _overlay(image: np.ndarray, attention: Tensor) -> np.ndarray:
    side = round(len(attention) ** 0.5)
    grid = attention[: side * side].view(1, 1, side, side).cpu()
    size = image.shape[0]
    smooth = torch.nn.functional.interpolate(grid, (size, size), mode="bicubic")[0, 0].clamp(min=0)
    heat = (smooth / smooth.max().clamp(min=1e-12)).numpy()
    grey = image.mean(axis=2, keepdims=True) / 255
    colour = matplotlib.colormaps["inferno"](heat)[..., :3]
    return 0.35 * grey + 0.65 * colour


def _draw_prompt_shares(looks: AttentionShares) -> Figure:
    widest = max(prompts.shape[1] for prompts in looks.prompts)
    depth = len(looks.prompts)
    table = np.full((depth, widest), np.nan)
    for block, prompts in enumerate(looks.prompts):
        table[block, : prompts.shape[1]] = prompts.mean(dim=0).cpu().numpy()
    figure = Figure(figsize=(9, 1.6 + 0.28 * depth), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    drawn = left.imshow(100 * table, aspect="auto", cmap="viridis", interpolation="nearest")
    left.set_xlabel("prompt")
    left.set_ylabel("block")
    left.set_yticks(range(depth), [str(block + 1) for block in range(depth)])
    figure.colorbar(drawn, ax=left, label="% of attention")
    right.plot(100 * np.nansum(table, axis=1), range(depth), marker="o", color="black")
    right.set_xlabel("% to all prompts")
    right.set_xlim(left=0)
    return figure


def _draw_bars(values: Sequence[float], name: str) -> Figure:
    figure = Figure(figsize=(7, 2.6), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    blocks = range(1, len(values) + 1)
    bars = axis.bar(blocks, values, color="#4477aa")
    axis.bar_label(bars, [f"{value:.2g}" for value in values], fontsize=8)
    axis.set_xticks(blocks)
    axis.set_xlabel("behind block")
    axis.set_ylabel(name)
    axis.margins(y=0.15)
    return figure


def _draw_similarity(before: Sequence[float], after: Sequence[float], *, first: int) -> Figure:
    figure = Figure(figsize=(7, 2.8), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    blocks = range(first + 1, first + 1 + len(before))
    axis.plot(blocks, before, marker="o", color="#bbbbbb", label="before training")
    axis.plot(blocks, after, marker="o", color="#aa3377", label="after")
    axis.set_xticks(blocks)
    axis.set_xlabel("block")
    axis.set_ylabel("cosine to nearest centre")
    axis.legend()
    return figure


def _page(title: str, parts: Sequence[tuple[str, str, Figure]]) -> str:
    sections = "\n".join(
        f"<section><h2>{html.escape(name)}</h2><p>{html.escape(text)}</p>"
        f'<img alt="{html.escape(name)}" src="data:image/png;base64,{_png(figure)}"></section>'
        for name, text, figure in parts
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "img{max-width:100%;height:auto}h2{margin-top:2.5rem}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>\n{sections}\n</body></html>\n"
    )


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def write_page(page: str, path: Path) -> None:
    """Whole or not at all."""
    with whole_file(path) as file:
        file.write(page.encode())
