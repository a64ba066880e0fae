"""Where tokens stand, for families whose attention asks: tables that no image changes, kept."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.families.family import NOWHERE, Family, Place, Position


class Places(nn.Module):
    """The `Position` of every block, made once, with room in front for prompts that have no place.

    Where the position itself learns, it is made anew in every pass.
    """

    def __init__(self, family: Family, vit: nn.Module, most: int) -> None:
        """`most`: prompts that a block has, at most."""
        super().__init__()
        self._family = family
        self._most = most
        self._num_prefix = family.num_prefix(vit)
        self._learns = any(weight.requires_grad for weight in family.position_weights(vit))
        if self._learns:
            return
        for index in range(len(family.blocks(vit))):
            position = _padded(family.position(vit, index), most)
            for kind, table in zip(Position._fields, position, strict=True):
                values = None if table is None else table.detach()
                self.register_buffer(f"{kind}_{index}", values, persistent=False)

    def of(
        self, vit: nn.Module, index: int, *, in_front: int, in_sequence: int, asking: slice
    ) -> Place:
        """For block `index`, where the tokens `asking` are asked.

        `in_front` prompts are keys and values only, `in_sequence` stand behind the prefix.
        """
        if self._learns:
            rotation, bias = _padded(self._family.position(vit, index), self._most)
        else:
            rotation = getattr(self, f"rotation_{index}")
            bias = getattr(self, f"bias_{index}")
        if rotation is None and bias is None:
            return NOWHERE
        most = self._most
        if (missing := in_front + in_sequence - most) > 0:  # of a method that did not say so
            rotation, bias = _padded(Position(rotation, bias), missing)
            most += missing
        of_queries = of_keys = None
        if rotation is not None:
            of_queries = rotation[..., most - in_sequence :, :][..., asking, :]
            of_keys = rotation[..., most - in_sequence - in_front :, :]
        if bias is not None and in_sequence:
            behind = F.pad(bias[..., most:], (in_front, 0))
            bias = _with_room(behind, self._num_prefix, in_front + self._num_prefix, in_sequence)
            bias = bias[..., asking, :]
        elif bias is not None:
            bias = bias[..., asking, most - in_front :]
        return Place(of_queries, of_keys, bias)


def _padded(position: Position, count: int) -> Position:
    """With `count` more in front that are asked: they are not rotated, and no score is changed."""
    rotation, bias = position
    if rotation is not None:
        half = rotation.shape[-1] // 2
        blank = rotation.new_zeros(*rotation.shape[:-2], count, half)
        rotation = torch.cat([torch.cat([blank, blank + 1], dim=-1), rotation], dim=-2)
    if bias is not None:
        bias = F.pad(bias, (count, 0))
    return Position(rotation, bias)


def _with_room(bias: Tensor, row: int, column: int, count: int) -> Tensor:
    """With `count` rows of zeros before `row`, and as many columns before `column`."""
    rows = bias.new_zeros(*bias.shape[:-2], count, bias.shape[-1])
    bias = torch.cat([bias[..., :row, :], rows, bias[..., row:, :]], dim=-2)
    columns = bias.new_zeros(*bias.shape[:-1], count)
    return torch.cat([bias[..., :column], columns, bias[..., column:]], dim=-1)


def unrotated(rotation: Tensor, count: int) -> Tensor:
    """The table ([heads,] N, 2c) of the patches behind `count` tokens that have no place."""
    table = _padded(Position(rotation), count).rotation
    assert table is not None
    return table
