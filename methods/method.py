"""What a method is: its hyper-parameters, and what it adds to the walk through a frozen ViT.

A method never copies the ViT. It hands over a `Tuning`: what it adds before, beside, inside and
after the blocks. The walk (`methods/walk.py`) asks it at a few places.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from methods.families import family_of
from methods.recipe import Recipe

Images = Any
"""What a method may look at before training: a batch of normalised images (B, 3, H, W), an
iterable of such batches, or what the method itself computed from them before."""


class Method(Protocol):
    """A frozen dataclass of hyper-parameters that says what it adds to a ViT and how it is trained.

    Its fields are the names that a search space may use beside those of the `Recipe`.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    title: ClassVar[str]
    """Title of the paper, or the name that it gives the method."""
    paper: ClassVar[str]
    """Address of the paper."""
    needs_images: ClassVar[bool] = False
    """Its initialisation looks at training images."""
    reconstruction: ClassVar[bool] = False
    """Neither code nor the full paper is public: built from what is known, not reproduced."""
    trains_backbone: ClassVar[bool] = False
    """The whole backbone learns and runs in training mode, with its own dropout if it has any."""

    same_each_step: ClassVar[bool] = False
    """Its pass is the same sequence of operations in every training step: nothing in Python counts
    steps, draws a number or looks at a value. Such a step can be recorded and replayed on a GPU.
    Each class says it for itself: it is not inherited."""
    learns_prompts: ClassVar[bool] = False
    """It learns prompt tokens: a report compares such methods with those that learn none."""
    published_as: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What papers call it in their tables, each name with the values that make it that one."""

    @property
    def length(self) -> int | None:
        """Prompt tokens per block; None where it learns none."""
        return None

    def recipe(self) -> Recipe:
        """How the authors train it, as far as it is known."""
        ...

    def tuning(self, vit: nn.Module, generator: torch.Generator, images: Images | None) -> "Tuning":
        """What it adds to the walk through `vit`, at its initial values.

        `vit` is the one that is walked: its blocks may be kept and used (in a tuple, so that they
        are no part of what is tuned), wherever it is moved.
        """
        ...

    def look_at(self, vit: nn.Module, images: Images) -> Images:
        """What it keeps of training images for `tuning`: the same for all its configurations.

        A caller with many configurations on one task calls it once and hands its result to `tune`.
        """
        return images

    def without_images(self) -> "Method":
        """The same tensors with an initialisation that looks at no images, to load values into."""
        return self

    def check_room(self, vit: nn.Module) -> None:
        """ValueError where the start that `without_images` replaces has no room in the backbone."""

    def trained_weights(self, vit: nn.Module) -> Iterable[nn.Parameter]:
        """The weights of the backbone itself that it trains."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """One number per block of what a method has learnt, for `orchestrator explain` to draw."""

    title: str
    text: str
    """What the numbers mean, in a sentence or two."""
    name: str
    """What the numbers are, written at their axis."""
    values: Sequence[float]
    """From the first block on."""


class Beside(NamedTuple):
    """What a method puts beside the attention of a block, in a form that torch.compile can fuse
    with what follows: compiled once for all blocks and numbers of prompts.
    """

    join: Callable[..., Tensor]
    """A function at module level of the projected attention output and the normed tokens, (B, T, d)
    each, for the tokens that ask in this block, and of `given`: what is added to the tokens
    instead of the first."""
    given: tuple[Any, ...]
    """Tensors, and what else it reads, for each value of which it is compiled anew; so it is for
    each shape of a Parameter, but not of what is computed from one."""
    draws: bool = False
    """Whether numbers are drawn at random in this pass: it is run as it is, to draw the same."""

    def __call__(self, attended: Tensor, normed: Tensor | None) -> Tensor:
        return self.join(attended, normed, *self.given)


class Tuning(nn.Module):
    """What a method adds to the walk. Each hook does nothing until a method overrides it."""

    num_prompts: int = 0
    """Prompt tokens per block, for a readout that reads them."""
    persistent: bool = False
    """The prompts live in the sequence from the first block to the end."""

    def __init__(self, *, first_block: int = 0, last_block: int | None = None) -> None:
        super().__init__()
        self.first_block = first_block
        """Blocks before this one run as they are: a constant of the image."""
        self.last_block = last_block
        """Blocks behind this one run as they are, too; None: there are none."""

    def touches(self, index: int) -> bool:
        """Whether the method does anything in block `index`: its hooks are asked there alone."""
        return self.first_block <= index and (self.last_block is None or index <= self.last_block)

    def begin(self) -> None:
        """Called at the start of every forward pass."""

    def portraits(self) -> Sequence[Portrait]:
        """What of its values says something by itself, for `orchestrator explain`."""
        return ()

    def own_prompts(self) -> Tensor | None:
        """Prompts (blocks, P, d) as they enter the blocks that have some of their own, where they
        stand among the patches and can be compared with them."""
        return None

    def prompts(self, index: int, batch_size: int) -> Tensor | None:
        """Prompts that enter block `index`: (P, d) for all images, or (B, P, d).

        Asked once, at the first block, where they are persistent; otherwise at every block.
        """
        return None

    def prompts_from(self, index: int, tokens: Tensor) -> Tensor | None:
        """The same for a method whose prompts depend on the tokens (B, T, d) that enter the block,
        class token and registers in front."""
        return self.prompts(index, tokens.shape[0])

    def temperature(self, index: int) -> Tensor | float | None:
        """Divides the attention scores of the block."""
        return None

    def query_update(self, index: int, normed: Tensor) -> Tensor | None:
        """Added to the queries of the normed tokens (B, T, d)."""
        return None

    def value_update(self, index: int, normed: Tensor) -> Tensor | None:
        """Added to the values of the normed tokens (B, T, d)."""
        return None

    def beside_attention(self, index: int, attended: Tensor) -> Beside | None:
        """What is joined to the projected attention output (B, T, d) of the block."""
        return None

    def before_mlp(self, index: int, tokens: Tensor) -> Tensor:
        """From the tokens (B, T, d) behind the attention, those that the rest of the block gets."""
        return tokens

    def after_mlp(self, index: int, output: Tensor) -> Tensor:
        """From the output of the MLP (B, T, d), what is added to the tokens."""
        return output

    def after_block(self, index: int, tokens: Tensor) -> Tensor:
        """From the tokens (B, T, d) that leave the block, those that leave it with the method."""
        return tokens

    def between(
        self, index: int, before: Tensor, after: Tensor, patches: Tensor, memory: Any
    ) -> tuple[Tensor | None, Any]:
        """Persistent prompts as the next block shall see them (None: as they are), and a memory.

        `before` and `after` are the prompt rows (B, P, d) that entered and left block `index`,
        `patches` the patch rows (B, N, d) that left it. The memory starts as None.
        """
        return None, None


def overrides(tuning: Tuning, hook: str) -> bool:
    """Whether the method does something at this place of the walk."""
    return getattr(type(tuning), hook) is not getattr(Tuning, hook)


def is_same_each_step(method: Method) -> bool:
    """Whether the method's own class says so: what inherits from it may do more."""
    return bool(vars(type(method)).get("same_each_step", False))


def batches_of(vit: nn.Module, images: Images) -> Iterator[Tensor]:
    """Normalised batches (B, 3, H, W) of what a method was given, one batch or many, as and where
    the weights of `vit` are."""
    weight = family_of(vit).first_weight(vit)
    for batch in [images] if isinstance(images, Tensor) else images:
        yield batch.to(weight)


def tuned_dtype(vit: nn.Module) -> torch.dtype:
    """Type of what is trained: as the backbone, but never below float32."""
    return torch.promote_types(family_of(vit).first_weight(vit).dtype, torch.float32)


def blank_linear(
    in_features: int, out_features: int, *, dtype: torch.dtype, bias: bool = True
) -> nn.Linear:
    """A layer without values, made without the global random generator."""
    layer = nn.utils.skip_init(nn.Linear, in_features, out_features, bias=bias, dtype=dtype)
    assert isinstance(layer, nn.Linear)
    return layer
