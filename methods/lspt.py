"""Long-term Spatial Prompt Tuning (LSPT): a RECONSTRUCTION, not a reproduction.

Mo et al., "LSPT: Long-term Spatial Prompt Tuning for Visual Representation Learning",
https://arxiv.org/abs/2402.17406

There is no public code, and only the abstract, the reviews and summaries were read. Known: the
mean of the patch tokens is added to the prompts that leave a block (spatial coding), one LSTM
shared by all blocks carries them from block to block (long-term coding), and the set-up is
GateVPT's. The width of the LSTM, its residual form and its start are ours; the default width fits
the reviewers' "four to five times GateVPT's parameters". No result of the paper can be compared
with these numbers; label them "LSPT (reconstruction)".
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.checks import (
    MOST_PROMPTS,
    MOST_WIDTH,
    check_choice,
    check_flag,
    check_number,
    check_whole,
)
from methods.families import sites_of
from methods.gatevpt import TemperedPrompts, edited_blocks, gated_recipe
from methods.method import Images, Method, blank_linear, tuned_dtype
from methods.prompts import uniform_prompts
from methods.recipe import Recipe

SPATIAL = ("mean_patch", "mean_patch_new_prompt", "none")


@dataclass(frozen=True, kw_only=True)
class LSPT(Method):
    """Shallow prompts that take up the image and a memory of earlier blocks after each block."""

    title: ClassVar[str] = (
        "LSPT: Long-term Spatial Prompt Tuning for Visual Representation Learning (reconstruction)"
    )
    paper: ClassVar[str] = "https://arxiv.org/abs/2402.17406"
    same_each_step: ClassVar[bool] = True
    reconstruction: ClassVar[bool] = True
    learns_prompts: ClassVar[bool] = True

    num_tokens: int = 10
    """Prompts."""
    spatial: str = "mean_patch"
    """What is added to the prompts behind a block: the mean patch, the mean patch and a learnt
    new prompt, or none."""
    temporal: bool = True
    """Carry the prompts through the LSTM; false with `spatial` is spatial coding alone."""
    hidden: int = 96
    """Width of the LSTM; the width of the backbone: no projections around it."""
    residual: bool = True
    """True: what the LSTM says is added, starting at zero. False: it replaces the prompts."""
    gating_depth: int | None = None
    """Blocks behind which the prompts are edited, from the first on; None: all but the last."""
    memory_init: str = "zero"
    """The LSTM's first hidden state: zero, or the prompts themselves."""
    forget_bias: float = 0.0
    """Added to the LSTM's forget gate at the start."""
    normalize: bool = False
    """Layer norm without weights before the LSTM: late MAE blocks have large activations."""
    learn_temperature: bool = False
    """GateVPT's attention temperature per block."""
    dropout: float = 0.1
    """On the prompts of each image."""

    def __post_init__(self) -> None:
        check_whole(self, "num_tokens", 1, MOST_PROMPTS)
        check_choice(self, "spatial", SPATIAL)
        for name in ("temporal", "residual", "normalize", "learn_temperature"):
            check_flag(self, name)
        check_whole(self, "hidden", 1, MOST_WIDTH)
        check_whole(self, "gating_depth", 0, optional=True)
        check_choice(self, "memory_init", ("zero", "prompt"))
        check_number(self, "forget_bias", 0)
        check_number(self, "dropout", 0, 1, below_high=True)

    @property
    def length(self) -> int:
        return self.num_tokens

    def recipe(self) -> Recipe:
        return gated_recipe(self.num_tokens)

    def tuning(
        self, vit: nn.Module, generator: torch.Generator, images: Images | None
    ) -> "RememberingPrompts":
        return RememberingPrompts(self, vit, generator)


class RememberingPrompts(TemperedPrompts):
    """LSPT's prompts and the modules that edit them between blocks."""

    def __init__(self, method: LSPT, vit: nn.Module, generator: torch.Generator) -> None:
        sites, dtype = sites_of(vit), tuned_dtype(vit)
        depth, width = len(sites), sites[0].width
        shape = (1, method.num_tokens, width)
        super().__init__(
            uniform_prompts(vit, shape, generator),
            temperature=torch.ones(depth, dtype=dtype),
            learn_temperature=method.learn_temperature,
            dropout=method.dropout,
        )
        self.method = method
        self.num_edits = edited_blocks(method, depth)
        self.new_prompt, self.memory = None, None
        if self.num_edits and method.spatial == "mean_patch_new_prompt":
            self.new_prompt = nn.Parameter(uniform_prompts(vit, shape, generator)[0])
        if self.num_edits and method.temporal:
            self.memory = Memory(method, width, dtype, generator)

    def between(
        self, index: int, before: Tensor, after: Tensor, patches: Tensor, memory: Any
    ) -> tuple[Tensor | None, Any]:
        if index >= self.num_edits:
            return None, None
        edited = after
        if self.method.spatial != "none":
            edited = edited + patches.mean(dim=1, keepdim=True)
        if self.new_prompt is not None:
            edited = edited + self.new_prompt.to(edited.dtype)
        if self.memory is not None:
            edited, memory = self.memory(edited, before, memory)
        return edited, memory


class Memory(nn.Module):
    """One LSTM for all blocks: every prompt of every image is a sequence over the blocks."""

    def __init__(
        self, method: LSPT, width: int, dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.method = method
        hidden = method.hidden
        cell = nn.utils.skip_init(nn.LSTMCell, hidden, hidden, dtype=dtype)
        assert isinstance(cell, nn.LSTMCell)
        self.cell = cell
        for weight in cell.parameters():
            nn.init.uniform_(weight, -(hidden**-0.5), hidden**-0.5, generator=generator)
        with torch.no_grad():
            cell.bias_ih[hidden : 2 * hidden] += method.forget_bias
        self.into, self.out = None, None
        if hidden != width:
            self.into = blank_linear(width, hidden, dtype=dtype, bias=False)
            self.out = blank_linear(hidden, width, dtype=dtype, bias=False)
            nn.init.uniform_(self.into.weight, -(width**-0.5), width**-0.5, generator=generator)
            if method.residual:
                nn.init.zeros_(self.out.weight)
            else:
                bound = hidden**-0.5
                nn.init.uniform_(self.out.weight, -bound, bound, generator=generator)

    def forward(self, prompts: Tensor, first: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Prompts (B, P, d) as the next block sees them, and the state for the one after.

        `first` are the prompts that entered this block, for the start of the memory.
        """
        state = memory or self._start(first)
        state = self.cell(self._narrow(prompts), state)
        said = state[0] if self.out is None else self.out(state[0])
        said = said.view_as(prompts).to(prompts.dtype)
        return (prompts + said if self.method.residual else said), state

    def _start(self, first: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self._narrow(first)
        blank = torch.zeros_like(hidden)
        return (blank if self.method.memory_init == "zero" else hidden), blank

    def _narrow(self, prompts: Tensor) -> Tensor:
        if self.method.normalize:
            prompts = nn.functional.layer_norm(prompts, prompts.shape[-1:])
        flat = prompts.flatten(0, 1).to(self.cell.weight_ih.dtype)
        return flat if self.into is None else self.into(flat)
