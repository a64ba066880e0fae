"""Self-Prompt Tuning (SPT), shallow and deep: prompts that start as patch tokens of the task.

Wang et al., "Revisiting the Power of Prompt for Visual Tuning", ICML 2024,
https://arxiv.org/abs/2402.02382

The prompts of block i start from the tokens that enter it: patch embeddings without position for
the first block, the patch rows of block i-1's output for the others. Where we leave the released
code, and why:

* Its pooling windows are P-1 of floor(N / (P-1)) patches and one of the last N mod that many. With
  196 patches and P = 20 they tile the image and we use them. Often they do not: with P = 5 the
  last window is the whole image, with P = 100 the lower half of the image is never seen. There we
  cut the patches into P windows of nearly equal size.
* It stacks all training images in one batch, drawn with replacement. We keep a uniform sample of
  tokens and of whole images in one pass (`token_statistics`), with memory that does not grow.
* Shallow prompts ignore its sampling type and are always random tokens. Ours obey `init`, whose
  default is random tokens.
* Its clustering is not released: ours is mini-batch k-means on the sampled tokens of each block.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.block_range import check_blocks, prompted_blocks, refuse_blocks_of_shallow
from methods.checks import MOST_PROMPTS, check_choice, check_flag, check_whole
from methods.families import check_persistent, family_of, sites_of
from methods.method import Images, Method, tuned_dtype
from methods.prompts import Prompts, uniform_deep_prompts
from methods.recipe import Recipe
from methods.reservoir import Reservoir
from methods.walk import tokens_entering

SUPERVISED = Recipe(
    batch_size=32,
    drop_last=True,
    optimizer="adamw",
    lr=1e-3,
    scale_lr=False,
    weight_decay=1e-2,
    head_weight_decay=3.0,
    decay_exempt="vectors",
    schedule_step="iteration",
    final_lr=1e-8,
    head_init="zero_bias",
)
"""Of the authors' two known recipes the supervised one (Dogs, deep, 20 prompts). The other, MAE on
CUB: lr 5e-2, head_weight_decay 0.5. Tokens are far larger than VPT's noise, which is why rates that
high work."""

INITS = ("random", "mean_pool", "max_pool", "kmeans", "uniform")


@dataclass(frozen=True, kw_only=True)
class SPT(Method):
    """Prompts that start as tokens of the task's own images, shallow or deep."""

    title: ClassVar[str] = "Revisiting the Power of Prompt for Visual Tuning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2402.02382"
    same_each_step: ClassVar[bool] = True
    needs_images: ClassVar[bool] = True
    learns_prompts: ClassVar[bool] = True
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "SPT-Shallow": {"deep": False},
        "SPT-Deep": {"deep": True, "blocks": None},
    }

    num_tokens: int = 20
    """Prompts per block. The paper has 20 deep, 100 shallow."""
    deep: bool = True
    """True: new prompts before every block. False: first block only, kept to the end."""
    init: str = "random"
    """Where the prompts start: random (tokens), mean_pool or max_pool (of windows of an image),
    kmeans (prototypes of the tokens), or uniform (VPT's noise, as a control)."""
    blocks: str | None = None
    """Where deep prompts stand: the first and the last block with prompts, both included, counted
    from 0 (8-11, or [8, 11]). None: every block."""

    def __post_init__(self) -> None:
        check_whole(self, "num_tokens", 1, MOST_PROMPTS)
        check_flag(self, "deep")
        check_choice(self, "init", INITS)
        check_blocks(self)
        refuse_blocks_of_shallow(self)

    @property
    def length(self) -> int:
        return self.num_tokens

    def recipe(self) -> Recipe:
        return SUPERVISED

    def look_at(self, vit: nn.Module, images: Images) -> "TokenStatistics":
        return token_statistics(vit, images)

    def without_images(self) -> "SPT":
        return replace(self, init="uniform")

    def tuning(self, vit: nn.Module, generator: torch.Generator, images: Images | None) -> Prompts:
        sites = sites_of(vit)
        blocks = prompted_blocks(self, len(sites)) if self.deep else range(1)
        if self.init == "uniform":
            start = uniform_deep_prompts(vit, blocks, self.num_tokens, generator)
            return self._prompts(start, blocks)
        if images is None:
            raise ValueError(
                "SPT: init looks at training images: give tune a normalised batch, an iterable of"
                " batches, or token_statistics computed from them before; or init='uniform'"
            )
        if not self.deep:
            check_persistent(vit, self)
        if not isinstance(images, TokenStatistics):
            images = token_statistics(vit, images)
        starts = [self._start(images, block, generator).to(tuned_dtype(vit)) for block in blocks]
        return self._prompts(starts, blocks)

    def _prompts(self, prompt: Tensor | Sequence[Tensor], blocks: range) -> Prompts:
        return Prompts(prompt, deep=self.deep, blocks=blocks if self.deep else None)

    def _start(self, seen: "TokenStatistics", block: int, generator: torch.Generator) -> Tensor:
        """The first values (P, d) of one block's prompts."""
        if self.init == "kmeans":
            return seen.prototypes(block, self.num_tokens)
        if self.init == "random":
            candidates = seen.tokens[block]
        else:
            num_patches = seen.maps[block].shape[1]
            # With more prompts than patches each patch is a window, as on small images.
            windows = _windows(num_patches, min(self.num_tokens, num_patches))
            pooled = [seen.maps[block][:, window] for window in windows]
            pool = torch.mean if self.init == "mean_pool" else torch.amax
            candidates = torch.cat([pool(tokens, dim=1) for tokens in pooled])
        if len(candidates) < self.num_tokens:
            raise ValueError(
                f"SPT: num_tokens={self.num_tokens}, but {seen.num_images} images gave only"
                f" {len(candidates)} tokens to choose from"
            )
        rows = torch.randperm(len(candidates), generator=generator)[: self.num_tokens]
        return candidates[rows]


def _windows(num_patches: int, num_windows: int) -> list[slice]:
    """Runs of patches that tile the image: those of the released code where they do."""
    if num_windows > 1:
        width = num_patches // (num_windows - 1)
        rest = num_patches - (num_windows - 1) * width
        if 0 < rest < width:
            starts = range(0, num_patches, width)
            return [slice(start, min(start + width, num_patches)) for start in starts]
    edges = [round(i * num_patches / num_windows) for i in range(num_windows + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenStatistics:
    """What SPT keeps of a task's images, for every block: enough for any strategy and length."""

    tokens: Sequence[Tensor]
    """(R, d) for each block: patch tokens, a uniform sample without replacement."""
    maps: Sequence[Tensor]
    """(S, N, d) for each block: all patch tokens of a few images, a uniform sample of the
    images."""
    num_images: int
    """How many images were looked at."""
    _prototypes: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def num_bytes(self) -> int:
        return sum(kept.nbytes for kept in (*self.tokens, *self.maps))

    def prototypes(self, block: int, count: int) -> Tensor:
        """Centres (count, d) of the block's tokens; kept, as they depend on the task alone."""
        if (block, count) not in self._prototypes:
            self._prototypes[block, count] = _cluster(self.tokens[block], count)
        return self._prototypes[block, count]


def _cluster(tokens: Tensor, count: int) -> Tensor:
    from sklearn.cluster import MiniBatchKMeans  # imported here: a second of start-up

    if len(tokens) < count:
        raise ValueError(f"SPT: {count} prototypes cannot be found among {len(tokens)} tokens")
    means = MiniBatchKMeans(count, init="k-means++", batch_size=1024, random_state=0)
    means.fit(tokens.numpy())
    return torch.from_numpy(means.cluster_centers_)


@torch.no_grad()
def token_statistics(
    vit: nn.Module,
    images: Tensor | Iterable[Tensor],
    *,
    max_tokens: int = 4096,
    max_maps: int = 16,
    seed: int = 0,
) -> TokenStatistics:
    """Look once at normalised training images, a batch (B, 3, H, W) or an iterable of batches.

    Compute it once per task, backbone and transform and give it to `tune` in place of the images.
    It holds blocks * d * (max_tokens + max_maps * N) numbers however many images there are: 270 MB
    for ViT-B/16 at 224 pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    family, dtype = family_of(vit), tuned_dtype(vit)
    stages = [_Stage(*stage, max_tokens, max_maps, generator) for stage in _stages(vit)]
    weight = family.first_weight(vit)
    num_images = 0
    for batch in [images] if isinstance(images, Tensor) else images:
        batch = batch.to(weight)
        num_images += len(batch)
        if not any([stage.draw(len(batch)) for stage in stages]):
            continue
        entering = _entering(vit, batch)
        for stage in stages:
            stage.put([next(entering) for _ in range(stage.num_blocks)], dtype)
    if not num_images:
        raise ValueError("SPT: no images to look at")
    return TokenStatistics(
        tokens=[
            kept for stage in stages for kept in stage.tokens.kept.transpose(0, 1).contiguous()
        ],
        maps=[kept for stage in stages for kept in stage.maps.kept.transpose(0, 1).contiguous()],
        num_images=num_images,
    )


def _entering(vit: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """The patch tokens (B, N, d) that enter each block; those of the first without position."""
    family = family_of(vit)
    yield family.patches(vit, images)
    following = islice(tokens_entering(vit, images), 1, None)
    yield from (tokens[:, family.num_prefix(vit) :] for tokens in following)


def _stages(vit: nn.Module) -> Iterator[tuple[int, int]]:
    """Runs of blocks that as many patches of one width enter: how many blocks, and patches."""
    family = family_of(vit)
    shapes = [(family.num_patches(vit, site.index), site.width) for site in family.sites(vit)]
    for (num_patches, _), run in groupby(shapes):
        yield len(list(run)), num_patches


class _Stage:
    """What is kept of the tokens that enter such a run of blocks, the same rows in all of them."""

    def __init__(
        self,
        num_blocks: int,
        num_patches: int,
        max_tokens: int,
        max_maps: int,
        generator: torch.Generator,
    ) -> None:
        self.num_blocks = num_blocks
        self.num_patches = num_patches
        self.tokens = Reservoir(max_tokens, generator)
        self.maps = Reservoir(max_maps, generator)
        self._token_rows = self._map_rows = torch.empty(0)

    def draw(self, num_images: int) -> bool:
        """Which tokens of the next images may stay, to be `put`; whether there are any."""
        self._token_rows = self.tokens.draw(num_images * self.num_patches)
        self._map_rows = self.maps.draw(num_images)
        return bool(len(self._token_rows) or len(self._map_rows))

    def put(self, entering: Sequence[Tensor], dtype: torch.dtype) -> None:
        """`entering` is (B, N, d) for each block."""
        tokens = [block.flatten(0, 1)[self._token_rows].to("cpu", dtype) for block in entering]
        maps = [block[self._map_rows].to("cpu", dtype) for block in entering]
        self.tokens.put(torch.stack(tokens, dim=1))
        self.maps.put(torch.stack(maps, dim=1))
