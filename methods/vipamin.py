"""VIPAMIN: visual prompts that start at what they attend to, and where attention never was.

Park and Chung, "VIPAMIN: Visual Prompt Initialization via Embedding Selection and Subspace
Expansion", NeurIPS 2025, https://arxiv.org/abs/2510.16446

An initialisation: the prompts are trained and used as VPT's. Of a random prompt r of a block:

* matched, a: the mean of the k patch tokens that enter the block whose keys are nearest to the
  prompt's by their cosine. Tokens are means over images, keys means over images and heads, with the
  random prompts in front of the blocks.
* orthogonal, o: t = W_v r + b_v; t <- t - V V^T t - b_v, with V a basis of what the tokens' rows
  span in the attention's output before its projection, of the mean image and without prompts; o is
  the smallest solution of W_v o = t.

The prompt starts at (1 - share) a + share o. Where we leave the released code, and why:

* It solves o W_v = t, which is not the value layer that r went through: the transpose is missing.
  `form="code"` does so too, to compare with it; only there r is drawn anew for the second part.
* It looks at one batch of 256 images. We draw 256 of all images.
* With as many tokens as d (197 of 192 in ViT-Tiny) the tokens span everything and all o would be
  equal. There the d/2 directions with most in them stand for the tokens.
* In 12 blocks its second block is given the last one's value weights, by a slip in their names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.attention import attend, project
from methods.block_range import check_blocks, prompted_blocks, refuse_blocks_of_shallow
from methods.checks import MOST_PROMPTS, check_choice, check_flag, check_number, check_whole
from methods.families import family_of, sites_of
from methods.families.family import NOWHERE, Family
from methods.families.places import Places
from methods.method import Images, Method, batches_of, tuned_dtype
from methods.projections import projections
from methods.prompts import Prompts, uniform_prompts
from methods.recipe import Recipe
from methods.reservoir import Reservoir
from methods.vpt import VPT
from methods.walk import tokens_entering

FORMS = ("formula", "code")

_SEEN_AT_ONCE = 32
"""Images."""


@dataclass(frozen=True, kw_only=True)
class VIPAMIN(Method):
    """Prompts that start as mixtures of patches they attend to, and of directions no token has."""

    title: ClassVar[str] = (
        "VIPAMIN: Visual Prompt Initialization via Embedding Selection and Subspace Expansion"
    )
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.16446"
    same_each_step: ClassVar[bool] = True
    needs_images: ClassVar[bool] = True
    learns_prompts: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "VIPAMIN (matching only)": {"deep": False, "orthogonal_share": 0.0},
        "VIPAMIN": {"deep": False},
    }

    num_tokens: int = 100
    """Prompts per block. The paper has 100 shallow, 20 deep."""
    deep: bool = False
    """True: new prompts before every block. False: first block only, kept to the end."""
    num_matched: int = 8
    """Patches whose mean a prompt starts at: the paper's k."""
    orthogonal_share: float = 0.5
    """How much of a prompt is the orthogonal part, from 0 to 1: the paper's lambda."""
    form: str = "formula"
    """The orthogonal part as the paper's formula, or as the released code has it (see above)."""
    blocks: str | None = None
    """Where deep prompts stand: the first and the last block with prompts, both included, counted
    from 0 (8-11, or [8, 11]). None: every block."""

    def __post_init__(self) -> None:
        check_whole(self, "num_tokens", 1, MOST_PROMPTS)
        check_flag(self, "deep")
        check_whole(self, "num_matched", 1)
        check_number(self, "orthogonal_share", 0, 1)
        check_choice(self, "form", FORMS)
        check_blocks(self)
        refuse_blocks_of_shallow(self)

    @property
    def length(self) -> int:
        return self.num_tokens

    def recipe(self) -> Recipe:
        # The authors search lr among 0.05, 0.1, 0.25, 0.5, 1, 2.5 and 5, all else stays.
        return Recipe(
            batch_size=32,
            optimizer="adamw",
            lr=0.5,
            eps=1e-6,
            weight_decay=1e-2,
            decay_exempt="bias",
        )

    def look_at(self, vit: nn.Module, images: Images) -> "SeenImages":
        return seen_images(vit, images)

    def without_images(self) -> VPT:
        return VPT(num_tokens=self.num_tokens, deep=self.deep, blocks=self.blocks)

    def tuning(self, vit: nn.Module, generator: torch.Generator, images: Images | None) -> Prompts:
        sites = sites_of(vit)
        _refuse_windows(vit)
        blocks = prompted_blocks(self, len(sites)) if self.deep else range(1)
        if images is None:
            raise ValueError(
                "VIPAMIN looks at training images: give tune a normalised batch, an iterable of"
                " batches, or seen_images computed from them before"
            )
        if not isinstance(images, SeenImages):
            images = seen_images(vit, images)
        shape = (len(blocks), self.num_tokens, sites[0].width)
        matching = drawn = uniform_prompts(vit, shape, generator)
        if self.form == "code":
            drawn = uniform_prompts(vit, shape, generator)
        start = torch.stack(self.start(vit, images, matching, drawn, blocks)).to(matching)
        return Prompts(start, deep=self.deep, blocks=blocks if self.deep else None)

    def start(
        self,
        vit: nn.Module,
        seen: "SeenImages",
        matching: Tensor,
        drawn: Tensor,
        blocks: range,
    ) -> list[Tensor]:
        """Where the prompts (P, d) of each block start, from the random ones that are matched with
        patches, and the random ones whose orthogonal part is taken: (blocks, P, d) each."""
        share = self.orthogonal_share
        start = [torch.zeros(own.shape, dtype=torch.float64) for own in matching]
        if share < 1:
            near = matched(vit, seen.images, matching, blocks, self.num_matched)
            start = [sum_ + (1 - share) * part for sum_, part in zip(start, near, strict=True)]
        if share > 0:
            family = family_of(vit)
            for place, (index, own) in enumerate(zip(blocks, drawn, strict=True)):
                block, output = family.blocks(vit)[index], seen.mean_outputs[index]
                start[place] += share * orthogonal(family, block, own, output, form=self.form)
        return start


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenImages:
    """What VIPAMIN keeps of a task's images."""

    images: Tensor
    """(S, 3, H, W): a uniform sample of them, normalised."""
    mean_outputs: Sequence[Tensor]
    """For each block (T, width): what the attention mixes of the values, before its projection,
    for all tokens, without prompts; mean over the sample."""

    @property
    def num_bytes(self) -> int:
        return self.images.nbytes + sum(output.nbytes for output in self.mean_outputs)


@torch.no_grad()
def seen_images(
    vit: nn.Module, images: Images, *, max_images: int = 256, seed: int = 0
) -> SeenImages:
    """Look once at normalised training images, a batch (B, 3, H, W) or an iterable of batches.

    Compute it once per task, backbone and transform and give it to `tune` in place of the images.
    It holds 160 MB for ViT-B/16 at 224 pixels.
    """
    _refuse_windows(vit)
    sample = Reservoir(max_images, torch.Generator().manual_seed(seed))
    for batch in batches_of(vit, images):
        rows = sample.draw(len(batch))
        sample.put(batch[rows.to(batch.device)].to("cpu", tuned_dtype(vit)))
    if not len(sample.kept):
        raise ValueError("VIPAMIN: no images to look at")
    family, all_tokens = family_of(vit), slice(None)
    places = Places(family, vit, 0)

    def outputs(part: Tensor) -> Iterator[Tensor]:
        for index, tokens in enumerate(tokens_entering(vit, part)):
            block = family.blocks(vit)[index]
            place = places.of(vit, index, in_front=0, in_sequence=0, asking=all_tokens)
            normed = family.before_attention(block, tokens)
            q, k, v = project(family, block, normed, all_tokens, None, place)
            yield attend(family, block, q, k, v, place.bias)

    means = [mean.to(tuned_dtype(vit)) for mean in _means(vit, sample.kept, outputs)]
    return SeenImages(images=sample.kept, mean_outputs=means)


@torch.no_grad()
def matched(
    vit: nn.Module, images: Tensor, prompts: Tensor, blocks: range, count: int
) -> list[Tensor]:
    """For each of the prompts (blocks, P, d) the mean of the `count` patches whose keys are most
    like its own, (P, d) for each block, with the prompts in front of the blocks before."""
    family = family_of(vit)
    prompts = prompts.to(family.first_weight(vit))
    tuning = Prompts(prompts, deep=True, blocks=blocks)

    def tokens_and_keys(part: Tensor) -> Iterator[Tensor]:
        for index, tokens in enumerate(tokens_entering(vit, part, tuning, end=blocks.stop)):
            if index in blocks:
                patches = tokens[:, family.num_prefix(vit) :]
                keys = _mean_keys(family, family.blocks(vit)[index], patches)
                yield torch.cat([patches, keys], dim=-1)

    found = []
    means = _means(vit, images, tokens_and_keys)
    for index, own, mean in zip(blocks, prompts, means, strict=True):
        if count >= len(mean):
            raise ValueError(
                f"VIPAMIN: num_matched={count}, but {len(mean)} patches enter block {index}: all"
                " prompts would start at the same mean; give fewer"
            )
        tokens, keys = mean[:, : own.shape[1]], mean[:, own.shape[1] :]
        mine = _mean_keys(family, family.blocks(vit)[index], own[None])[0].cpu().double()
        similar = F.normalize(mine, dim=-1) @ F.normalize(keys, dim=-1).T
        found.append(tokens[similar.topk(count, dim=-1).indices].mean(dim=1))
    return found


@torch.no_grad()
def orthogonal(
    family: Family, block: Any, prompts: Tensor, mean_output: Tensor, *, form: str
) -> Tensor:
    """Of the prompts (P, d) of a block the part (P, d) whose values no token of (T, width) has."""
    value = projections(family, block, prompts.shape[1])[2]
    num_tokens, width = mean_output.shape
    _, lengths, directions = torch.linalg.svd(mean_output.double(), full_matrices=False)
    rounding = max(num_tokens, width) * torch.finfo(mean_output.dtype).eps
    basis = directions[lengths > lengths[0] * rounding]
    if num_tokens >= width and form == "formula":
        basis = directions[: width // 2]
    values = prompts.cpu().double() @ value.weight.T + value.bias
    new = values - values @ basis.T @ basis - value.bias
    layer = value.weight if form == "formula" else value.weight.T
    return torch.linalg.lstsq(layer, new.T, driver="gelsy").solution.T


def _refuse_windows(vit: nn.Module) -> None:
    if family_of(vit).in_windows:
        raise ValueError(
            "VIPAMIN compares a block's prompts with all its patches at once, but this backbone"
            " attends in windows; vpt, spt and bpt with deep: true work on it"
        )


def _means(
    vit: nn.Module, images: Tensor, of: Callable[[Tensor], Iterator[Tensor]]
) -> list[Tensor]:
    """For each block the mean over images of what `of` makes of some of them, in float64."""
    totals = None
    for part in batches_of(vit, images.split(_SEEN_AT_ONCE)):
        # In float16 a sum over images may be infinite where no token is.
        sums = [found.to(tuned_dtype(vit)).sum(dim=0).cpu().double() for found in of(part)]
        totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
    assert totals is not None
    return [total / len(images) for total in totals]


def _mean_keys(family: Family, block: Any, tokens: Tensor) -> Tensor:
    """The keys (B, T, c) of tokens (B, T, d) without position, mean over the heads."""
    answers = family.queries_keys_values(block, family.before_attention(block, tokens))
    return family.heads(block, *answers, NOWHERE)[1].mean(dim=-3)
