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

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
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
        # Of the authors' two known recipes the supervised one (Dogs, deep, 20 prompts). The other,
        # MAE on CUB: lr 5e-2, head_weight_decay 0.5. Tokens are far larger than VPT's noise,
        # which is why rates that high work.
        return Recipe(
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
        starts = [self._start(images, block, generator) for block in blocks]
        return self._prompts(torch.stack(starts).to(tuned_dtype(vit)), blocks)

    def _prompts(self, prompt: Tensor | Sequence[Tensor], blocks: range) -> Prompts:
        return Prompts(prompt, deep=self.deep, blocks=blocks if self.deep else None)

    def _start(self, seen: "TokenStatistics", block: int, generator: torch.Generator) -> Tensor:
        """The first values (P, d) of one block's prompts."""
        if self.init == "kmeans":
            return seen.prototypes(block, self.num_tokens)
        if self.init == "random":
            candidates = seen.tokens[block]
        else:
            num_patches = seen.maps.shape[2]
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

    tokens: Tensor
    """(blocks, R, d): patch tokens, a uniform sample without replacement."""
    maps: Tensor
    """(blocks, S, N, d): all patch tokens of a few images, a uniform sample of the images."""
    num_images: int
    """How many images were looked at."""
    _prototypes: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def num_bytes(self) -> int:
        return self.tokens.nbytes + self.maps.nbytes

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
    tokens, maps = Reservoir(max_tokens, generator), Reservoir(max_maps, generator)
    family = family_of(vit)
    if len({site.width for site in sites_of(vit)}) > 1:
        raise ValueError(
            "SPT: it keeps the tokens of all blocks, which in this backbone have several widths;"
            " init='uniform' or VPT work"
        )
    weight, num_patches = family.first_weight(vit), math.prod(family.grid(vit))
    num_images = 0
    for batch in [images] if isinstance(images, Tensor) else images:
        batch = batch.to(weight)
        num_images += len(batch)
        token_rows = tokens.draw(len(batch) * num_patches)
        map_rows = maps.draw(len(batch))
        if not len(token_rows) and not len(map_rows):
            continue
        chosen_tokens, chosen_maps = [], []
        for entering in _entering(vit, batch):
            chosen_tokens.append(entering.flatten(0, 1)[token_rows].to("cpu", tuned_dtype(vit)))
            chosen_maps.append(entering[map_rows].to("cpu", tuned_dtype(vit)))
        tokens.put(torch.stack(chosen_tokens, dim=1))
        maps.put(torch.stack(chosen_maps, dim=1))
    if not num_images:
        raise ValueError("SPT: no images to look at")
    return TokenStatistics(
        tokens=tokens.kept.transpose(0, 1).contiguous(),
        maps=maps.kept.transpose(0, 1).contiguous(),
        num_images=num_images,
    )


def _entering(vit: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """The patch tokens (B, N, d) that enter each block; those of the first without position."""
    family = family_of(vit)
    yield family.patches(vit, images)
    following = islice(tokens_entering(vit, images), 1, None)
    yield from (tokens[:, family.num_prefix(vit) :] for tokens in following)
