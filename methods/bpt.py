"""Bilinear Prompt Tuning (BPT), shallow and deep: prompts that are the product of two matrices.

Wang et al., "Attention to the Burstiness in Visual Prompt Tuning!", ICCV 2025,
https://arxiv.org/abs/2506.22908

A block's prompts are P = A B^T, with A (P, c) of the prompts and a basis B (d, c) of the block.
B starts at random, or as c columns of the matrix W that whitens what a query sees of the task's
images: Y = W_q^T W_k X^T (d, N), with X the patch tokens that enter the block, of the mean image;
Y Y^T / N = U diag(s) U^T; W = U diag(s)^-1/2 U^T. Where we leave the released code, and why:

* It multiplies W_q W_k^T as PyTorch stores them, which is not the form that attention has, divides
  by d instead of N, and draws the c columns anew in each row, which leaves no columns. Ours is the
  paper's formula; `form="code"` is theirs, to compare with it.
* With fewer patches than d (196 of 768) Y has no full rank and its W is rounding noise. Ours leaves
  out the directions in which the patches have nothing, as a pseudo-inverse does.
* Its prompts are an image of whole sides, so their number has to be a square. Ours is any.
* Its deep classes can only start from whitening, one of its shallow ones reads W_q in place of
  W_k. Ours have all starts, and W_k.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.block_range import check_blocks, prompted_blocks, refuse_blocks_of_shallow
from methods.checks import MOST_PROMPTS, MOST_WIDTH, check_choice, check_flag, check_whole
from methods.families import family_of, sites_of
from methods.method import Images, Method, batches_of, tuned_dtype
from methods.projections import projections
from methods.prompts import Prompts
from methods.recipe import Recipe
from methods.spt import SUPERVISED
from methods.walk import tokens_entering

WHITEN = ("none", "fixed", "tuned")
FORMS = ("formula", "code")


@dataclass(frozen=True, kw_only=True)
class BPT(Method):
    """Prompts that are a product of two thin matrices, one of which may start by whitening."""

    title: ClassVar[str] = "Attention to the Burstiness in Visual Prompt Tuning!"
    paper: ClassVar[str] = "https://arxiv.org/abs/2506.22908"
    same_each_step: ClassVar[bool] = True
    needs_images: ClassVar[bool] = True
    learns_prompts: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "BPT-Shallow (fixed whitening)": {"deep": False, "whiten": "fixed"},
        "BPT-Shallow (tuned whitening)": {"deep": False, "whiten": "tuned"},
        "BPT-Shallow": {"deep": False},
        "BPT-Deep": {"deep": True, "blocks": None},
    }

    num_tokens: int = 50
    """Prompts per block. The paper has 50 deep, 100 shallow."""
    deep: bool = True
    """True: new prompts before every block. False: first block only, kept to the end."""
    channels: int = 50
    """Width c of both matrices. The paper has 50 deep, 25 or 75 shallow."""
    whiten: str = "none"
    """Where the bases start: none (Xavier), or in columns of the whitening matrix of the task's
    images, which stay as they are (fixed) or are trained from there (tuned)."""
    tuned_bases: int | None = None
    """Of so many of the blocks with prompts, the last ones, the basis is trained; those before keep
    theirs, and train their other matrix only. None: all. The authors' deep runs on MAE and MoCo
    have 4."""
    form: str = "formula"
    """Whitening as the paper's formula, or as the released code computes it (see above)."""
    blocks: str | None = None
    """Where deep prompts stand: the first and the last block with prompts, both included, counted
    from 0 (8-11, or [8, 11]). None: every block."""

    def __post_init__(self) -> None:
        check_whole(self, "num_tokens", 1, MOST_PROMPTS)
        check_flag(self, "deep")
        check_whole(self, "channels", 1, MOST_WIDTH)
        check_choice(self, "whiten", WHITEN)
        check_whole(self, "tuned_bases", 0, optional=True)
        check_choice(self, "form", FORMS)
        check_blocks(self)
        refuse_blocks_of_shallow(self)
        if self.whiten == "fixed" and self.tuned_bases is not None:
            raise ValueError(
                f"BPT: tuned_bases={self.tuned_bases}, but whiten='fixed' trains none; give"
                " whiten='tuned', or no tuned_bases"
            )

    @property
    def length(self) -> int:
        return self.num_tokens

    def recipe(self) -> Recipe:
        # SPT's, by the same authors, with another rate (Dogs). On MAE and MoCo they have lr 5e-2,
        # decay 2e-3 to 5e-3, head_weight_decay 0.05 to 0.5; supervised on CUB decay 0.1 and
        # head_weight_decay 10.
        return replace(SUPERVISED, lr=5e-3)

    def look_at(self, vit: nn.Module, images: Images) -> "MeanImage":
        return mean_image(vit, images)

    def without_images(self) -> "BPT":
        if self.whiten == "none":
            return self
        return replace(self, whiten="none", tuned_bases=self._num_tuned)

    def check_room(self, vit: nn.Module) -> None:
        columns = min(sites_of(vit)[index].width for index in self._prompted(vit))
        if self.whiten != "none" and self.channels > columns:
            raise ValueError(
                f"BPT: channels={self.channels}, but a whitening matrix of this backbone has only"
                f" {columns} columns; give fewer, or whiten='none'"
            )

    def _prompted(self, vit: nn.Module) -> range:
        return prompted_blocks(self, len(sites_of(vit))) if self.deep else range(1)

    @property
    def _num_tuned(self) -> int | None:
        return 0 if self.whiten == "fixed" else self.tuned_bases

    def tuning(
        self, vit: nn.Module, generator: torch.Generator, images: Images | None
    ) -> "BilinearPrompts":
        blocks = self._prompted(vit)
        num_tuned = len(blocks) if self._num_tuned is None else self._num_tuned
        if num_tuned > len(blocks):
            raise ValueError(
                f"BPT: tuned_bases={num_tuned}, but only {len(blocks)} of the backbone's blocks"
                " have prompts of their own"
            )
        own = torch.empty(len(blocks), self.num_tokens, self.channels, dtype=tuned_dtype(vit))
        own.normal_(0, 0.02, generator=generator)
        return BilinearPrompts(
            own,
            [basis.to(own) for basis in self._bases(vit, blocks, generator, images)],
            num_tuned=num_tuned,
            deep=self.deep,
            blocks=blocks if self.deep else None,
        )

    def _bases(
        self, vit: nn.Module, blocks: range, generator: torch.Generator, images: Images | None
    ) -> list[Tensor]:
        """The first values (d, c) of each block's basis."""
        widths = [sites_of(vit)[index].width for index in blocks]
        if self.whiten == "none":
            return [self._xavier(width, generator) for width in widths]
        self.check_room(vit)
        if images is None:
            raise ValueError(
                f"BPT: whiten={self.whiten!r} looks at training images: give tune a normalised"
                " batch, an iterable of batches, or mean_image computed from them before; or"
                " whiten='none'"
            )
        if not isinstance(images, MeanImage):
            images = mean_image(vit, images)
        draw = drawn_columns if self.form == "formula" else drawn_in_each_row
        family, bases = family_of(vit), []
        for index in blocks:
            tokens = images.tokens[index]
            query, key, _ = projections(family, family.blocks(vit)[index], tokens.shape[1])
            whitening = whitening_matrix(tokens, query.weight, key.weight, form=self.form)
            bases.append(draw(whitening, self.channels, generator))
        return bases

    def _xavier(self, width: int, generator: torch.Generator) -> Tensor:
        bound = math.sqrt(6 / (width + self.channels))
        basis = torch.empty(width, self.channels, dtype=torch.float64)
        return basis.uniform_(-bound, bound, generator=generator)


class BilinearPrompts(Prompts):
    """Prompts A B^T; `prompt` holds A."""

    def __init__(
        self,
        own: Tensor,
        bases: Sequence[Tensor],
        *,
        num_tuned: int,
        deep: bool,
        blocks: range | None,
    ) -> None:
        """`own` is (blocks, P, c), `bases` (d, c) each, the last `num_tuned` of them trained."""
        super().__init__(own, deep=deep, blocks=blocks)
        first_tuned = len(bases) - num_tuned
        self.bases = nn.ParameterList(
            nn.Parameter(basis, requires_grad=place >= first_tuned)
            for place, basis in enumerate(bases)
        )

    def prompts(self, index: int, batch_size: int) -> Tensor:
        return self._product(index - self.first_block)

    @torch.no_grad()
    def own_prompts(self) -> Tensor | None:
        if len({basis.shape for basis in self.bases}) > 1:
            return None
        made = [self._product(place) for place in range(len(self.bases))]
        return torch.stack(made).detach().float().cpu()

    def _product(self, place: int) -> Tensor:
        """The prompts (P, d) of one of the blocks with prompts."""
        return self.prompt[place] @ self.bases[place].T


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanImage:
    """What BPT keeps of a task's images."""

    tokens: Sequence[Tensor]
    """For each block (N, d): the patch tokens that enter it, with position, of the mean image."""

    @property
    def num_bytes(self) -> int:
        return sum(tokens.nbytes for tokens in self.tokens)


@torch.no_grad()
def mean_image(vit: nn.Module, images: Images) -> MeanImage:
    """Look once at normalised training images, a batch (B, 3, H, W) or an iterable of batches."""
    family, dtype = family_of(vit), tuned_dtype(vit)
    totals, num_images = None, 0
    for batch in batches_of(vit, images):
        num_images += len(batch)
        sums = [
            tokens[:, family.num_prefix(vit) :].to(dtype).sum(dim=0)
            for tokens in tokens_entering(vit, batch)
        ]
        totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
    if totals is None or not num_images:
        raise ValueError("BPT: no images to look at")
    return MeanImage(tokens=[total.cpu() / num_images for total in totals])


def whitening_matrix(tokens: Tensor, query: Tensor, key: Tensor, *, form: str) -> Tensor:
    """W (d, d) of the module's docstring, in float64.

    `tokens` is (N, d); `query` and `key` are the weights (width, d), out by in, of all heads. A
    singular value of Y below what rounding leaves (as in `torch.linalg.matrix_rank`) counts as 0.
    """
    rounding = torch.finfo(tokens.dtype).eps
    tokens, query, key = (t.detach().cpu().double() for t in (tokens, query, key))
    if form == "formula":
        seen, count = query.T @ (key @ tokens.T), len(tokens)
    else:
        seen, count = query @ (key.T @ tokens.T), tokens.shape[1]
    directions, lengths, _ = torch.linalg.svd(seen, full_matrices=False)
    kept = lengths > lengths[0] * max(seen.shape) * rounding
    directions, lengths = directions[:, kept], lengths[kept]
    return directions @ ((math.sqrt(count) / lengths)[:, None] * directions.T)


def drawn_columns(matrix: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` different columns (rows, count)."""
    return matrix[:, torch.randperm(matrix.shape[1], generator=generator)[:count]]


def drawn_in_each_row(matrix: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` different entries of each row, as the released code draws them."""
    order = torch.rand(matrix.shape, dtype=torch.float64, generator=generator).argsort(dim=1)
    return matrix.gather(1, order[:, :count])
