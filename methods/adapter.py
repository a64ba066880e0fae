"""Bottleneck adapters, with an initialisation that learns.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019; the defaults are
Adapter+ of Steitz and Roth, "Adapters Strike Back", CVPR 2024, https://arxiv.org/abs/2406.06820

Not to be compared with the "Adapter" rows of VPT's tables: there every weight starts at zero, so
that only the last bias ever moves. Written on the walk instead of taken from `peft`, which has no
adapter of this kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.checks import MOST_WIDTH, check_choice, check_flag, check_whole
from methods.families import sites_of
from methods.lora import FEW_STEPS
from methods.method import Images, Method, Tuning, blank_linear, tuned_dtype
from methods.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Adapter(Method):
    """A small two-layer network with a skip connection in every block."""

    title: ClassVar[str] = "Adapters Strike Back"
    paper: ClassVar[str] = "https://arxiv.org/abs/2406.06820"
    same_each_step: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Adapter+": {"channel_scale": True, "position": "post"}
    }

    bottleneck: int = 8
    """Width between its two layers. VPT's reductions 8, 64 and 256 are 96, 12 and 3 on ViT-B."""
    channel_scale: bool = True
    """A learnt factor per channel on its output, starting at 1."""
    position: str = "post"
    """post: on the output of the block. mlp: on the output of the MLP, before it is added."""

    def __post_init__(self) -> None:
        check_whole(self, "bottleneck", 1, MOST_WIDTH)
        check_flag(self, "channel_scale")
        check_choice(self, "position", ("post", "mlp"))

    def recipe(self) -> Recipe:
        return FEW_STEPS

    def tuning(
        self, vit: nn.Module, generator: torch.Generator, images: Images | None
    ) -> "Adapters":
        dtype = tuned_dtype(vit)
        adapters = [Bottleneck(self, site.width, dtype, generator) for site in sites_of(vit)]
        return Adapters(adapters, self.position)


class Bottleneck(nn.Module):
    """The adapter of one block: down, GELU, up, scaled; in its own floating type."""

    def __init__(
        self, method: Adapter, width: int, dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.down = blank_linear(width, method.bottleneck, dtype=dtype)
        self.up = blank_linear(method.bottleneck, width, dtype=dtype)
        for layer in (self.down, self.up):  # Houlsby's: close to the identity, but not at rest
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02, generator=generator)
            nn.init.zeros_(layer.bias)
        self.scale = nn.Parameter(torch.ones(width, dtype=dtype)) if method.channel_scale else None

    def forward(self, tokens: Tensor) -> Tensor:
        said = self.up(F.gelu(self.down(tokens.to(self.down.weight.dtype))))
        if self.scale is not None:
            said = said * self.scale
        return tokens + said.to(tokens.dtype)


class Adapters(Tuning):
    """One adapter per block."""

    def __init__(self, adapters: list[Bottleneck], position: str) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(adapters)
        self.position = position

    def after_mlp(self, index: int, output: Tensor) -> Tensor:
        return self.adapters[index](output) if self.position == "mlp" else output

    def after_block(self, index: int, tokens: Tensor) -> Tensor:
        return self.adapters[index](tokens) if self.position == "post" else tokens
