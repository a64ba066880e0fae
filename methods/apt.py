"""Approximated Prompt Tuning (APT) on a plain ViT.

Wu et al., "Approximated Prompt Tuning for Vision-Language Pre-trained Models",
https://arxiv.org/abs/2306.15706

What a prompt does to the other tokens is an additive term beside their own attention
(`split_attention` has the exact form). APT replaces that term by a cheap one outside the
attention: the prompts never enter the sequence. The module is the released one; the authors used
it in vision-language models only, so its place in a ViT (scores from the output of the first norm,
added behind the attention's projection, one module per block) and its recipe there are ours.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
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
from methods.method import Beside, Images, Method, Tuning, tuned_dtype
from methods.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class APT(Method):
    """Prompts whose effect is approximated beside the attention of every block."""

    title: ClassVar[str] = "Approximated Prompt Tuning for Vision-Language Pre-trained Models"
    paper: ClassVar[str] = "https://arxiv.org/abs/2306.15706"
    same_each_step: ClassVar[bool] = True
    learns_prompts: ClassVar[bool] = True

    num_tokens: int = 50
    """Memory tokens per block. The paper uses 200."""
    rank: int = 4
    """Rank of the learnt map that lets the scores see other tokens than the values; 0: no map."""
    activation: str = "relu"
    """Activation of the scores: relu as released, or softmax."""
    weight: str = "detached_max"
    """How strongly a token takes the term: by its largest score, without gradient, or none."""
    use_scale: bool = True
    """A learnt factor per block on the whole attention output, starting at 1."""
    dropout: float = 0.0
    """On the scores. The paper uses that of its models' attention, 0.1."""

    def __post_init__(self) -> None:
        check_whole(self, "num_tokens", 1, MOST_PROMPTS)
        check_whole(self, "rank", 0, MOST_WIDTH)
        check_choice(self, "activation", ("relu", "softmax"))
        check_choice(self, "weight", ("detached_max", "none"))
        check_flag(self, "use_scale")
        check_number(self, "dropout", 0, 1, below_high=True)

    @property
    def length(self) -> int:
        return self.num_tokens

    def recipe(self) -> Recipe:
        return Recipe(
            optimizer="adamw",
            lr=5e-4,
            scale_lr=False,
            beta2=0.98,
            weight_decay=0.01,
            decay_exempt="bias",
            head_init="zero_bias",
        )

    def tuning(self, vit: nn.Module, generator: torch.Generator, images: Images | None) -> Tuning:
        return DiffusedPrompts(
            [
                InformationDiffusion(self, site.width, tuned_dtype(vit), generator)
                for site in sites_of(vit)
            ]
        )


class InformationDiffusion(nn.Module):
    """The released module: exp(s) * (x + w * A M), with scores A = relu(u (M + map(M))^T)."""

    def __init__(
        self, method: APT, width: int, dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.method = method
        tokens = torch.empty(method.num_tokens, width, dtype=dtype)
        self.tokens = nn.Parameter(tokens.normal_(std=0.02, generator=generator))
        self.down, self.up, self.scale = None, None, None
        if method.rank:
            down = torch.empty(method.rank, width, dtype=dtype).normal_(generator=generator)
            self.down = nn.Parameter(down)
            self.up = nn.Parameter(torch.zeros(width, method.rank, dtype=dtype))
        if method.use_scale:
            self.scale = nn.Parameter(torch.zeros(1, dtype=dtype))

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """`x` (B, T, d) with what the memory tokens say to `u` (B, T, d)."""
        return self.beside(x.dtype)(x, u)

    def beside(self, dtype: torch.dtype) -> Beside:
        """What joins the attention's output, which is of this type."""
        method, draws = self.method, self.training and self.method.dropout > 0
        # Rows of zeros score zero, where that is nothing and no mask is drawn for them: the fast
        # matrix products of a GPU want 16 bytes at a time, 8 numbers of 2.
        is_nothing = method.activation == "relu" and not draws
        missing = -method.num_tokens % 8 if is_nothing else 0
        tokens = asked = F.pad(self.tokens.to(dtype), (0, 0, 0, missing))
        if self.down is not None and self.up is not None:
            asked = tokens + tokens @ self.down.to(dtype).T @ self.up.to(dtype).T
        factor = None if self.scale is None else self.scale.exp().to(dtype)
        return Beside(_joined, (tokens, asked, factor, method, draws), draws)


def _joined(
    x: Tensor,
    u: Tensor,
    tokens: Tensor,
    asked: Tensor,
    factor: Tensor | None,
    method: APT,
    draws: bool,
) -> Tensor:
    """`InformationDiffusion` with the memory tokens (P, d), which are asked as `asked`."""
    scores = u @ asked.T
    scores = scores.softmax(-1) if method.activation == "softmax" else scores.relu()
    if draws:
        scores = F.dropout(scores, method.dropout)
    term = scores @ tokens
    if method.weight == "detached_max":
        term = term * scores.detach().amax(dim=-1, keepdim=True)
    x = x + term
    return x if factor is None else factor * x


class DiffusedPrompts(Tuning):
    """One module beside the attention of each block."""

    def __init__(self, diffusion: list[InformationDiffusion]) -> None:
        super().__init__()
        self.diffusion = nn.ModuleList(diffusion)

    def beside_attention(self, index: int, attended: Tensor) -> Beside:
        diffusion = self.diffusion[index]
        assert isinstance(diffusion, InformationDiffusion)
        return diffusion.beside(attended.dtype)


def split_attention(
    q: Tensor, k: Tensor, v: Tensor, prompt_k: Tensor, prompt_v: Tensor, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What APT approximates, exactly: attention to tokens and prompts as two attentions.

    Takes queries (..., T, c), keys and values of the tokens (..., N, c) and of the prompts
    (..., P, c). Returns the attention to the tokens alone, to the prompts alone, both (..., T, c),
    and the share (..., T, 1) of the prompts; joint attention is (1 - share) * tokens + share *
    prompts. The share depends on the query and on all tokens, which is what APT leaves out.
    """
    to_tokens = q @ k.transpose(-2, -1) * scale
    to_prompts = q @ prompt_k.transpose(-2, -1) * scale
    share = torch.sigmoid(
        to_prompts.logsumexp(-1, keepdim=True) - to_tokens.logsumexp(-1, keepdim=True)
    )
    return to_tokens.softmax(-1) @ v, to_prompts.softmax(-1) @ prompt_v, share
