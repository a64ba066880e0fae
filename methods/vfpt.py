"""Visual Fourier Prompt Tuning (VFPT): VPT with some of its prompts seen in the frequency domain.

Zeng et al., "Visual Fourier Prompt Tuning", NeurIPS 2024, https://arxiv.org/abs/2411.01327

Of the P prompts of a block the first m = floor(alpha P) become the real part of their discrete
Fourier transform, over their width, their number, or both (paper, equation 6); the others stay as
they are. As in the released code the transform is not normalised (values grow up to sqrt(m d)),
comes behind projection and dropout, and knows the m prompts of its block alone.

Where we leave the released code: its classes for MAE and MoCo always transform over both axes and
stop at alpha 0; here every backbone has every setting, and alpha 0 is VPT.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.block_range import check_blocks, refuse_blocks_of_shallow
from methods.checks import (
    MOST_PROMPTS,
    MOST_WIDTH,
    check_choice,
    check_flag,
    check_number,
    check_whole,
)
from methods.method import Images, Method
from methods.prompts import Prompts
from methods.recipe import Recipe
from methods.vpt import VPT

AXES = {"both": (-2, -1), "tokens": (-2,), "width": (-1,)}
"""Of prompts (..., m, d), by the name of the choice."""


@dataclass(frozen=True, kw_only=True)
class VFPT(Method):
    """VPT's prompts, a share of them as the real part of their Fourier transform."""

    title: ClassVar[str] = "Visual Fourier Prompt Tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2411.01327"
    same_each_step: ClassVar[bool] = True
    learns_prompts: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "VFPT": {"deep": True, "blocks": None}
    }

    num_tokens: int = 50
    """Prompts per block."""
    alpha: float = 0.5
    """Share of the prompts that are transformed, rounded down to whole prompts; 0: VPT."""
    axes: str = "both"
    """What the transform goes over: both, tokens (the prompts of a block) or width."""
    deep: bool = True
    """True: new prompts before every block. False: first block only, kept to the end."""
    dropout: float = 0.0
    """On the prompts of each image, before the transform. The released command uses 0.1."""
    projection: int | None = None
    """Width of the prompts before a learnt projection, shared by all blocks, to the width of the
    backbone; None: no projection."""
    blocks: str | None = None
    """Where deep prompts stand: the first and the last block with prompts, both included, counted
    from 0 (8-11, or [8, 11]). None: every block."""

    def __post_init__(self) -> None:
        check_whole(self, "num_tokens", 1, MOST_PROMPTS)
        check_number(self, "alpha", 0, 1)
        check_choice(self, "axes", tuple(AXES))
        check_flag(self, "deep")
        check_number(self, "dropout", 0, 1, below_high=True)
        check_whole(self, "projection", 1, MOST_WIDTH, optional=True)
        check_blocks(self)
        refuse_blocks_of_shallow(self)

    @property
    def length(self) -> int:
        return self.num_tokens

    def recipe(self) -> Recipe:
        # VPT's; the released settings of all backbones, and the command, have batches of 64.
        return Recipe(batch_size=64)

    def tuning(
        self, vit: nn.Module, generator: torch.Generator, images: Images | None
    ) -> "FourierPrompts":
        prompts = self._untransformed.tuning(vit, generator, images)
        # In floating point, as released: 0.29 of 100 are 28.
        num_transformed = math.floor(self.num_tokens * self.alpha)
        return FourierPrompts(prompts, num_transformed=num_transformed, axes=AXES[self.axes])

    @property
    def _untransformed(self) -> VPT:
        """The same prompts without a transform, as VPT draws them."""
        return VPT(
            num_tokens=self.num_tokens,
            deep=self.deep,
            dropout=self.dropout,
            projection=self.projection,
            blocks=self.blocks,
        )


class FourierPrompts(Prompts):
    """Prompts of which the first ones enter their block as the real part of their transform."""

    def __init__(self, drawn: Prompts, *, num_transformed: int, axes: tuple[int, ...]) -> None:
        last = drawn.last_block
        super().__init__(
            drawn.prompt,
            deep=not drawn.persistent,
            dropout=drawn.dropout,
            projection=drawn.projection,
            blocks=None if last is None else range(drawn.first_block, last + 1),
        )
        self.num_transformed = num_transformed
        self.axes = axes

    def own_prompts(self) -> Tensor | None:
        drawn = super().own_prompts()
        return None if drawn is None else self._entering(drawn)

    def prompts(self, index: int, batch_size: int) -> Tensor:
        return self._entering(super().prompts(index, batch_size))

    def _entering(self, prompts: Tensor) -> Tensor:
        """Prompts (..., P, d) as they enter a block."""
        if not self.num_transformed:
            return prompts
        chosen, others = prompts.split(
            [self.num_transformed, prompts.shape[-2] - self.num_transformed], dim=-2
        )
        return torch.cat([real_fourier(chosen, self.axes).to(others.dtype), others], dim=-2)


def real_fourier(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The real part of the unnormalised discrete Fourier transform over `axes`, in the shape of
    `values`; float32 at least, since no kernel transforms bfloat16."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.fft.fftn(values, dim=axes).real
