"""The walk through the blocks of a frozen backbone, written once for all methods and families.

It asks the backbone's `Family` for the parts of each block and the method's `Tuning` at a few
places, so that nothing is computed that nobody reads:

* Ephemeral prompts (deep prompting) are thrown away after their block, so they act only as extra
  keys and values. These do not depend on the image: they are computed once per step and shared.
* The last block runs only for the tokens that the readout reads.
* Blocks in front of the first trained tensor are a constant of the image (`TunedViT.prefix`).

All of this is exact; `benchmarks/plain_form.py` has the plain definition that it must equal.
"""

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers.drop import drop_path
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods import pieces
from methods.attention import attend, project
from methods.families import family_of
from methods.families.family import Place
from methods.families.places import Places
from methods.method import Tuning, overrides

_UNTOUCHED = Tuning()
_INSIDE_PIECES = ("query_update", "value_update", "before_mlp", "after_mlp", "after_block")


class Walk(nn.Module):
    """A backbone and what a method adds to it, from the embedding to what the head reads."""

    def __init__(
        self, vit: nn.Module, tuning: Tuning, *, readout: str, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.checkpoint_blocks = False
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.compile_blocks = False
        """Fuse what is bound by memory, where the method leaves a block's inside as it is."""
        self.vit = vit
        self.tuning = tuning
        self.readout = readout
        self.family = family_of(vit)
        self.depth = len(self.family.blocks(vit))
        self._drop_path = torch.linspace(0, drop_path, self.depth).tolist()
        self._places = Places(self.family, vit, tuning.num_prompts)

    def blocks_from(self, start: int, tokens: Tensor) -> Tensor:
        """From the tokens (B, T, d) that enter block `start` those that the readout reads."""
        if self._can_fuse:
            return self._fused_blocks(start, tokens)
        memory = None
        for index in range(start, self.depth):
            if self.checkpoint_blocks and self.training:
                tokens, memory = checkpoint(self._step, index, tokens, memory, use_reentrant=False)
            else:
                tokens, memory = self._step(index, tokens, memory)
        return tokens

    def blocks_until(self, end: int, tokens: Tensor, *, start: int = 0) -> Tensor:
        """The tokens that leave the blocks in front of `end`, from those in front of `start`;
        nothing that a method adds is in between."""
        memory = None
        for index in range(start, end):
            tokens, memory = self._step(index, tokens, memory)
        return tokens

    def _insert(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Prompts (P, d) or (B, P, d) behind class token and registers."""
        prefix = self.family.num_prefix(self.vit)
        prompts = prompts.expand(tokens.shape[0], -1, -1).to(tokens.dtype)
        return torch.cat([tokens[:, :prefix], prompts, tokens[:, prefix:]], dim=1)

    def _step(self, index: int, tokens: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """One block; of the last one only the tokens that the readout reads."""
        family, block, tuning = self.family, self._block(index), self._tuning_of(index)
        tokens = self._entering(index, tokens)
        in_sequence = tuning.num_prompts if tuning.persistent else 0
        prompts = self._prompts_into(index, tokens)
        if prompts is not None and self._is_read_with_prompts(index):
            tokens, in_sequence, prompts = self._insert(tokens, prompts), tuning.num_prompts, None
        asking = self._asking(index, in_sequence)
        place = self._place(index, prompts, in_sequence, asking)
        normed = family.before_attention(block, tokens)

        def update(asking_normed: Tensor, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            if (of_queries := tuning.query_update(index, asking_normed)) is not None:
                q = q + of_queries
            if (of_values := tuning.value_update(index, normed)) is not None:
                v = v + of_values
            return q, v

        q, k, v = project(family, block, normed, asking, prompts, place, in_sequence, update)
        attended = self._attend(index, q, k, v, place, in_sequence)
        if (beside := tuning.beside_attention(index, attended)) is not None:
            attended = beside(attended, normed[:, asking])
        branch = family.scale_attention(block, attended)
        result = tokens[:, asking] + self._drop(index, branch)
        result = tuning.before_mlp(index, result)
        output = tuning.after_mlp(index, family.mlp(block, result))
        branch = family.scale_mlp(block, output)
        result = tuning.after_block(index, result + self._drop(index, branch))
        return self._edited(index, tokens, result, memory)

    def _fused_blocks(self, start: int, tokens: Tensor) -> Tensor:
        """The same for all blocks from `start` on, compiled from one attention to the next."""
        fused, memory, entered, place = pieces.compiled(), None, None, None
        for index in range(start, self.depth):
            block, tuning = self._block(index), self._tuning_of(index)
            if entered is None or place is None:
                if self._is_read_with_prompts(index):
                    return self._step(index, tokens, memory)[0]
                tokens = self._entering(index, tokens)
                entry = self._entry(index, tokens)
                place, entered = entry.place, fused.enter(self.family, block, tokens, entry)
            attended = self._attend(index, *entered.by_heads(), place)
            said = pieces.Said(attended, tuning.beside_attention(index, attended), entered.normed)
            if said.beside is not None and said.beside.draws:  # the same as when nothing is fused
                said = pieces.Said(said.beside(attended, entered.normed))
            if index == self.depth - 1:  # so few tokens that nothing is worth fusing
                return pieces.leave(self.family, block, entered.tokens, said)
            if self._is_open_behind(index):
                result = fused.leave(self.family, block, entered.tokens, said)
                tokens, memory = self._edited(index, entered.tokens, result, memory)
                entered = None
            else:
                entry = self._entry(index + 1, entered.tokens)
                following, place = self._block(index + 1), entry.place
                entered = fused.pass_on(self.family, block, entered.tokens, said, following, entry)
        return tokens

    @property
    def _can_fuse(self) -> bool:
        """Whether the method leaves the inside of the pieces as it is, and nothing is drawn there
        or computed twice."""
        return (
            self.compile_blocks
            and not self.checkpoint_blocks
            and not any(p.requires_grad for p in self.vit.parameters())
            and not (self.training and any(self._drop_path))
            and not any(overrides(self.tuning, hook) for hook in _INSIDE_PIECES)
        )

    def _is_open_behind(self, index: int) -> bool:
        """Whether the tokens between this block and the next are changed or read."""
        tuning, following = self._tuning_of(index), self._tuning_of(index + 1)
        is_edited = tuning.persistent and overrides(tuning, "between")
        begins = following.persistent and following.first_block == index + 1
        return (
            is_edited
            or begins
            or overrides(following, "prompts_from")
            or self._is_read_with_prompts(index + 1)
            or self.family.changes_before(self.vit, index + 1)
        )

    def _entry(self, index: int, tokens: Tensor) -> pieces.Entry:
        """What enters a block beside its tokens."""
        tuning = self._tuning_of(index)
        in_sequence = tuning.num_prompts if tuning.persistent else 0
        asking = self._asking(index, in_sequence)
        prompts = self._prompts_into(index, tokens)
        place = self._place(index, prompts, in_sequence, asking)
        return pieces.Entry(asking, prompts, place, overrides(tuning, "beside_attention"))

    def _entering(self, index: int, tokens: Tensor) -> Tensor:
        """The tokens that enter a block: behind what stands before it, and with prompts that
        stay in the sequence from here on."""
        tokens = self.family.enter(self.vit, index, tokens)
        if self.tuning.persistent and index == self.tuning.first_block:
            prompts = self.tuning.prompts_from(index, tokens)
            assert prompts is not None, "persistent prompts are asked for once, here"
            tokens = self._insert(tokens, prompts)
        return tokens

    def _tuning_of(self, index: int) -> Tuning:
        return self.tuning if self.tuning.touches(index) else _UNTOUCHED

    def _prompts_into(self, index: int, tokens: Tensor) -> Tensor | None:
        """Prompts that are thrown away behind the block."""
        tuning = self._tuning_of(index)
        return None if tuning.persistent else tuning.prompts_from(index, tokens)

    def _place(self, index: int, prompts: Tensor | None, in_sequence: int, asking: slice) -> Place:
        in_front = 0 if prompts is None else prompts.shape[-2]
        return self._places.of(
            self.vit, index, in_front=in_front, in_sequence=in_sequence, asking=asking
        )

    def _is_read_with_prompts(self, index: int) -> bool:
        """Whether this is the last block, and a readout reads its own prompts too."""
        is_last = index == self.depth - 1
        reads = self.readout in ("mean_no_cls", "prompt_pool")
        return is_last and reads and not self._tuning_of(index).persistent

    def _asking(self, index: int, in_sequence: int) -> slice:
        """Tokens whose queries are asked, where `in_sequence` prompts stand among them."""
        is_last = index == self.depth - 1
        return self.family.rows(self.vit, self.readout, in_sequence) if is_last else slice(None)

    def _edited(self, index: int, before: Tensor, after: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """The tokens that left block `index` with persistent prompts as the next one sees them."""
        tuning = self._tuning_of(index)
        if not tuning.persistent or index == self.depth - 1:
            return after, memory
        start = self.family.num_prefix(self.vit)
        end = start + tuning.num_prompts
        edited, memory = tuning.between(
            index, before[:, start:end], after[:, start:end], after[:, end:], memory
        )
        if edited is None:
            return after, memory
        return torch.cat([after[:, :start], edited, after[:, end:]], dim=1), memory

    def _attend(
        self, index: int, q: Tensor, k: Tensor, v: Tensor, place: Place, in_sequence: int = 0
    ) -> Tensor:
        temperature = self._tuning_of(index).temperature(index)
        family, block = self.family, self._block(index)
        mixed = attend(
            family, block, q, k, v, place.bias, temperature=temperature, in_sequence=in_sequence
        )
        return family.project(block, mixed)

    def _block(self, index: int) -> Any:
        return self.family.blocks(self.vit)[index]

    def _drop(self, index: int, branch: Tensor) -> Tensor:
        return drop_path(branch, self._drop_path[index], self.training)


@torch.no_grad()
def tokens_entering(
    vit: nn.Module, images: Tensor, tuning: Tuning = _UNTOUCHED, *, end: int | None = None
) -> Iterator[Tensor]:
    """The tokens (B, T, d) that enter each block in front of `end` (None: all): of the backbone as
    it is, or with the deep prompts of `tuning`."""
    family = family_of(vit)
    walk = Walk(vit, tuning, readout=family.readout(vit))
    end = walk.depth if end is None else end
    tokens = family.embed(vit, images)
    for index in range(end):
        yield family.enter(vit, index, tokens)
        if index < end - 1:
            tokens = walk.blocks_until(index + 1, tokens, start=index)
