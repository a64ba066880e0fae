"""Visual Adaptive Prompt Tuning (VAPT): prompts computed from the image's own patch tokens.

Le et al., "Revisit Visual Prompt Tuning: The Expressiveness of Prompt Experts", ICLR 2026,
https://arxiv.org/abs/2501.18936

The first block has ordinary prompts. Those of a later block come from the patch tokens X (N, d)
that enter it, for each image anew:

    G = Linear(conv(LayerNorm(X))) + b        prompts = G + W_up relu(W_down G)

conv is one K x K kernel for all channels, Linear maps its positions to P; both stand for places
alone, so together they are one matrix A (P, N), the transposed convolution of the linear's weight.
It is made once per step, and no convolution runs on images. The projector W is shared by all
blocks. Every channel of an image may be dropped between conv and Linear: as both treat channels
apart, that is the same as dropping it behind A. The linear map starts at zero, so the prompts do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.block_range import check_blocks, prompted_blocks
from methods.checks import MOST_PROMPTS, MOST_WIDTH, check_number, check_whole
from methods.families import Site, family_of
from methods.method import Images, Method, Tuning, tuned_dtype
from methods.prompts import uniform_prompts
from methods.recipe import Recipe

NORM_EPS = 1e-5
"""Of the norms of VAPT's own, as released; that of the backbones is mostly 1e-6."""


@dataclass(frozen=True, kw_only=True)
class VAPT(Method):
    """Ordinary prompts in the first block, then prompts computed from the block's own patches."""

    title: ClassVar[str] = "Revisit Visual Prompt Tuning: The Expressiveness of Prompt Experts"
    paper: ClassVar[str] = "https://arxiv.org/abs/2501.18936"
    same_each_step: ClassVar[bool] = True
    learns_prompts: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {"VAPT": {"blocks": None}}

    num_tokens: int = 10
    """Prompts per block."""
    kernel: int | None = 2
    """Side of the convolution that patches go through before they are summed; None: none."""
    hidden: int = 8
    """Width between the two layers of the projector."""
    plain_blocks: int = 1
    """Blocks with ordinary prompts, from the first prompted one on; at most all of them but one."""
    dropout: float = 0.1
    """On the ordinary prompts of each image."""
    channel_dropout: float = 0.1
    """On whole channels of the patches that prompts are computed from."""
    projector_dropout: float = 0.1
    """Between the two layers of the projector."""
    blocks: str | None = None
    """Where prompts stand: the first and the last block with prompts, both included, counted from 0
    (8-11, or [8, 11]). None: every block."""

    def __post_init__(self) -> None:
        check_whole(self, "num_tokens", 1, MOST_PROMPTS)
        check_whole(self, "kernel", 1, MOST_WIDTH, optional=True)
        check_whole(self, "hidden", 1, MOST_WIDTH)
        check_whole(self, "plain_blocks", 1)
        for name in ("dropout", "channel_dropout", "projector_dropout"):
            check_number(self, name, 0, 1, below_high=True)
        check_blocks(self)

    @property
    def length(self) -> int:
        return self.num_tokens

    def recipe(self) -> Recipe:
        return Recipe(batch_size=64)

    def tuning(
        self, vit: nn.Module, generator: torch.Generator, images: Images | None
    ) -> "ComputedPrompts":
        return ComputedPrompts(self, vit, generator)


class ComputedPrompts(Tuning):
    """VAPT's ordinary prompts, and what computes those of the other blocks."""

    def __init__(self, method: VAPT, vit: nn.Module, generator: torch.Generator) -> None:
        family = family_of(vit)
        sites = family.sites(vit)
        blocks, width = prompted_blocks(method, len(sites)), _one_width(sites)
        if method.plain_blocks >= len(blocks):
            raise ValueError(
                f"VAPT: plain_blocks={method.plain_blocks} leaves none of {len(blocks)} blocks with"
                f" prompts to compute them for: at most {len(blocks) - 1}"
            )
        super().__init__(first_block=blocks[0], last_block=blocks[-1])
        dtype, count = tuned_dtype(vit), method.num_tokens
        computed = len(blocks) - method.plain_blocks
        self.method = method
        self.num_prompts = count
        self._grid, self._num_prefix = family.grid(vit), family.num_prefix(vit)
        positions = _positions(self._grid, method.kernel)
        ordinary = (method.plain_blocks, count, width)
        self.prompt = nn.Parameter(uniform_prompts(vit, ordinary, generator))
        self.norm_weight = nn.Parameter(torch.ones(computed, width, dtype=dtype))
        self.norm_bias = nn.Parameter(torch.zeros(computed, width, dtype=dtype))
        self.kernel = None
        if method.kernel is not None:
            kernel = torch.empty(computed, 1, 1, method.kernel, method.kernel, dtype=dtype)
            self.kernel = nn.Parameter(kernel.normal_(generator=generator))
        self.linear_weight = nn.Parameter(torch.zeros(computed, count, positions, dtype=dtype))
        self.linear_bias = nn.Parameter(torch.zeros(computed, count, dtype=dtype))
        down = torch.empty(method.hidden, width, dtype=dtype)
        up = torch.empty(width, method.hidden, dtype=dtype)
        for layer in (down, up):  # as torch's linear layers start
            layer.uniform_(-(layer.shape[1] ** -0.5), layer.shape[1] ** -0.5, generator=generator)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    @torch.no_grad()
    def own_prompts(self) -> Tensor:
        return self.prompt.detach().float().cpu()

    def prompts_from(self, index: int, tokens: Tensor) -> Tensor:
        number = index - self.first_block
        if number < self.method.plain_blocks:
            prompts = self.prompt[number]
            if self.training and self.method.dropout > 0:  # every image has its own mask
                prompts = F.dropout(prompts.expand(tokens.shape[0], -1, -1), self.method.dropout)
            return prompts
        patches = tokens[:, self._num_prefix :]
        return self._project(self._gathered(number - self.method.plain_blocks, patches))

    def matrix(self, number: int) -> Tensor:
        """Convolution and linear map of the computed block `number` in one, (P, N)."""
        weight = self.linear_weight[number]
        if self.kernel is None:
            return weight
        kernel = self.kernel[number]
        down, across = (side - kernel.shape[-1] + 1 for side in self._grid)
        return F.conv_transpose2d(weight.view(-1, 1, down, across), kernel).flatten(1)

    def _gathered(self, number: int, patches: Tensor) -> Tensor:
        """G (B, P, d) of the patches (B, N, d) that enter the computed block `number`."""
        own = (self.norm_weight[number], self.norm_bias[number])
        scale, shift = (tensor.to(patches.dtype) for tensor in own)
        normed = F.layer_norm(patches, patches.shape[-1:], scale, shift, NORM_EPS)
        summed = self.matrix(number).to(normed.dtype) @ normed
        if self.training and self.method.channel_dropout > 0:
            channels = F.dropout1d(summed.mT, self.method.channel_dropout)
            summed = channels.mT
        return summed + self.linear_bias[number].to(summed.dtype).unsqueeze(-1)

    def _project(self, gathered: Tensor) -> Tensor:
        """Prompts (B, P, d): the projector's word on `gathered` added to it."""
        down, up = (layer.to(gathered.dtype) for layer in (self.down, self.up))
        hidden = F.linear(gathered, down).relu()
        hidden = F.dropout(hidden, self.method.projector_dropout, self.training)
        return gathered + F.linear(hidden, up)


def _one_width(sites: tuple[Site, ...]) -> int:
    widths = sorted({site.width for site in sites})
    if len(widths) > 1:
        raise ValueError(
            "VAPT: one projector serves all blocks, which must be of one width; those of this"
            f" backbone have {', '.join(map(str, widths))}. Take vpt or cvpt for it"
        )
    return widths[0]


def _positions(grid: tuple[int, int], kernel: int | None) -> int:
    """Where the kernel fits on the grid of patches; without one, all patches."""
    if kernel is None:
        return grid[0] * grid[1]
    if kernel > min(grid):
        raise ValueError(
            f"VAPT: kernel={kernel}, but an image is {grid[0]} x {grid[1]} patches:"
            f" at most {min(grid)}"
        )
    return (grid[0] - kernel + 1) * (grid[1] - kernel + 1)
