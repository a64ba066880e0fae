"""Gated Prompt Tuning (GateVPT): shallow prompts that choose the blocks they pass through.

Yoo et al., "Improving Visual Prompt Tuning for Self-supervised Vision Transformers", ICML 2023,
https://arxiv.org/abs/2306.05067

After each gated block the prompt rows become g * output + (1 - g) * input with a learnt g per
block, so a prompt can wait for the block where it helps. A learnt temperature per block divides
the attention scores of all heads and tokens. Gates open: VPT-Shallow. Gates shut: VPT-Deep with
one set of prompts for all blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.checks import MOST_PROMPTS, check_flag, check_number, check_whole
from methods.families import sites_of
from methods.method import Images, Method, Portrait, tuned_dtype
from methods.prompts import Prompts, uniform_prompts
from methods.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class GateVPT(Method):
    """Shallow prompts with a gate after each of the first blocks and attention temperatures."""

    title: ClassVar[str] = "Improving Visual Prompt Tuning for Self-supervised Vision Transformers"
    paper: ClassVar[str] = "https://arxiv.org/abs/2306.05067"
    same_each_step: ClassVar[bool] = True
    learns_prompts: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {"GateVPT": {}}

    num_tokens: int = 10
    """Prompts. The authors chose 1 to 10 on VTAB, 100 on fine-grained tasks."""
    gating_depth: int | None = None
    """Gates, from the first block on; at most one less than there are blocks, which None means."""
    gate_init: float = 5.0
    """Gates start at sigmoid(-gate_init). From 10 on they hardly learn and stay shut."""
    learn_temperature: bool = True
    """True: a temperature per block, starting at `temperature`. False: constant."""
    temperature: float = 1.0
    """Divides the attention scores. Learnt ones are kept within [0.01, 10]."""
    dropout: float = 0.1
    """On the prompts of each image."""

    def __post_init__(self) -> None:
        check_whole(self, "num_tokens", 1, MOST_PROMPTS)
        check_whole(self, "gating_depth", 0, optional=True)
        check_number(self, "gate_init", 0)
        check_flag(self, "learn_temperature")
        check_number(self, "temperature", *TEMPERATURES)
        check_number(self, "dropout", 0, 1, below_high=True)

    @property
    def length(self) -> int:
        return self.num_tokens

    def recipe(self) -> Recipe:
        return gated_recipe(self.num_tokens)

    def tuning(
        self, vit: nn.Module, generator: torch.Generator, images: Images | None
    ) -> "GatedPrompts":
        sites, dtype = sites_of(vit), tuned_dtype(vit)
        depth = len(sites)
        return GatedPrompts(
            uniform_prompts(vit, (1, self.num_tokens, sites[0].width), generator),
            gate=torch.full((edited_blocks(self, depth),), -self.gate_init, dtype=dtype),
            temperature=torch.full((depth,), self.temperature, dtype=dtype),
            learn_temperature=self.learn_temperature,
            dropout=self.dropout,
        )


TEMPERATURES = (0.01, 10.0)
"""The range that the authors clamp temperatures to."""


def gated_recipe(num_tokens: int) -> Recipe:
    """Plain SGD without decay; the authors' lr is not scaled with the batch: 0.05 to 5."""
    return Recipe(batch_size=64 if num_tokens >= 100 else 128, lr=0.5, scale_lr=False)


def edited_blocks(method: Any, depth: int) -> int:
    """How many blocks the method's `gating_depth` means in a ViT of this depth."""
    if method.gating_depth is None:
        return depth - 1
    if method.gating_depth > depth - 1:
        raise ValueError(
            f"{type(method).__name__}: gating_depth={method.gating_depth}, but after the last of"
            f" {depth} blocks there is nothing to gate: at most {depth - 1}"
        )
    return method.gating_depth


class TemperedPrompts(Prompts):
    """Shallow prompts, and an attention temperature per block."""

    def __init__(
        self, prompt: Tensor, *, temperature: Tensor, learn_temperature: bool, dropout: float
    ) -> None:
        super().__init__(prompt, deep=False, dropout=dropout)
        self.temperatures = nn.Parameter(temperature) if learn_temperature else None
        self._constant = None if learn_temperature else temperature[0].item()
        self._in_use = temperature

    def begin(self) -> None:
        if self.temperatures is None:
            return
        # As in the released code the stored value is clamped, so that a gradient still reaches it
        # at the bounds; the copy lets two passes run before one backward.
        with torch.no_grad():
            self.temperatures.clamp_(*TEMPERATURES)
        self._in_use = self.temperatures.clone()

    def temperature(self, index: int) -> Tensor | float | None:
        if self.temperatures is None:
            return None if self._constant == 1.0 else self._constant
        return self._in_use[index]


class GatedPrompts(TemperedPrompts):
    """GateVPT's prompts: after each of the first blocks only a share of the output is taken."""

    def __init__(self, prompt: Tensor, *, gate: Tensor, **others: Any) -> None:
        super().__init__(prompt, **others)
        self.num_gates = len(gate)
        self.gate = nn.Parameter(gate) if self.num_gates else None
        """Logits, one per gated block."""

    def portraits(self) -> Sequence[Portrait]:
        if self.gate is None:
            return ()
        gates = Portrait(
            title="Gates",
            text="What a gate lets through of the prompts that leave its block: 1 takes them all, "
            "0 keeps those that entered.",
            name="gate",
            values=self.gate.detach().sigmoid().tolist(),
        )
        return (gates,)

    def between(
        self, index: int, before: Tensor, after: Tensor, patches: Tensor, memory: Any
    ) -> tuple[Tensor | None, Any]:
        if self.gate is None or index >= self.num_gates:
            return None, None
        return torch.lerp(before, after, self.gate[index].sigmoid().to(after.dtype)), None
